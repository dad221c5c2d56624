"""`kill -9` of a provider that earns and gives back: afterwards receipts, ledger and list of jobs tell one story, and nothing
that was answered with FAILURE(CANCELLED) is earned, or would be sent as a receipt again."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.recovery import recover
from cocoon_p2p.ids import JobId
from cocoon_p2p.policy.late_cancels import CANCELLED_LATE
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.store import open_store

PROVIDER, CLIENT, KEY = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))

CHILD = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import trio
from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.provider_books import ProviderBooks
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.policy.late_cancels import LateCancels
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.store import open_store
from cocoon_p2p.wire.job import Receipt, ReceiptBody

provider, client, key = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
folder = Path(sys.argv[1])

async def work():
    with (
        open_local_settlement(folder / "client.db", client, key) as payer,
        open_local_settlement(folder / "ledger.db", provider, key) as payee,
        open_store(folder / "state.db") as store,
    ):
        desk = SimpleNamespace(late_cancels=LateCancels(), models={})
        books = ProviderBooks(store, payee, desk, SystemClock())
        number = 0
        while True:
            number += 1
            job = os.urandom(16)
            def done(step):
                os.write(1, f"{step} {job.hex()}\\n".encode())
            payment = await payer.reserve(provider.peer_id, job, 1000)
            await payee.accept_payment(client.peer_id, job, payment, 1000)
            done("accepted")
            body = ReceiptBody(provider.peer_id, client.peer_id, job, ModelId("ab" * 32), Tier.OPEN, bytes(32), 900, 1,
                               bytes(32), bytes(32), 0, 0, 1)
            await books.earn(Receipt(job, body.encode(), bytes(64), b""), body, 1)
            done("earned")
            if number % 3:
                done("cancelling")
                assert await books.give_back(client.peer_id, job)
                await payer.end_reservation(job, "cancelled")
                done("cancelled")

trio.run(work)
"""


def killed_while_working(folder: Path, lines: int) -> dict[JobId, str]:
    """The last step that the child had reported of each job when it was killed, after about so many lines."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reported = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        reported += child.stdout.readlines()
    words = (line.decode().split() for line in reported)
    return {JobId(bytes.fromhex(job)): step for step, job in words}


async def check(folder: Path, steps: dict[JobId, str]) -> None:
    with (
        open_local_settlement(folder / "ledger.db", PROVIDER, KEY) as payee,
        open_store(folder / "state.db") as store,
    ):
        assert await recover(store, payee, SystemClock()) <= 1, "one job at a time"
        kept = {receipt.job_id for receipt in store.receipts.unacknowledged(CLIENT.peer_id, 10_000)}
        assert (await payee.balance()).earned == 900 * len(kept)
        assert await payee.open_reservations() == ()
        assert store.jobs.unfinished() == ()
        for job_id, step in steps.items():
            job = store.jobs.get(job_id, "provider")
            assert (job_id in kept) is (job is not None and job.state == "done")
            if step == "earned":
                assert job_id in kept
            if step == "cancelled":
                assert job is not None
                assert (job.state, job.price, job.error) == ("failed", 0, CANCELLED_LATE)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 12))])
async def test_kill(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    steps: dict[JobId, str] = {}
    for _ in range(2):
        steps |= killed_while_working(tmp_path, rng.randrange(4, 300))
        await check(tmp_path, steps)
