"""After a crash: what was begun and not ended, brought to an end from what is on disk.

Receipts and payments stand in two files, so a `kill -9` can fall between them. Whichever came first, the other follows
from it here; every step may be repeated.
"""

from __future__ import annotations

import logging

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.settlement.port import Settlement
from cocoon_p2p.store import Store

log = logging.getLogger(__name__)


async def recover(store: Store, settlement: Settlement, clock: Clock) -> int:
    """Ends open reservations and unfinished jobs; how many there were. To be called before the first job."""
    ended = 0
    for job_id, role in await settlement.open_reservations():
        receipt = store.receipts.by_job(job_id, role="provider" if role == "payee" else "client")
        if role == "payee" and receipt is not None:
            await settlement.earned(job_id, receipt.price)
        elif role == "payee":
            await settlement.release(job_id)
        elif receipt is not None:
            await settlement.paid(job_id, receipt.price)
        else:
            await settlement.end_reservation(job_id, "unknown")
        ended += 1
    for job in store.jobs.unfinished():
        receipt = store.receipts.by_job(job.job_id, role=job.role)
        store.jobs.finish(
            job.job_id,
            job.role,
            "unknown" if receipt is None else "done",
            finished_at_ms=unix_ms(clock),
            price=job.price if receipt is None else receipt.price,
            error="the node stopped before the job ended" if receipt is None else "",
        )
        ended += 1
    if ended:
        log.info("%d jobs and payments of an earlier run were brought to an end", ended)
    return ended
