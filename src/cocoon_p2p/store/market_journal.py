"""What was heard of the market, in a SQLite file of its own: announcements as they came, and prices once a minute.

It is history and hints, nothing that money depends on: it is written in batches, bounded by age and size, and may be moved
away. `kill -9` loses the last seconds. Every method raises StoreError.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cocoon_p2p import limits
from cocoon_p2p.errors import StoreError
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.store.database import Database, Row, Schema, open_database
from cocoon_p2p.wire.capacity import SignedAnnouncement

MARKET_SCHEMA = Schema(
    title="the journal of the market",
    application_id=0x6370326D,  # "cp2m"
    migrations=(
        (
            """CREATE TABLE announcements (
                number INTEGER PRIMARY KEY,
                heard_at_ms INTEGER NOT NULL,
                peer_id TEXT NOT NULL,
                raw BLOB NOT NULL
            ) STRICT""",
            "CREATE INDEX announcements_by_time ON announcements (heard_at_ms)",
            """CREATE TABLE samples (
                number INTEGER PRIMARY KEY,
                at_ms INTEGER NOT NULL,
                model_id TEXT NOT NULL,
                name TEXT NOT NULL,
                tier INTEGER NOT NULL,
                providers INTEGER NOT NULL,
                slots_free INTEGER NOT NULL,
                slots_total INTEGER NOT NULL,
                best INTEGER NOT NULL,
                median INTEGER NOT NULL
            ) STRICT""",
            "CREATE INDEX samples_of_model ON samples (model_id, tier, at_ms)",
            "CREATE INDEX samples_by_time ON samples (at_ms)",
        ),
    ),
)
_PAGE_ROWS = 500
_TRIM_PARTS = 16
"""When the file is full, this part of each table goes, the oldest."""
_TRIMS_MAX = 4
"""Such parts in one go: milliseconds; the rest goes the next time."""


@dataclass(frozen=True, slots=True)
class MarketSample:
    """One model in one tier at one moment: prices are nanogram of a job of one unit."""

    at_ms: int
    model_id: ModelId
    name: str
    tier: Tier
    providers: int
    slots_free: int
    slots_total: int
    best: int
    median: int


class MarketJournal:
    """Made by `open_market_journal`; close it, or use it as a context manager."""

    def __init__(self, database: Database, *, hours_max: float, bytes_max: int) -> None:
        self._database = database
        self._hours_max = hours_max
        self._bytes_max = bytes_max
        self._waiting: list[tuple[int, PeerId, bytes]] = []

    # --- writing ---

    def append(self, heard_at_ms: int, raw: bytes, *, peer: PeerId | None = None) -> None:
        """Note an encoded SignedAnnouncement; `peer` is its author's id, which saves reading it again. Written with the next
        `flush`, or when there are limits.JOURNAL_BATCH of them."""
        author = peer or SignedAnnouncement.decode(raw).announcement.peer_id
        self._waiting.append((heard_at_ms, author, bytes(raw)))
        if len(self._waiting) >= limits.JOURNAL_BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits; where that fails it is dropped, so that a full disk does not fill the memory, too."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        with self._database.transaction():
            for row in waiting:
                self._database.execute("INSERT INTO announcements (heard_at_ms, peer_id, raw) VALUES (?,?,?)", row)

    def add_samples(self, samples: Sequence[MarketSample]) -> None:
        with self._database.transaction():
            for each in samples:
                self._database.execute(
                    "INSERT INTO samples (at_ms, model_id, name, tier, providers, slots_free, slots_total, best, median) "
                    "VALUES (?,?,?,?,?,?,?,?,?)",
                    (
                        each.at_ms, each.model_id, each.name, int(each.tier), each.providers, each.slots_free,
                        each.slots_total, each.best, each.median,
                    ),
                )  # fmt: skip

    def trim(self, now_ms: int) -> None:
        """Forget what is too old, and the oldest while the file is too large."""
        oldest_ms = now_ms - round(self._hours_max * 3_600_000)
        with self._database.transaction():
            self._database.execute("DELETE FROM announcements WHERE heard_at_ms < ?", (oldest_ms,))
            self._database.execute("DELETE FROM samples WHERE at_ms < ?", (oldest_ms,))
            for _ in range(_TRIMS_MAX):
                if self.size() <= self._bytes_max:
                    break
                for table in ("announcements", "samples"):
                    self._database.execute(
                        f"DELETE FROM {table} WHERE number <= "
                        f"(SELECT min(number) + (max(number) - min(number)) / {_TRIM_PARTS} FROM {table})"
                    )

    # --- reading ---

    def size(self) -> int:
        """Bytes in use; the file keeps the space of what was deleted and fills it again."""
        pages, free, page_bytes = (
            self._number(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * page_bytes

    def announcements(self, since_ms: int, until_ms: int) -> Iterator[tuple[int, bytes]]:
        """(when it was heard, encoded SignedAnnouncement) in the order in which they came, both ends included."""
        after = 0
        first = self._database.one(
            "SELECT min(number) FROM announcements WHERE heard_at_ms BETWEEN ? AND ?", (since_ms, until_ms)
        )
        if first and first[0] is not None:
            after = cast(int, first[0]) - 1
        while True:
            rows = self._database.all(
                "SELECT number, heard_at_ms, raw FROM announcements WHERE number > ? ORDER BY number LIMIT ?",
                (after, _PAGE_ROWS),
            )
            for number, heard_at_ms, raw in rows:
                after = cast(int, number)
                if since_ms <= cast(int, heard_at_ms) <= until_ms:
                    yield cast(int, heard_at_ms), cast(bytes, raw)
            if len(rows) < _PAGE_ROWS:
                return

    def samples(self, model: ModelId, tier: Tier, since_ms: int) -> list[MarketSample]:
        """Of one model in one tier, oldest first."""
        rows = self._database.all(
            "SELECT at_ms, model_id, name, tier, providers, slots_free, slots_total, best, median FROM samples "
            "WHERE model_id=? AND tier=? AND at_ms>=? ORDER BY at_ms, number",
            (model, int(tier), since_ms),
        )
        return [_sample_of(row) for row in rows]

    def sampled(self, since_ms: int) -> list[tuple[ModelId, str, Tier]]:
        """Which (model, name, tier) there are samples of since then."""
        rows = self._database.all(
            "SELECT model_id, max(name), tier FROM samples WHERE at_ms>=? GROUP BY model_id, tier ORDER BY 2, 1, 3",
            (since_ms,),
        )
        return [(ModelId(cast(str, model)), cast(str, name), Tier(cast(int, tier))) for model, name, tier in rows]

    def latest(self) -> list[bytes]:
        """The newest announcement of each of the peers heard last, oldest first; at most limits.JOURNAL_HINTS_MAX."""
        rows = self._database.all(
            "SELECT raw FROM announcements WHERE number IN (SELECT max(number) FROM "
            "(SELECT number, peer_id FROM announcements ORDER BY number DESC LIMIT ?) GROUP BY peer_id "
            "ORDER BY 1 DESC LIMIT ?) ORDER BY number",
            (limits.JOURNAL_HINT_ROWS_MAX, limits.JOURNAL_HINTS_MAX),
        )
        return [cast(bytes, raw) for (raw,) in rows]

    def close(self) -> None:
        """What waits is written before. Idempotent."""
        try:
            self.flush()
        finally:
            self._database.close()

    def __enter__(self) -> MarketJournal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _number(self, sql: str) -> int:
        row = self._database.one(sql)
        return cast(int, row[0]) if row else 0


def _sample_of(row: Row) -> MarketSample:
    at_ms, model_id, name, tier, providers, slots_free, slots_total, best, median = row
    return MarketSample(
        cast(int, at_ms),
        ModelId(cast(str, model_id)),
        cast(str, name),
        Tier(cast(int, tier)),
        cast(int, providers),
        cast(int, slots_free),
        cast(int, slots_total),
        cast(int, best),
        cast(int, median),
    )


def open_market_journal(
    path: Path, *, hours_max: float = 168.0, bytes_max: int = 64 * limits.MIB, read_only: bool = False
) -> MarketJournal:
    """Open the journal in the file `path`, making it when it does not exist; with `read_only` nothing is changed on the
    disk, and a node may have it open. Raises ConfigError when it is damaged, of another kind or too new."""
    database = open_database(path, MARKET_SCHEMA, failure=StoreError, read_only=read_only)
    return MarketJournal(database, hours_max=hours_max, bytes_max=bytes_max)
