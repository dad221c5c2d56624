"""What we know of providers from our own jobs (policy/experience.py). Survives a restart; bounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import EXPERIENCES_KEPT_MAX
from cocoon_p2p.policy.experience import Experience
from cocoon_p2p.store.database import Database, Row

_COLUMNS = "peer_id, model_id, good, bad, at_ms, tries, overhead_ms, item_us"
_PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class ExperienceRecord:
    peer_id: PeerId
    model_id: str
    """"" for all models of the provider together."""
    experience: Experience


class Experiences:
    """The table: the `kept_max` that changed last."""

    def __init__(self, database: Database, *, kept_max: int = EXPERIENCES_KEPT_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._written = 0

    def save(self, records: Iterable[ExperienceRecord]) -> None:
        """Add or replace these."""
        with self._database.transaction():
            for record in records:
                self._database.execute(
                    f"REPLACE INTO experiences ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?)", _row_of(record)
                )
                if self._written % _PRUNE_EVERY == 0:
                    self.prune()
                self._written += 1

    def all(self) -> list[ExperienceRecord]:
        """Oldest first."""
        rows = self._database.all(f"SELECT {_COLUMNS} FROM experiences ORDER BY at_ms, peer_id, model_id")
        return [_record_of(row) for row in rows]

    def prune(self) -> int:
        """Forget the oldest beyond the bound; how many. `save` does it now and then by itself."""
        return self._database.execute(
            "DELETE FROM experiences WHERE (peer_id, model_id) IN (SELECT peer_id, model_id FROM experiences "
            "ORDER BY at_ms DESC, peer_id, model_id LIMIT -1 OFFSET ?)",
            (self._kept_max,),
        )


def _row_of(record: ExperienceRecord) -> Row:
    known = record.experience
    return (
        record.peer_id,
        record.model_id,
        known.good,
        known.bad,
        known.at_ms,
        known.tries,
        known.overhead_ms,
        known.item_us,
    )


def _record_of(row: Row) -> ExperienceRecord:
    peer_id, model_id, good, bad, at_ms, tries, overhead_ms, item_us = row
    return ExperienceRecord(
        PeerId(cast(str, peer_id)),
        cast(str, model_id),
        Experience(
            good=cast(float, good),
            bad=cast(float, bad),
            at_ms=cast(int, at_ms),
            tries=cast(int, tries),
            overhead_ms=cast("float | None", overhead_ms),
            item_us=cast("float | None", item_us),
        ),
    )
