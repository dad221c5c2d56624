"""The store's tables: what goes in comes out, twice is once, and nothing grows without end."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from cocoon_p2p.errors import CocoonError, ConfigError, LocalProtocolError, StoreError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.store import JobRecord, ReceiptRecord, open_store
from cocoon_p2p.store import database as database_module
from cocoon_p2p.store.database import Schema, open_database
from cocoon_p2p.store.flushing import Flusher
from cocoon_p2p.store.jobs import Jobs
from cocoon_p2p.store.peers import PeerRecord, Peers
from cocoon_p2p.store.receipts import Receipts
from cocoon_p2p.store.schema import STORE_SCHEMA

ALICE, BOB = PeerId("12D3KooWalice"), PeerId("12D3KooWbob")
MODEL = ModelId("ab" * 32)
JOB = JobRecord(JobId(b"\1" * 16), "client", MODEL, "minilm", BOB, Tier.SEALED, "running", 0, 3, created_at_ms=5)
RECEIPT = ReceiptRecord(JobId(b"\1" * 16), "provider", ALICE, MODEL, 700, 3, 9, b"body", b"p" * 64)


def numbered(record: JobRecord, number: int) -> JobRecord:
    return replace(record, job_id=JobId(number.to_bytes(16)), created_at_ms=number)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_jobs(path: Path) -> None:
    with open_store(path) as store:
        assert store.jobs.insert(JOB)
        assert not store.jobs.insert(replace(JOB, model_name="another"))
        assert store.jobs.insert(replace(JOB, role="provider", peer_id=ALICE)), "ids of another's choosing may collide"
        assert store.jobs.finish(JOB.job_id, "client", "done", finished_at_ms=8, price=7)
        assert not store.jobs.finish(JobId(b"\2" * 16), "client", "done", finished_at_ms=8)
    with open_store(path) as store:
        done = replace(JOB, state="done", finished_at_ms=8, price=7)
        assert store.jobs.get(JOB.job_id, "client") == done
        assert store.jobs.newest() == [replace(JOB, role="provider", peer_id=ALICE), done]
        assert store.jobs.unfinished() == (replace(JOB, role="provider", peer_id=ALICE),)


def test_errors_are_cut_short(path: Path) -> None:
    with open_store(path) as store:
        store.jobs.insert(JOB)
        store.jobs.finish(JOB.job_id, "client", "failed", finished_at_ms=9, error="x" * 10_000)
        assert len(store.jobs.newest()[0].error) == 512


def test_oldest_finished_jobs_are_forgotten(path: Path) -> None:
    with open_store(path) as store:
        jobs = Jobs(store._database, kept_max=10)
        for number in range(600):
            jobs.insert(numbered(JOB, number))
            if number != 3:
                jobs.finish(JobId(number.to_bytes(16)), "client", "done", finished_at_ms=number)
        assert len(jobs.newest(1000)) < 300, "pruned on the way"
        jobs.prune()
        assert [job.created_at_ms for job in jobs.newest()] == [*range(599, 589, -1), 3]


def test_receipts(path: Path) -> None:
    with open_store(path) as store:
        for _ in range(2):
            assert store.receipts.put(RECEIPT)
        assert not store.receipts.put(replace(RECEIPT, body=b"another"))
        assert store.receipts.unacknowledged(ALICE, 5) == (RECEIPT,)
        assert store.receipts.unacknowledged(BOB, 5) == ()
        assert store.receipts.acknowledge(RECEIPT.job_id, b"c" * 64)
        assert store.receipts.acknowledge(RECEIPT.job_id, b"d" * 64)
        assert not store.receipts.acknowledge(JobId(b"\2" * 16), b"c" * 64)
    with open_store(path) as store:
        signed = replace(RECEIPT, client_signature=b"c" * 64)
        assert store.receipts.by_job(RECEIPT.job_id) == signed
        assert store.receipts.by_job(RECEIPT.job_id, role="client") is None
        assert store.receipts.unacknowledged(ALICE, 5) == ()
        assert store.receipts.newest() == [signed]
        assert store.receipts.put(RECEIPT), "the same again takes no signature away"
        assert store.receipts.newest() == [signed]


def test_signature_that_comes_with_the_second_put(path: Path) -> None:
    with open_store(path) as store:
        store.receipts.put(replace(RECEIPT, role="client"))
        store.receipts.put(replace(RECEIPT, role="client", client_signature=b"c" * 64))
        kept = store.receipts.by_job(RECEIPT.job_id)
        assert kept is not None
        assert kept.client_signature == b"c" * 64


def test_unacknowledged_receipts_come_oldest_first(path: Path) -> None:
    with open_store(path) as store:
        for number in range(5):
            store.receipts.put(replace(RECEIPT, job_id=JobId(bytes([9 - number]) * 16), price=number))
        assert [receipt.price for receipt in store.receipts.unacknowledged(ALICE, 3)] == [0, 1, 2]


def test_oldest_receipts_are_forgotten(path: Path) -> None:
    with open_store(path) as store:
        receipts = Receipts(store._database, kept_max=10)
        for number in range(600):
            receipts.put(replace(RECEIPT, job_id=JobId(number.to_bytes(16)), price=number))
        assert len(receipts.newest(1000)) < 300
        receipts.prune()
        assert [receipt.price for receipt in receipts.newest()] == list(range(599, 589, -1))


def test_peers(path: Path) -> None:
    with open_store(path) as store:
        store.peers.seen(ALICE, ("/ip4/1.2.3.4/tcp/1",), at_ms=10)
        store.peers.seen(ALICE, (), at_ms=20)
        store.peers.seen(BOB, ("/ip4/1.2.3.4/tcp/2",), at_ms=5)
        store.peers.set_standing(BOB, 42.5, at_ms=30, banned_until_ms=99)
    with open_store(path) as store:
        assert store.peers.newest() == [
            PeerRecord(ALICE, ("/ip4/1.2.3.4/tcp/1",), 20),
            PeerRecord(BOB, ("/ip4/1.2.3.4/tcp/2",), 5, 42.5, 30, 99),
        ]
        assert [peer.peer_id for peer in store.peers.banned(now_ms=98)] == [BOB]
        assert store.peers.banned(now_ms=99) == ()
        store.peers.set_standing(PeerId("12D3KooWcarol"), 1.0, at_ms=1, banned_until_ms=0)
        assert store.peers.get(PeerId("12D3KooWcarol")) == PeerRecord(PeerId("12D3KooWcarol"), (), 0, 1.0, 1, 0)


def test_peers_are_bounded_and_bans_outlive_acquaintances(path: Path) -> None:
    with open_store(path) as store:
        peers = Peers(store._database, kept_max=10)
        peers.set_standing(BOB, 100.0, at_ms=1, banned_until_ms=10_000)
        for number in range(600):
            peers.seen(PeerId(f"12D3KooW{number}"), (), at_ms=number)
        peers.prune()
        kept = peers.newest(1000)
        assert len(kept) == 10
        assert BOB in {peer.peer_id for peer in kept}
        assert kept[0].peer_id == "12D3KooW599"


def test_values(path: Path) -> None:
    with open_store(path) as store:
        assert store.values.get("sequence") == 0
        assert [store.values.next("sequence") for _ in range(2)] == [1, 2]
    with open_store(path) as store:
        assert store.values.next("sequence", at_least=1000) == 1000
        assert store.values.next("sequence", at_least=1000) == 1001
        store.values.set("sequence", 7)
        assert store.values.get("sequence") == 7


def test_transaction_is_all_or_nothing(path: Path) -> None:
    with open_store(path) as store:
        with pytest.raises(KeyError), store.transaction():
            store.jobs.insert(JOB)
            raise KeyError
        assert store.jobs.newest() == []
        with store.transaction():
            store.jobs.insert(JOB)
            store.receipts.put(RECEIPT)
        assert len(store.jobs.newest()) == len(store.receipts.newest()) == 1


def test_hidden_failure_within_a_transaction(path: Path) -> None:
    with open_store(path) as store:
        with pytest.raises(LocalProtocolError), store.transaction():
            store.values.set("a", 1)
            with pytest.raises(KeyError), store.transaction():
                raise KeyError
        assert store.values.get("a") == 0
        store.values.set("a", 2)
        assert store.values.get("a") == 2


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were brought to the disk; kill -9 cannot show it, only a power cut."""
    files: list[str] = []

    def sync(descriptor: int) -> None:
        files.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        time.sleep(0.02)  # a disk takes its time, in which others ask

    monkeypatch.setattr(database_module, "_sync", sync)
    return files


