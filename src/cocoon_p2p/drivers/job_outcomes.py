"""What became of jobs that ended here without a receipt: whether their price is owed, and what the provider's late word
(a RECEIPT, a FAILURE) does to the money. The rules are the second table of `proto.job_client`."""

from __future__ import annotations

import logging
from collections import OrderedDict

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.errors import SettlementError, one_line
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.proto.job_answers import Owed, check_receipt, check_stray_receipt, decode_owed
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import JobRecord, JobState, ReceiptRecord, Store
from cocoon_p2p.wire.job import Cancel, FailureCode, Receipt, ReceiptAck, ReceiptBody

log = logging.getLogger(__name__)


class JobOutcomes:
    """Of all providers. Memory knows exactly; the list of jobs on disk serves for what was before this run of the node."""

    def __init__(self, identity: IdentityKey, settlement: Settlement, store: Store, clock: Clock) -> None:
        self._identity = identity
        self._settlement = settlement
        self._store = store
        self._clock = clock
        self._open: OrderedDict[tuple[PeerId, JobId], Owed | None] = OrderedDict()

    def left_open(self, provider: PeerId, job_id: JobId, owed: Owed | None) -> None:
        """A job that was paid for ended here without a receipt; `owed` is None where its whole output is not here, and nothing of it
        was acknowledged."""
        self._open[provider, job_id] = owed
        if len(self._open) > limits.JOBS_UNSETTLED_MAX:
            self._open.popitem(last=False)

    def is_owed(self, provider: PeerId, job_id: JobId) -> bool:
        """Whether its whole output is here, so that it must not be cancelled."""
        owed = self._open.get((provider, job_id))
        return owed is not None and not owed.marks

    def ask_about(self, provider: PeerId, job_id: JobId) -> None:
        """A job of an earlier stream: what its provider says of it now counts. Of an answer that came piece by piece the part is
        owed that was acknowledged."""
        self.left_open(provider, job_id, self._open.get((provider, job_id)) or self._acknowledged(provider, job_id))

    def _acknowledged(self, provider: PeerId, job_id: JobId) -> Owed | None:
        kept = self._store.stream_marks.get(job_id, provider)
        return None if kept is None else decode_owed(kept)

    async def on_receipt(self, provider: PeerId, message: Receipt) -> ReceiptAck | Cancel | None:
        """A receipt for a job that is over here; what to answer. Raises RemoteProtocolError for one that is forged, or
        does not say what passed."""
        # SPEC job/1 §3.8
        receipt, body = check_stray_receipt(self._identity, provider, message)
        job = self._store.jobs.get(body.job_id, "client", peer=provider)
        key = (provider, body.job_id)
        owed = self._open.get(key)
        if owed is None and (job is None or job.state != "running"):
            owed = self._acknowledged(provider, body.job_id)
        if owed is not None:
            check_receipt(body, owed)
        elif key not in self._open:
            if job is None or job.peer_id != provider:
                log.warning("provider %s sent a receipt for a job that we never gave it", provider)
                return None
            if job.state == "running":
                return None  # how it ended is being written down: the next stream brings the receipt again
        if owed is None and (key in self._open or job is None or job.state != "done"):
            return Cancel(body.job_id)
        if not await self._pay(provider, receipt, body, job):
            return None
        self._open.pop(key, None)
        self._store.stream_marks.remove(body.job_id, provider)
        return ReceiptAck(body.job_id, receipt.client_signature)

    async def _pay(self, provider: PeerId, receipt: Receipt, body: ReceiptBody, job: JobRecord | None) -> bool:
        """Whether our own books agree. The same receipt again changes nothing; another one of the same job is not signed."""
        kept = self._store.receipts.by_job(body.job_id, role="client", peer=provider)
        if kept is not None and kept.body != receipt.body:
            log.warning("provider %s sent a second, other receipt of one job", provider)
            return False
        try:
            await self._settlement.paid(body.job_id, body.price, payee=provider)
        except SettlementError as error:
            log.warning("provider %s sent a receipt that our own books contradict: %s", provider, one_line(error))
            return False
        keep_receipt(self._store, receipt, body)
        if job is not None and job.state == "done" and job.price != body.price:
            self._finish(job, "done", price=body.price, items=body.items)
        elif job is not None and job.state == "unknown":  # a part of an answer
            self._finish(job, "failed", price=body.price, items=body.items)
        return True

    async def on_failure(self, provider: PeerId, job_id: JobId, code: FailureCode) -> None:
        """The answer to our CANCEL, or what crossed it: the provider has earned nothing."""
        # SPEC job/1 §3.9
        key = (provider, job_id)
        if key not in self._open:
            return  # never paid for, or over
        owed = self._open[key]
        if owed is not None and not (owed.marks and code is FailureCode.CANCELLED):
            return  # its answer is here, and owed whatever the provider says; or a part of it, and the receipt follows
        del self._open[key]
        self._store.stream_marks.remove(job_id, provider)
        await self._settlement.end_reservation(job_id, "cancelled", payee=provider)
        job = self._store.jobs.get(job_id, "client", peer=provider)
        if job is None or job.peer_id != provider:
            return
        if job.state == "unknown":
            self._finish(job, "failed")
        elif job.state == "done":  # with a receipt that could not be signed
            self._finish(job, "done")

    def _finish(self, job: JobRecord, state: JobState, *, price: int = 0, items: int | None = None) -> None:
        self._store.jobs.finish(
            job.job_id,
            "client",
            state,
            finished_at_ms=job.finished_at_ms or unix_ms(self._clock),
            price=price,
            items=items,
            error=job.error,
            peer=job.peer_id,
        )


def keep_receipt(store: Store, receipt: Receipt, body: ReceiptBody) -> None:
    """Write a verified receipt to disk, in the client's role."""
    store.receipts.put(
        ReceiptRecord(
            job_id=body.job_id,
            role="client",
            peer_id=body.provider,
            model_id=body.model_id,
            price=body.price,
            items=body.items,
            finished_at_ms=body.finished_at_ms,
            body=receipt.body,
            provider_signature=receipt.provider_signature,
            client_signature=receipt.client_signature,
        )
    )
