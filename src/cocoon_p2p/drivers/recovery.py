"""After a crash: what was begun and not ended, brought to an end from what is on disk.

Receipts and payments stand in two files, so a `kill -9` can fall between them. Whichever came first, the other follows
from it here; every step may be repeated. What nobody can read is set aside first, and then counts as not there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.errors import RemoteProtocolError, SettlementError, StoreError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import RECEIPTS_CHECKED_MAX
from cocoon_p2p.proto.job_answers import decode_owed
from cocoon_p2p.settlement.port import OpenReservation, Settlement
from cocoon_p2p.store import JobRecord, JobRole, JobState, ReceiptRecord, Store
from cocoon_p2p.store.database import NO_ANSWER
from cocoon_p2p.wire.job import decode_receipt_body

log = logging.getLogger(__name__)


async def recover(store: Store, settlement: Settlement, clock: Clock) -> int:
    """Ends open reservations and unfinished jobs; how many there were. To be called before the first job. Raises StoreError and
    SettlementError when a database does not answer."""
    now_ms = unix_ms(clock)
    _set_damaged_aside(store, now_ms)
    ended = 0
    for held in await settlement.open_reservations():
        with _one_of_many(held.job_id):
            await _end_reservation(held, store, settlement, now_ms)
            ended += 1
    for job in store.jobs.unfinished():
        with _one_of_many(job.job_id):
            await _end(job, store, settlement, clock)
            ended += 1
    if ended:
        log.info("%d jobs and payments of an earlier run were brought to an end", ended)
    return ended


@contextmanager
def _one_of_many(job_id: JobId) -> Iterator[None]:
    """What the books say of one job may fit nothing else that they say: that job stays as it is, and the others go on."""
    try:
        yield
    except (SettlementError, StoreError) as error:
        if error.code == NO_ANSWER:  # every job would fail so
            raise
        log.error("job %s of an earlier run could not be brought to an end: %s", job_id.hex(), error)


async def _end_reservation(held: OpenReservation, store: Store, settlement: Settlement, now_ms: int) -> None:
    role: JobRole = "provider" if held.role == "payee" else "client"
    receipt = _receipt(held.job_id, role, held.other, store, now_ms)
    if held.role == "payee" and receipt is not None:
        await settlement.earned(held.job_id, receipt.price, payer=held.other)
        _note_earned(store, receipt)
    elif held.role == "payee":
        await settlement.release(held.job_id, payer=held.other)
    elif receipt is not None:
        await settlement.paid(held.job_id, receipt.price, payee=held.other)
    else:
        await settlement.end_reservation(held.job_id, "unknown", payee=held.other)


# --- what nobody can read --------------------------------------------------------------------------------------------


def _set_damaged_aside(store: Store, now_ms: int) -> None:
    """Before anything is read that a running node reads of all rows, or decodes."""
    found = store.damaged.find(at_ms=now_ms)
    for receipt in store.receipts.unsigned_of_all(RECEIPTS_CHECKED_MAX):
        if _is_damaged(receipt):
            _set_aside("receipts", receipt.job_id, receipt.peer_id, store, now_ms, role=receipt.role)
    for job_id, provider, owed in store.stream_marks.all():
        try:
            decode_owed(owed)
        except RemoteProtocolError:
            _set_aside("stream_marks", job_id, provider, store, now_ms)
    for table, count in found.items():
        log.error("%d damaged rows of %s were set aside (table damaged_rows)", count, table)


def _receipt(job_id: JobId, role: JobRole, peer: PeerId, store: Store, now_ms: int) -> ReceiptRecord | None:
    """None where there is none that can be read."""
    receipt = store.receipts.by_job(job_id, role=role, peer=peer)
    if receipt is None or not _is_damaged(receipt):
        return receipt
    _set_aside("receipts", job_id, peer, store, now_ms, role=role)
    return None


def _is_damaged(receipt: ReceiptRecord) -> bool:
    """Whether its columns do not repeat what was signed."""
    try:
        body = decode_receipt_body(receipt.body)
    except RemoteProtocolError:
        return True
    other = body.client if receipt.role == "provider" else body.provider
    return (body.job_id, other, body.price) != (receipt.job_id, receipt.peer_id, receipt.price)


def _set_aside(table: str, job_id: JobId, peer: PeerId, store: Store, now_ms: int, *, role: str = "") -> None:
    where = "job_id=? AND peer_id=?" + (" AND role=?" if role else "")
    store.damaged.set_aside(table, where, (job_id, peer, role) if role else (job_id, peer), at_ms=now_ms)
    log.error("a damaged row of %s about job %s was set aside (table damaged_rows)", table, job_id.hex())


# --- what is brought to an end ---------------------------------------------------------------------------------------


def _note_earned(store: Store, receipt: ReceiptRecord) -> None:
    """Of an answer that came piece by piece, and was broken off: each piece has its receipt before the job has an end."""
    if store.jobs.get(receipt.job_id, "provider", peer=receipt.peer_id) is not None:
        return
    store.jobs.insert(
        JobRecord(
            job_id=receipt.job_id,
            role="provider",
            model_id=receipt.model_id,
            model_name="",
            peer_id=receipt.peer_id,
            tier=decode_receipt_body(receipt.body).tier,
            state="done",
            price=receipt.price,
            items=receipt.items,
            created_at_ms=receipt.finished_at_ms,
            finished_at_ms=receipt.finished_at_ms,
            error="",
        )
    )


async def _end(job: JobRecord, store: Store, settlement: Settlement, clock: Clock) -> None:
    state: JobState
    receipt = _receipt(job.job_id, job.role, job.peer_id, store, unix_ms(clock))
    if job.role == "provider" and receipt is None:  # its receipt was taken back, and then came the end
        await settlement.refund(job.job_id, payer=job.peer_id)
        state, price, error = "failed", 0, job.error
    elif receipt is None:
        state, price, error = "unknown", job.price, "the node stopped before the job ended"
    else:
        state, price, error = "done", receipt.price, ""
    store.jobs.finish(
        job.job_id,
        job.role,
        state,
        finished_at_ms=unix_ms(clock),
        price=price,
        error=error,
        peer=job.peer_id,
    )
