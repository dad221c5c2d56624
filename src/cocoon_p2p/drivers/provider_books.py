"""What a provider writes down of its jobs: how they ended, receipts, earnings, and what it gives back.

Receipts and the list of jobs stand in one file, the ledger in another. Each step is written so that a `kill -9` after it
leaves a story that `drivers.recovery` can finish: a receipt comes before its earning, and goes before its refund, while the
list of jobs has the job as one that has not ended.
"""

from __future__ import annotations

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.policy.late_cancels import CANCELLED_LATE, EndedJob
from cocoon_p2p.proto.job_effects import Closed
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import JobRecord, ReceiptRecord, Store
from cocoon_p2p.wire.job import Receipt, ReceiptBody, decode_receipt_body


class ProviderBooks:
    """Shared by all sessions of a provider: a client may ask on one stream about a job of another."""

    def __init__(self, store: Store, settlement: Settlement, desk: ProviderDesk, clock: Clock) -> None:
        self._store = store
        self._settlement = settlement
        self._desk = desk
        self._clock = clock
        self._earning: dict[tuple[PeerId, JobId], trio.Event] = {}

    def unsigned_receipts(self, client: PeerId) -> list[Receipt]:
        """As they are sent again, oldest first."""
        kept = self._store.receipts.unacknowledged(client, limits.RECEIPTS_RESENT_MAX)
        return [Receipt(each.job_id, each.body, each.provider_signature, b"") for each in kept]

    def recall(self, client: PeerId) -> None:
        """What this client paid and threw away lately, if it is not in memory."""
        late_cancels = self._desk.late_cancels
        if late_cancels.knows(client):
            return
        unsigned = {
            each.job_id: EndedJob(each.job_id, each.finished_at_ms, paid=max(1, each.price))
            for each in self._store.receipts.unsigned(client, limits.RECEIPTS_UNSIGNED_MAX)
            if not decode_receipt_body(
                each.body
            ).frames  # what was acknowledged of an answer in frames is owed as it is
        }
        ended = [
            EndedJob(job.job_id, job.at_ms, paid=job.price if job.wasted else max(1, job.price), wasted=job.wasted)
            for job in self._store.jobs.work_done(client, limits.LATE_JOBS_RECALLED)
            if job.job_id not in unsigned
        ]
        late_cancels.remember(client, ended, list(unsigned.values()))

    async def earn(self, receipt: Receipt, body: ReceiptBody, created_at_ms: int) -> None:
        """The output is out: the receipt and what it earned, on disk before the receipt is sent."""
        key = body.client, body.job_id
        written = self._earning[key] = trio.Event()
        try:
            with trio.CancelScope(shield=True):
                with self._store.transaction():
                    self._store.receipts.put(_receipt_record(receipt, body))
                    self._put(self._record(body, created_at_ms))
                if body.frames:  # acknowledged already
                    paid = EndedJob(body.job_id, body.finished_at_ms, paid=max(1, body.price))
                    self._desk.late_cancels.note(body.client, paid)
                else:
                    self._desk.late_cancels.earned(body.client, body.job_id, body.finished_at_ms, body.price)
                await self._settlement.earned(body.job_id, body.price, payer=body.client)
        finally:
            del self._earning[key]
            written.set()

    def keep(self, receipt: Receipt, body: ReceiptBody) -> None:
        """So much of an answer is owed now, whatever comes: the receipt, on disk, in place of the one before."""
        self._store.receipts.replace(_receipt_record(receipt, body))

    def unsigned_stream(self, client: PeerId, job_id: JobId) -> Receipt | None:
        """The receipt of an answer in frames that this client has not signed: what it acknowledged is not given back."""
        # SPEC job/1 §3.9
        kept = self._store.receipts.by_job(job_id, role="provider", peer=client)
        if kept is None or kept.client_signature or not decode_receipt_body(kept.body).frames:
            return None
        return Receipt(job_id, kept.body, kept.provider_signature, b"")

    async def give_back(self, client: PeerId, job_id: JobId) -> bool:
        """Take back what was earned with a job whose receipt this client has not signed. Whether nothing is earned now:
        False only when it did sign."""
        # SPEC job/1 §3.9
        while (written := self._earning.get((client, job_id))) is not None:
            await written.wait()
        kept = self._store.receipts.by_job(job_id, role="provider", peer=client)
        if kept is None:
            return True
        if kept.client_signature:
            return False
        with trio.CancelScope(shield=True):
            now_ms, wasted = unix_ms(self._clock), max(1, kept.price)
            record = self._record(decode_receipt_body(kept.body), kept.finished_at_ms, error=CANCELLED_LATE)
            with self._store.transaction():
                self._store.receipts.take_back(job_id, client)
                self._put(record)
                self._store.jobs.note_wasted(job_id, client, wasted)
            await self._settlement.refund(job_id, payer=client)
            self._store.jobs.finish(
                job_id, "provider", "failed", finished_at_ms=now_ms, error=CANCELLED_LATE, peer=client
            )
        self._desk.late_cancels.note(client, EndedJob(job_id, now_ms, wasted=wasted))
        return True

    def signed(self, client: PeerId, job_id: JobId, signature: bytes) -> None:
        self._store.receipts.acknowledge(job_id, signature, peer=client)
        self._desk.late_cancels.signed(client, job_id)

    def ended(self, closed: Closed, created_at_ms: int) -> None:
        """An accepted job ended. One that is done stands in the books already, with what it earned."""
        if closed.error is None:
            return
        now_ms = unix_ms(self._clock)
        if closed.wasted:  # what ended before any work was done cost nobody anything, and hides nothing
            self._desk.late_cancels.note(closed.client, EndedJob(closed.job_id, now_ms, wasted=closed.wasted))
        with self._store.transaction():
            if not closed.earned:  # else it is a part of an answer, and stands in the books with what that earned
                self._put(self._failed(closed, created_at_ms, now_ms))
            if closed.wasted:
                self._store.jobs.note_wasted(closed.job_id, closed.client, closed.wasted)

    def _failed(self, closed: Closed, created_at_ms: int, now_ms: int) -> JobRecord:
        return JobRecord(
            job_id=closed.job_id,
            role="provider",
            model_id=closed.model_id,
            model_name=self._model_name(closed.model_id),
            peer_id=closed.client,
            tier=closed.tier,
            state="failed",
            price=0,
            items=closed.items,
            created_at_ms=created_at_ms,
            finished_at_ms=now_ms,
            error=closed.error or "",
        )

    def _record(self, body: ReceiptBody, created_at_ms: int, *, error: str = "") -> JobRecord:
        """Of a job that is done; or, with an `error`, of one that is being given back and so has not ended."""
        return JobRecord(
            job_id=body.job_id,
            role="provider",
            model_id=body.model_id,
            model_name=self._model_name(body.model_id),
            peer_id=body.client,
            tier=body.tier,
            state="failed" if error else "done",
            price=0 if error else body.price,
            items=body.items,
            created_at_ms=created_at_ms,
            finished_at_ms=None if error else body.finished_at_ms,
            error=error,
        )

    def _put(self, record: JobRecord) -> None:
        """A job that failed may have come again, and one that was done may end otherwise: the last end counts."""
        if not self._store.jobs.insert(record):
            self._store.jobs.finish(
                record.job_id,
                record.role,
                record.state,
                finished_at_ms=record.finished_at_ms,
                price=record.price,
                items=record.items,
                error=record.error,
                peer=record.peer_id,
            )

    def _model_name(self, model_id: ModelId) -> str:
        model = self._desk.models.get(model_id)
        return model.name if model else ""


def _receipt_record(receipt: Receipt, body: ReceiptBody) -> ReceiptRecord:
    return ReceiptRecord(
        job_id=body.job_id,
        role="provider",
        peer_id=body.client,
        model_id=body.model_id,
        price=body.price,
        items=body.items,
        finished_at_ms=body.finished_at_ms,
        body=receipt.body,
        provider_signature=receipt.provider_signature,
    )
