"""Rows that nobody can read any more: set aside, so that one of them stops neither the start nor a list.

What can be read of them is kept in a table of their own, until the newest `kept_max` push it out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

from cocoon_p2p.ids import JOB_ID_BYTES, Tier
from cocoon_p2p.limits import DAMAGED_ROWS_KEPT_MAX
from cocoon_p2p.store.database import Database, Value

_NO_TEXTS = (
    "CASE WHEN json_valid({0}) THEN json_type({0}) <> 'array' OR EXISTS "
    "(SELECT 1 FROM json_each({0}) AS each WHERE each.type <> 'text') ELSE 1 END"
)
_UNREADABLE = {
    "jobs": f"length(job_id) <> {JOB_ID_BYTES} OR role NOT IN ('client', 'provider') "
    "OR state NOT IN ('running', 'done', 'failed', 'unknown') "
    f"OR tier NOT IN ({', '.join(str(int(tier)) for tier in Tier)}) OR price < 0 OR items < 0",
    "peers": _NO_TEXTS.format("addresses"),
    "known_peers": _NO_TEXTS.format("addresses"),
    "considerations": "NOT json_valid(body)",
}
"""Which rows of a table cannot be what this program wrote: tables that are small enough to be looked through at every start."""


class DamagedRows:
    """The table of what was set aside."""

    def __init__(self, database: Database, *, kept_max: int = DAMAGED_ROWS_KEPT_MAX) -> None:
        self._database = database
        self._kept_max = kept_max

    def find(self, *, at_ms: int) -> dict[str, int]:
        """Look through all tables of which every row is read, and set aside what is damaged; how many rows of which table."""
        with self._database.transaction():
            found = {table: self.set_aside(table, where, at_ms=at_ms) for table, where in _UNREADABLE.items()}
        return {table: count for table, count in found.items() if count}

    def set_aside(self, table: str, where: str, values: Sequence[Value] = (), *, at_ms: int) -> int:
        """Those rows of this table; how many. `table` and `where` are this program's own words."""
        database = self._database
        with database.transaction():
            rows = database.all(f"SELECT * FROM {table} WHERE {where}", values)
            if not rows:
                return 0
            names = [cast(str, column[1]) for column in database.all(f"PRAGMA table_info({table})")]
            for row in rows:
                content = {name: _plain(value) for name, value in zip(names, row, strict=True)}
                database.execute(
                    "INSERT INTO damaged_rows (origin, set_aside_at_ms, content) VALUES (?,?,?)",
                    (table, at_ms, json.dumps(content)),
                )
            database.execute(f"DELETE FROM {table} WHERE {where}", values)
            self._prune()
        return len(rows)

    def counts(self, *, since_ms: int = 0) -> dict[str, int]:
        """How many rows of each table were set aside since then."""
        rows = self._database.all(
            "SELECT origin, count(*) FROM damaged_rows WHERE set_aside_at_ms >= ? GROUP BY origin ORDER BY origin",
            (since_ms,),
        )
        return {cast(str, origin): cast(int, count) for origin, count in rows}

    def _prune(self) -> None:
        self._database.execute(
            "DELETE FROM damaged_rows "
            "WHERE number <= (SELECT number FROM damaged_rows ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._kept_max,),
        )


def _plain(value: Value) -> object:
    return {"hex": value.hex()} if isinstance(value, bytes) else value
