"""Rows that nobody can read any more do not stop the start: they are set aside, and everything else goes on."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cocoon_p2p.assembly import _open_books
from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.recovery import _one_of_many, recover
from cocoon_p2p.errors import ConfigError, StoreError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import LocalSettlement, open_local_settlement
from cocoon_p2p.store import DamagedRows, JobRecord, ReceiptRecord, Store, open_store
from cocoon_p2p.store.database import NO_ANSWER
from cocoon_p2p.wire.job import ReceiptBody

PAYER, PAYEE, KEY = (IdentityKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
MODEL = ModelId("ab" * 32)
GOOD, BAD = JobId(b"g" * 16), JobId(b"b" * 16)


def job_record(job: JobId) -> JobRecord:
    return JobRecord(job, "provider", MODEL, "m", PAYER.peer_id, Tier.SEALED, "done", 40, 1, 1, 2)


def receipt(job: JobId) -> ReceiptRecord:
    none = bytes(32)
    body = ReceiptBody(PAYEE.peer_id, PAYER.peer_id, job, MODEL, Tier.SEALED, none, 40, 1, none, none, 0, 0, 2)
    return ReceiptRecord(job, "provider", PAYER.peer_id, MODEL, 40, 1, 2, body.encode(), bytes(64))


@contextmanager
def opened(folder: Path) -> Iterator[tuple[Store, LocalSettlement]]:
    with (
        open_store(folder / "state.sqlite3") as store,
        open_local_settlement(folder / "ledger.sqlite3", PAYEE, KEY) as settlement,
    ):
        yield store, settlement


async def reserved(folder: Path, settlement: LocalSettlement, *jobs: JobId) -> None:
    with open_local_settlement(folder / "payer.sqlite3", PAYER, KEY) as payer:
        for job in jobs:
            payment = await payer.reserve(PAYEE.peer_id, job, 50)
            await settlement.accept_payment(PAYER.peer_id, job, payment, 50)


def spoil(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "state.sqlite3") as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1
    connection.close()


@pytest.mark.parametrize("column", ["body = x'93'", "price = 41", "body = substr(body, 1, 40)"])
async def test_a_damaged_receipt_counts_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str) -> None:
    with opened(tmp_path) as (store, settlement):
        await reserved(tmp_path, settlement, GOOD, BAD)
        for job in (GOOD, BAD):
            store.receipts.put(receipt(job))
    spoil(tmp_path, f"UPDATE receipts SET {column} WHERE job_id = x'{BAD.hex()}'")
    with opened(tmp_path) as (store, settlement), caplog.at_level(logging.ERROR):
        assert await recover(store, settlement, SystemClock()) == 2
        assert (await settlement.balance()).earned == 40, "the readable one alone"
        assert await settlement.open_reservations() == ()
        assert store.receipts.by_job(BAD) is None
        assert store.receipts.by_job(GOOD) == receipt(GOOD)
        assert store.damaged.counts() == {"receipts": 1}
        kept = json.loads(str(store._database.all("SELECT content FROM damaged_rows")[0][0]))
        assert kept["job_id"] == {"hex": BAD.hex()}
        assert kept["provider_signature"] == {"hex": bytes(64).hex()}
    assert BAD.hex() in caplog.text
    assert bytes(64).hex() not in caplog.text


async def test_rows_that_are_read_all_together(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, settlement):
        store.jobs.insert(job_record(GOOD))
        store.jobs.insert(job_record(BAD))
        store.peers.seen(PAYER.peer_id, ("/ip4/1.2.3.4/tcp/1",), at_ms=1)
        store.peers.seen(PAYEE.peer_id, ("/ip4/1.2.3.4/tcp/2",), at_ms=1)
        store.stream_marks.put(BAD, PAYER.peer_id, b"\x93")
    spoil(
        tmp_path,
        f"UPDATE jobs SET tier = 9, finished_at_ms = NULL WHERE job_id = x'{BAD.hex()}'",
        f"UPDATE peers SET addresses = '[1' WHERE peer_id = '{PAYEE.peer_id}'",
    )
    with opened(tmp_path) as (store, settlement):
        await recover(store, settlement, SystemClock())
        assert store.damaged.counts() == {"jobs": 1, "peers": 1, "stream_marks": 1}
        assert store.jobs.newest() == [job_record(GOOD)]
        assert [each.peer_id for each in store.peers.newest()] == [PAYER.peer_id]
        await recover(store, settlement, SystemClock())
        assert sum(store.damaged.counts().values()) == 3, "what is whole stays"


async def test_a_text_that_is_none(tmp_path: Path) -> None:
    with opened(tmp_path) as (store, settlement):
        store.jobs.insert(job_record(GOOD))
        store.jobs.insert(job_record(BAD))
    spoil(tmp_path, f"UPDATE jobs SET state = CAST(x'ff' AS TEXT) WHERE job_id = x'{BAD.hex()}'")
    with opened(tmp_path) as (store, settlement):
        await recover(store, settlement, SystemClock())
        assert store.jobs.newest() == [job_record(GOOD)]
        assert store.damaged.counts() == {"jobs": 1}


async def test_books_that_contradict_each_other_leave_one_job_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A receipt over more than was reserved is whole, but nothing follows from it."""
    body = ReceiptBody(
        PAYEE.peer_id, PAYER.peer_id, BAD, MODEL, Tier.SEALED, bytes(32), 60, 1, bytes(32), bytes(32), 0, 0, 2
    )
    with opened(tmp_path) as (store, settlement):
        await reserved(tmp_path, settlement, BAD, GOOD)
        store.receipts.put(replace(receipt(BAD), price=60, body=body.encode()))
        store.receipts.put(receipt(GOOD))
        assert await recover(store, settlement, SystemClock()) == 1
        assert (await settlement.balance()).earned == 40
        assert [each.job_id for each in await settlement.open_reservations()] == [BAD]
    assert BAD.hex() in caplog.text


