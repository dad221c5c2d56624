"""The journal of the market: bounded, batched, and readable while a node writes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cocoon_p2p import limits
from cocoon_p2p.errors import ConfigError, StoreError
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.store.market_journal import MarketJournal, MarketSample, open_market_journal
from cocoon_p2p.wire.capacity import CAPACITY_DOMAIN, Announcement, SignedAnnouncement

MODEL = ModelId("ab" * 32)
A, B = PeerId("a"), PeerId("b")
HOUR_MS = 3_600_000


def sample(at_ms: int, *, model: ModelId = MODEL, tier: Tier = Tier.OPEN, best: int = 10) -> MarketSample:
    return MarketSample(at_ms, model, "echo", tier, 3, 5, 12, best, best + 5)


def heard(journal: MarketJournal, since_ms: int = 0, until_ms: int = 2**62) -> list[tuple[int, bytes]]:
    return list(journal.announcements(since_ms, until_ms))


def test_what_was_appended_is_read_again_in_order(tmp_path: Path) -> None:
    with open_market_journal(tmp_path / "market.db") as journal:
        for number in range(700):
            journal.append(1000 + number, b"%d" % number, peer=A)
        journal.flush()
        assert heard(journal) == [(1000 + number, b"%d" % number) for number in range(700)]
        assert heard(journal, 1100, 1101) == [(1100, b"100"), (1101, b"101")]
        assert heard(journal, 5000) == []
    with open_market_journal(tmp_path / "market.db", read_only=True) as journal:
        assert len(heard(journal)) == 700


def test_it_is_written_in_batches_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "market.db"
    journal = open_market_journal(path)
    with open_market_journal(path, read_only=True) as reader:
        for number in range(limits.JOURNAL_BATCH - 1):
            journal.append(number, b"x", peer=A)
        assert heard(reader) == []
        journal.append(999, b"y", peer=A)
        assert len(heard(reader)) == limits.JOURNAL_BATCH
        journal.append(1000, b"z", peer=A)
    journal.close()
    with open_market_journal(path, read_only=True) as reader:
        assert heard(reader)[-1] == (1000, b"z")


def test_the_latest_of_each_peer_are_the_hints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOURNAL_HINTS_MAX", 3)
    with open_market_journal(tmp_path / "market.db") as journal:
        for number in range(20):
            journal.append(number, b"%d" % number, peer=PeerId(str(number % 5)))
        journal.flush()
        assert journal.latest() == [b"17", b"18", b"19"]
        monkeypatch.setattr(limits, "JOURNAL_HINT_ROWS_MAX", 2)
        assert journal.latest() == [b"18", b"19"]


def test_an_announcement_names_its_peer_itself(tmp_path: Path) -> None:
    key = IdentityKey.from_seed(b"k" * 32)
    body = Announcement(key.peer_id, 1, 1, 2, (), "agent", (0,), "", ()).encode()
    raw = SignedAnnouncement(body, key.sign(CAPACITY_DOMAIN, body)).encode()
    with open_market_journal(tmp_path / "market.db") as journal:
        journal.append(1, raw)
        journal.append(2, raw)
        journal.append(3, b"other", peer=A)
        journal.flush()
        assert journal.latest() == [raw, b"other"]


def test_samples_of_one_model_and_tier(tmp_path: Path) -> None:
    other = ModelId("cd" * 32)
    with open_market_journal(tmp_path / "market.db") as journal:
        journal.add_samples([sample(1), sample(2, tier=Tier.SEALED), sample(3, model=other), sample(4, best=9)])
        assert journal.samples(MODEL, Tier.OPEN, 0) == [sample(1), sample(4, best=9)]
        assert journal.samples(MODEL, Tier.OPEN, 2) == [sample(4, best=9)]
        assert journal.sampled(0) == [
            (MODEL, "echo", Tier.OPEN),
            (MODEL, "echo", Tier.SEALED),
            (other, "echo", Tier.OPEN),
        ]


def test_what_is_old_goes(tmp_path: Path) -> None:
    with open_market_journal(tmp_path / "market.db", hours_max=2) as journal:
        for hour in range(5):
            journal.append(hour * HOUR_MS, b"%d" % hour, peer=A)
            journal.add_samples([sample(hour * HOUR_MS)])
        journal.flush()
        journal.trim(4 * HOUR_MS)
        assert [raw for _, raw in heard(journal)] == [b"2", b"3", b"4"]
        assert [each.at_ms for each in journal.samples(MODEL, Tier.OPEN, 0)] == [2 * HOUR_MS, 3 * HOUR_MS, 4 * HOUR_MS]


def test_the_file_stays_within_its_bound(tmp_path: Path) -> None:
    path, bytes_max = tmp_path / "market.db", limits.MIB
    with open_market_journal(path, bytes_max=bytes_max) as journal:
        for number in range(8 * limits.JOURNAL_BATCH):
            journal.append(number, os.urandom(1024), peer=A)
            if number % limits.JOURNAL_BATCH == 0:
                journal.trim(number)
        journal.flush()
        for _ in range(8):
            journal.trim(number)
        assert bytes_max / 2 < journal.size() <= bytes_max
        assert heard(journal)[-1][0] == number, "the newest stay"
    assert path.stat().st_size < 3 * bytes_max, "the space of what went is filled again"


def test_a_damaged_file_or_another_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_bytes(os.urandom(8192))
    with pytest.raises(ConfigError, match="journal of the market"):
        open_market_journal(tmp_path / "damaged.db")


def test_a_disk_that_fails_costs_what_waited_and_not_the_memory(tmp_path: Path) -> None:
    journal = open_market_journal(tmp_path / "market.db")
    journal._database.close()
    for number in range(limits.JOURNAL_BATCH - 1):
        journal.append(number, b"x", peer=A)
    with pytest.raises(StoreError):
        journal.append(1, b"x", peer=A)
    assert journal._waiting == []


WRITER = """
import os, signal, sys
from pathlib import Path
from cocoon_p2p.store.market_journal import open_market_journal
journal = open_market_journal(Path(sys.argv[1]))
for number in range(300):
    journal.append(number, b"x" * 400, peer="p")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_loses_what_waited_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "market.db"
    ended = subprocess.run([sys.executable, "-c", WRITER, str(path)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    with open_market_journal(path) as journal:
        assert [at for at, _ in heard(journal)] == list(range(limits.JOURNAL_BATCH))