async def test_a_flush_brings_the_log_to_the_disk(path: Path, synced: list[str]) -> None:
    with open_store(path) as store:
        assert store._database.all("PRAGMA journal_mode") == [("wal",)]
        assert store._database.all("PRAGMA synchronous") == [(1,)]
        store.values.set("a", 1)
        assert synced == []
        await Flusher(store._database).flush()
        assert synced == [f"{path}-wal"]


@pytest.mark.parametrize("in_thread", [True, False])
async def test_those_who_ask_meanwhile_share_a_flush(path: Path, synced: list[str], in_thread: bool) -> None:
    with open_store(path) as store:
        flusher = Flusher(store._database, in_thread=in_thread)
        store.values.set("a", 1)
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(flusher.flush)
        assert 1 <= len(synced) <= 2  # who asked after the first had begun is not served by it


async def test_a_disk_that_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(database_module, "_sync", fail)
    with open_store(path) as store:
        store.values.set("a", 1)
        with pytest.raises(CocoonError, match="Input/output error"):
            await Flusher(store._database).flush()


def test_file_is_the_owners_alone(path: Path) -> None:
    with open_store(path) as store:
        store.jobs.insert(JOB)
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_read_only_beside_a_writer(path: Path) -> None:
    with open_store(path) as writer, open_store(path, read_only=True) as reader:
        writer.jobs.insert(JOB)
        assert reader.jobs.newest() == [JOB]
        with pytest.raises(StoreError):
            reader.jobs.finish(JOB.job_id, "client", "done", finished_at_ms=1)


