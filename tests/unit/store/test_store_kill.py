"""`kill -9` of a process that writes, and logs that end in the middle of a write: every receipt that `put` returned for is
there afterwards, in order, in a database that is whole."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.store import ReceiptRecord, open_store

CHILD = """
import os, sys
from pathlib import Path
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.store import ReceiptRecord, open_store

store = open_store(Path(sys.argv[1]))
while True:
    number = store.values.next("written")
    job_id = JobId(number.to_bytes(16))
    body = os.urandom(number % 700)
    store.receipts.put(ReceiptRecord(
        job_id, "provider", PeerId("12D3KooWclient"), ModelId("ab" * 32), number, 1, number, body, os.urandom(64)))
    os.write(1, f"{number} {body.hex()}\\n".encode())
"""


def kill_a_writer(path: Path, lines: int) -> dict[int, bytes]:
    """number -> body of the receipts that the child had reported when it died, after about so many lines."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        reported = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        reported += child.stdout.readlines()
    rows = (line.decode().rstrip("\n").split(" ") for line in reported)
    return {int(number): bytes.fromhex(body) for number, body in rows}


def check(path: Path, reported: dict[int, bytes]) -> None:
    with open_store(path) as store:  # which checks the whole file
        for number, body in reported.items():
            kept = store.receipts.by_job(JobId(number.to_bytes(16)))
            assert kept is not None, f"receipt {number} of {len(reported)} was acknowledged and is lost"
            assert kept.body == body
        assert store.values.next("written") > max(reported)


def test_kill_at_random_points(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(7)
    reported: dict[int, bytes] = {}
    for _ in range(3):
        reported |= kill_a_writer(path, rng.randrange(1, 300))
        check(path, reported)


@pytest.mark.slow
def test_kill_at_many_random_points(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    rng = random.Random(8)
    reported: dict[int, bytes] = {}
    for _ in range(25):
        reported |= kill_a_writer(path, rng.randrange(1, 2000))
        check(path, reported)


def test_read_only_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    reported = kill_a_writer(path, 20)
    with open_store(path, read_only=True) as store:
        assert {receipt.finished_at_ms for receipt in store.receipts.newest(1000)} >= set(reported)


def test_log_that_ends_anywhere(tmp_path: Path) -> None:
    """What a power cut leaves of the last write: the receipts before it stay, the one it cut is as if never written."""
    path = tmp_path / "store.db"
    log = Path(f"{path}-wal")
    counts = [0]
    with open_store(path) as store:
        for number in range(20):
            store.receipts.put(
                ReceiptRecord(
                    job_id=JobId(number.to_bytes(16)),
                    role="client",
                    peer_id=PeerId("12D3KooWprovider"),
                    model_id=ModelId("ab" * 32),
                    price=number,
                    items=1,
                    finished_at_ms=number,
                    body=bytes(300),
                    provider_signature=bytes(64),
                )
            )
            counts.append(log.stat().st_size)
        whole = log.read_bytes()
        database = path.read_bytes()
    rng = random.Random(9)
    for cut in [rng.randrange(len(whole)) for _ in range(30)] + counts[1:]:
        copy = tmp_path / "copy.db"
        copy.write_bytes(database)
        Path(f"{copy}-wal").write_bytes(whole[:cut])
        expected = sum(1 for size in counts[1:] if size <= cut)
        if counts[1] <= cut:  # before that the tables themselves may be missing
            with open_store(copy) as store:
                assert len(store.receipts.newest(100)) == expected
        for file in tmp_path.glob("copy.db*"):
            file.unlink()
    shutil.rmtree(tmp_path)
