"""Which model a name stood for when it was last used with success. Names are chosen by providers and prove nothing; what one
did here does. Bounded."""

from __future__ import annotations

from typing import cast

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import NAMES_REMEMBERED_MAX
from cocoon_p2p.store.database import Database


class ModelNames:
    """The table: the `kept_max` names that were set last."""

    def __init__(self, database: Database, *, kept_max: int = NAMES_REMEMBERED_MAX) -> None:
        self._database = database
        self._kept_max = kept_max

    def get(self, name: str) -> ModelId | None:
        row = self._database.one("SELECT model_id FROM model_names WHERE name=?", (name,))
        return None if row is None else ModelId(cast(str, row[0]))

    def set(self, name: str, model_id: ModelId) -> None:
        """Add or replace one; the oldest beyond the bound are forgotten."""
        with self._database.transaction():
            self._database.execute("DELETE FROM model_names WHERE name=?", (name,))
            self._database.execute("INSERT INTO model_names (name, model_id) VALUES (?,?)", (name, model_id))
            self._database.execute(
                "DELETE FROM model_names WHERE number <= "
                "(SELECT number FROM model_names ORDER BY number DESC LIMIT 1 OFFSET ?)",
                (self._kept_max,),
            )