def test_read_only_of_nothing_makes_nothing(path: Path) -> None:
    with open_store(path, read_only=True) as store:
        assert store.jobs.newest() == []
        with pytest.raises(StoreError):
            store.values.set("a", 1)
    assert not path.exists()


def damaged(path: Path) -> ConfigError:
    before = path.read_bytes()
    with pytest.raises(ConfigError) as raised:
        open_store(path)
    assert str(path) in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint
    assert path.read_bytes() == before, "a damaged file was changed"
    return raised.value


def test_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(os.urandom(10_000))
    assert damaged(path).code == "DATABASE_DAMAGED"


def test_database_with_a_damaged_page(path: Path) -> None:
    with open_store(path) as store:
        for number in range(300):
            store.receipts.put(replace(RECEIPT, job_id=JobId(number.to_bytes(16))))
    raw = bytearray(path.read_bytes())
    raw[8192:12288] = b"\xa5" * 4096
    path.write_bytes(raw)
    assert damaged(path).code == "DATABASE_DAMAGED"
    path.write_bytes(raw[: len(raw) // 2])
    assert damaged(path).code == "DATABASE_DAMAGED"


def test_damage_that_shows_while_running(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path) as store:
        for number in range(300):
            store.receipts.put(replace(RECEIPT, job_id=JobId(number.to_bytes(16))))
    raw = bytearray(path.read_bytes())
    raw[-60_000:] = b"\xa5" * 60_000
    path.write_bytes(raw)
    monkeypatch.setattr("cocoon_p2p.store.database.DATABASE_CHECK_BYTES_MAX", 0)  # as if it were too large to check
    with open_store(path) as store, pytest.raises(StoreError) as raised:
        store.receipts.newest(1000)
    assert "damaged" in raised.value.message
    assert str(path) in raised.value.message


def test_database_of_something_else(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (text)")
    connection.close()
    assert "not the store" in damaged(path).message


def test_database_of_a_newer_release(path: Path) -> None:
    open_store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert "version 99" in damaged(path).message


def test_path_that_cannot_be_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing" / "store.db"):
        with pytest.raises(ConfigError, match=str(path)):
            open_store(path)


def test_migrations_run_once_each_and_in_order(path: Path) -> None:
    first = ("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)")
    one = Schema("a test", 77, (first,))
    two = Schema("a test", 77, (first, ("ALTER TABLE a ADD COLUMN y DEFAULT 5",)))
    broken = Schema("a test", 77, (*two.migrations, ("CREATE TABLE b (x)", "nonsense")))
    open_database(path, one, failure=StoreError).close()
    with pytest.raises(ConfigError, match="schema version 1"):
        open_database(path, two, failure=StoreError, read_only=True)
    for _ in range(2):
        with open_database(path, two, failure=StoreError) as database:
            assert database.all("SELECT * FROM a") == [(1, 5)]
    with pytest.raises(ConfigError, match="version 3"):
        open_database(path, broken, failure=StoreError)
    with open_database(path, two, failure=StoreError) as database:
        assert database.all("SELECT name FROM sqlite_master") == [("a",)]


# --- one job, several peers; a receipt that is taken back -----------------------------------------------------------------


def test_one_job_given_to_two_peers(path: Path) -> None:
    with open_store(path) as store:
        assert store.jobs.insert(JOB)
        assert store.jobs.insert(replace(JOB, peer_id=ALICE))
        assert store.jobs.finish(JOB.job_id, "client", "unknown", finished_at_ms=8, peer=BOB)
        assert store.jobs.finish(JOB.job_id, "client", "done", finished_at_ms=9), "the one given last"
        assert not store.jobs.finish(JOB.job_id, "client", "done", finished_at_ms=9, peer=PeerId("12D3KooWcarol"))
        states = {peer: store.jobs.get(JOB.job_id, "client", peer=peer) for peer in (ALICE, BOB)}
        assert {peer: job and job.state for peer, job in states.items()} == {ALICE: "done", BOB: "unknown"}
        assert store.jobs.get(JOB.job_id, "client") == states[ALICE]
        assert store.jobs.without_outcome(BOB, 5) == (JOB.job_id,)
        for peer in (ALICE, BOB):
            assert store.receipts.put(replace(RECEIPT, role="client", peer_id=peer, body=peer.encode()))
        for peer in (ALICE, BOB):
            kept = store.receipts.by_job(RECEIPT.job_id, role="client", peer=peer)
            assert kept is not None
            assert kept.body == peer.encode()
        assert store.receipts.acknowledge(RECEIPT.job_id, b"c" * 64, role="client", peer=BOB)
        signed = [receipt.peer_id for receipt in store.receipts.newest() if receipt.client_signature]
        assert signed == [BOB]


def test_only_an_unsigned_receipt_of_this_client_is_taken_back(path: Path) -> None:
    with open_store(path) as store:
        store.receipts.put(RECEIPT)
        store.receipts.put(replace(RECEIPT, role="client"))
        assert not store.receipts.take_back(RECEIPT.job_id, BOB)
        assert store.receipts.take_back(RECEIPT.job_id, ALICE)
        assert not store.receipts.take_back(RECEIPT.job_id, ALICE)
        assert [receipt.role for receipt in store.receipts.newest()] == ["client"]
        store.receipts.put(replace(RECEIPT, client_signature=b"c" * 64))
        assert not store.receipts.take_back(RECEIPT.job_id, ALICE)


def test_last_jobs_of_a_client(path: Path) -> None:
    with open_store(path) as store:
        for number in range(5):
            job = replace(numbered(JOB, number), role="provider", state="done", peer_id=ALICE, finished_at_ms=number)
            store.jobs.insert(job)
        store.jobs.insert(replace(numbered(JOB, 7), role="provider", peer_id=ALICE))
        store.jobs.insert(replace(numbered(JOB, 8), peer_id=ALICE, finished_at_ms=1))
        store.jobs.insert(replace(numbered(JOB, 9), role="provider", state="done", peer_id=BOB, finished_at_ms=1))

        def ended() -> list[tuple[int, int]]:
            return [(job.at_ms, job.wasted) for job in store.jobs.work_done(ALICE, 3)]

        assert ended() == [(2, 0), (3, 0), (4, 0)]
        store.jobs.finish(JobId((3).to_bytes(16)), "provider", "failed", finished_at_ms=None)
        assert ended() == [(1, 0), (2, 0), (4, 0)]
        for number in (1, 2):
            store.jobs.finish(JobId(number.to_bytes(16)), "provider", "failed", finished_at_ms=number, error="late")
        assert ended() == [(0, 0), (4, 0)]
        store.jobs.note_wasted(JobId((1).to_bytes(16)), ALICE, 7)
        store.jobs.note_wasted(JobId((9).to_bytes(16)), ALICE, 7)  # another's
        assert ended() == [(0, 0), (1, 7), (4, 0)]
        assert store.jobs.work_done(BOB, 3)[0].wasted == 0


def test_jobs_and_receipts_of_before_are_kept(path: Path) -> None:
    before = replace(STORE_SCHEMA, migrations=STORE_SCHEMA.migrations[:2])
    with open_database(path, before, failure=StoreError) as database:
        Jobs(database).insert(JOB)
        Receipts(database).put(RECEIPT)
    with open_store(path) as store:
        assert store.jobs.newest() == [JOB]
        assert store.receipts.unacknowledged(ALICE, 5) == (RECEIPT,)
        assert store.jobs.insert(replace(JOB, peer_id=ALICE))
