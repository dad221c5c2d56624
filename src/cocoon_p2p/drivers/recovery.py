"""After a crash: what was begun and not ended, brought to an end from what is on disk.

Receipts and payments stand in two files, so a `kill -9` can fall between them. Whichever came first, the other follows
from it here; every step may be repeated.
"""

from __future__ import annotations

import logging

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import JobRecord, JobRole, JobState, ReceiptRecord, Store
from cocoon_p2p.wire.job import decode_receipt_body

log = logging.getLogger(__name__)


async def recover(store: Store, settlement: Settlement, clock: Clock) -> int:
    """Ends open reservations and unfinished jobs; how many there were. To be called before the first job."""
    ended = 0
    for held in await settlement.open_reservations():
        role: JobRole = "provider" if held.role == "payee" else "client"
        receipt = store.receipts.by_job(held.job_id, role=role, peer=held.other)
        if held.role == "payee" and receipt is not None:
            await settlement.earned(held.job_id, receipt.price, payer=held.other)
            _note_earned(store, receipt)
        elif held.role == "payee":
            await settlement.release(held.job_id, payer=held.other)
        elif receipt is not None:
            await settlement.paid(held.job_id, receipt.price, payee=held.other)
        else:
            await settlement.end_reservation(held.job_id, "unknown", payee=held.other)
        ended += 1
    for job in store.jobs.unfinished():
        await _end(job, store, settlement, clock)
        ended += 1
    if ended:
        log.info("%d jobs and payments of an earlier run were brought to an end", ended)
    return ended


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
    receipt = store.receipts.by_job(job.job_id, role=job.role, peer=job.peer_id)
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
