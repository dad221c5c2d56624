"""What is owed of answers that come piece by piece, on disk."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import StoreError
from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.store import ReceiptRecord, open_store
from cocoon_p2p.store.database import open_database
from cocoon_p2p.store.schema import STORE_SCHEMA
from cocoon_p2p.store.stream_marks import StreamMarks

JOB, OTHER = JobId(b"j" * 16), JobId(b"k" * 16)
ONE, TWO = PeerId("12D3KooWone"), PeerId("12D3KooWtwo")


def test_the_last_word_of_each_job_and_provider(tmp_path: Path) -> None:
    with open_store(tmp_path / "state.sqlite") as store:
        store.stream_marks.put(JOB, ONE, b"first")
        store.stream_marks.put(JOB, TWO, b"elsewhere")
        store.stream_marks.put(JOB, ONE, b"second")
    with open_store(tmp_path / "state.sqlite") as store:
        marks = store.stream_marks
        assert (marks.get(JOB, ONE), marks.get(JOB, TWO), marks.get(OTHER, ONE)) == (b"second", b"elsewhere", None)
        marks.remove(JOB, ONE)
        marks.remove(JOB, ONE)
        assert (marks.get(JOB, ONE), marks.get(JOB, TWO)) == (None, b"elsewhere")


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    with open_database(tmp_path / "state.sqlite", STORE_SCHEMA, failure=StoreError) as database:
        marks = StreamMarks(database, kept_max=10)
        jobs = [JobId(number.to_bytes(16)) for number in range(600)]
        for job in jobs:
            marks.put(job, ONE, b"owed")
        kept = [job for job in jobs if marks.get(job, ONE)]
        assert 10 <= len(kept) <= 10 + 256
        assert kept == jobs[-len(kept) :]


def receipt(body: bytes, price: int, signature: bytes = b"") -> ReceiptRecord:
    return ReceiptRecord(JOB, "provider", ONE, ModelId("ab" * 32), price, 5, 7, body, b"p" * 64, signature)


def test_a_receipt_takes_the_place_of_one_over_less_unless_that_is_signed(tmp_path: Path) -> None:
    with open_store(tmp_path / "state.sqlite") as store:
        receipts = store.receipts
        receipts.replace(receipt(b"first", 1))
        receipts.replace(receipt(b"second", 2))
        kept = receipts.by_job(JOB, role="provider", peer=ONE)
        assert kept is not None
        assert (kept.body, kept.price) == (b"second", 2)
        receipts.acknowledge(JOB, b"c" * 64, peer=ONE)
        receipts.replace(receipt(b"third", 3))
        kept = receipts.by_job(JOB, role="provider", peer=ONE)
        assert kept is not None
        assert (kept.body, kept.client_signature) == (b"second", b"c" * 64)
