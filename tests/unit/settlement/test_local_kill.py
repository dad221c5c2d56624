"""`kill -9` of a process that pays and is paid: whatever a call returned for is in the ledgers afterwards, and they agree."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cocoon_p2p.ids import JobId
from cocoon_p2p.limits import LOCAL_GRANT_NANOGRAM
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement

ALICE, BOB, KEY = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
JOB = 1000

CHILD = """
import os, sys
from pathlib import Path
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement

alice, bob, key = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
folder = Path(sys.argv[1])

async def pay(payer, payee):
    while True:
        job = os.urandom(16)
        def done(step):
            os.write(1, f"{step} {job.hex()}\\n".encode())
        payment = await payer.reserve(bob.peer_id, job, 1000)
        done("reserved")
        await payee.accept_payment(alice.peer_id, job, payment, 1000)
        done("accepted")
        await payee.earned(job, 900)
        done("earned")
        await payer.paid(job, 900)
        done("paid")

with open_local_settlement(folder / "alice.db", alice, key) as payer:
    with open_local_settlement(folder / "bob.db", bob, key) as payee:
        pay(payer, payee).send(None)
"""


def killed_while_paying(folder: Path, lines: int) -> list[tuple[str, JobId]]:
    """What the child had reported when it was killed after about so many lines."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reported = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        reported += child.stdout.readlines()
    assert all(line.endswith(b"\n") for line in reported)
    return [(step, JobId(bytes.fromhex(job))) for step, job in (line.decode().split() for line in reported)]


async def check(payer: LocalSettlement, payee: LocalSettlement, reported: list[tuple[str, JobId]]) -> None:
    steps: dict[JobId, str] = {job: step for step, job in reported}
    finished = sum(step == "paid" for step in steps.values())
    earned = sum(step in ("paid", "earned") for step in steps.values())
    (owes,), (owed,) = await payer.channels(), await payee.channels()
    # the step after the last one reported may or may not have reached the disk
    assert owes.earned in (900 * finished, 900 * (finished + 1))
    assert owed.earned in (900 * earned, 900 * (earned + 1))
    assert owed.earned + owed.reserved <= owed.cumulative <= owes.cumulative <= owes.deposit
    assert owed.earned <= owes.earned + owes.reserved
    open_at_payee = {each.job_id for each in await payee.open_reservations()}
    open_at_payer = {each.job_id for each in await payer.open_reservations()}
    for job, step in steps.items():
        if step == "paid":
            assert job not in open_at_payer | open_at_payee
            await payer.paid(job, 900)  # the same again is no error, so it was written
        if step == "earned":
            await payee.earned(job, 900)
        if job in open_at_payer:
            await payer.end_reservation(job, "unknown")
        if job in open_at_payee:
            await payee.release(job)
    balance = await payer.balance()
    assert balance.available + balance.deposited + balance.spent == LOCAL_GRANT_NANOGRAM


async def history(folder: Path, seed: int) -> None:
    rng = random.Random(seed)
    total: list[tuple[str, JobId]] = killed_while_paying(folder, rng.randrange(1, 400))
    with (
        open_local_settlement(folder / "alice.db", ALICE, KEY) as payer,
        open_local_settlement(folder / "bob.db", BOB, KEY) as payee,
    ):
        await check(payer, payee, total)
        job = JobId(os.urandom(16))
        await payee.accept_payment(ALICE.peer_id, job, await payer.reserve(BOB.peer_id, job, JOB), JOB)


async def test_kill(tmp_path: Path) -> None:
    await history(tmp_path, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 14))
async def test_kill_at_many_points(tmp_path: Path, seed: int) -> None:
    await history(tmp_path, seed)
