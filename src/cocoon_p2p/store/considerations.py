"""Who was considered for an order, and what each said: for `cocoon-node why`. The newest orders only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from cocoon_p2p.limits import CONSIDERATION_BYTES_MAX, CONSIDERATIONS_KEPT_MAX
from cocoon_p2p.store.database import Database

_PRUNE_EVERY = 64


@dataclass(frozen=True, slots=True)
class ConsiderationRecord:
    wish: str
    """The id of the order, 32 lower-case hexadecimal digits."""
    body: str
    """JSON."""


class Considerations:
    """The table: the `kept_max` newest."""

    def __init__(self, database: Database, *, kept_max: int = CONSIDERATIONS_KEPT_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._written = 0

    def save(self, records: Iterable[ConsiderationRecord]) -> None:
        """Add or replace these; one that is too long is left out."""
        with self._database.transaction():
            for record in records:
                if len(record.body.encode()) > CONSIDERATION_BYTES_MAX:
                    continue
                self._database.execute(
                    "REPLACE INTO considerations (wish, body) VALUES (?,?)", (record.wish, record.body)
                )
                if self._written % _PRUNE_EVERY == 0:
                    self.prune()
                self._written += 1

    def find(self, prefix: str, limit: int = 2) -> list[ConsiderationRecord]:
        """Those whose id begins so (hexadecimal digits), the newest first."""
        rows = self._database.all(
            "SELECT wish, body FROM considerations WHERE wish >= ? AND wish < ? ORDER BY number DESC LIMIT ?",
            (prefix, prefix + "g", limit),
        )
        return [ConsiderationRecord(cast(str, wish), cast(str, body)) for wish, body in rows]

    def of_poll(self, poll: str, limit: int) -> list[ConsiderationRecord]:
        """Those whose body has this `poll`, 32 lower-case hexadecimal digits, the oldest first."""
        rows = self._database.all(
            "SELECT wish, body FROM considerations "
            "WHERE CASE WHEN json_valid(body) THEN json_extract(body, '$.poll') END = ? ORDER BY number LIMIT ?",
            (poll, limit),
        )
        return [ConsiderationRecord(cast(str, wish), cast(str, body)) for wish, body in rows]

    def prune(self) -> int:
        """Forget the oldest beyond the bound; how many. `save` does it now and then by itself."""
        return self._database.execute(
            "DELETE FROM considerations WHERE number <= "
            "(SELECT number FROM considerations ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._kept_max,),
        )