@pytest.mark.parametrize("lost", ["state.sqlite3", "ledger.sqlite3"])
def test_a_database_whose_content_was_lost_is_not_taken_for_a_new_one(tmp_path: Path, lost: str) -> None:
    home = Home(tmp_path)
    home.init()

    def start() -> None:
        with ExitStack() as stack:
            store, _ = _open_books(stack, home, home.identity(), threads=False)
            store.jobs.insert(job_record(GOOD))

    home.state_file.touch()  # a first start that was killed
    open_store(home.state_file).close()
    home.ledger_file.touch()  # and another one, a little later
    start()
    (tmp_path / lost).write_bytes(b"")
    wal = tmp_path / f"{lost}-wal"
    wal.write_bytes(b"what was not written into the file yet")
    with pytest.raises(ConfigError, match="its content was lost") as caught:
        start()
    assert caught.value.code == "DATABASE_EMPTIED"
    assert "restore" in (caught.value.hint or "")
    assert wal.read_bytes(), "nothing was thrown away"
    (tmp_path / lost).unlink()
    wal.unlink()
    start()


def test_a_database_that_does_not_answer_ends_the_start() -> None:
    """Every other job would fail so, too, and the node would begin with books that it cannot write."""
    with pytest.raises(StoreError), _one_of_many(GOOD):
        raise StoreError("is the disk full?", code=NO_ANSWER)


def test_no_more_is_kept_of_what_was_set_aside_than_the_newest(tmp_path: Path) -> None:
    with open_store(tmp_path / "state.sqlite3") as store:
        damaged = DamagedRows(store._database, kept_max=3)
        for number in range(5):
            job = JobId(bytes([number]) * 16)
            store.jobs.insert(job_record(job))
            assert damaged.set_aside("jobs", "job_id=?", (job,), at_ms=number) == 1
        assert damaged.counts() == {"jobs": 3}
        assert damaged.counts(since_ms=3) == {"jobs": 2}
