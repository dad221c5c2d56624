"""Numbers that must survive a restart, by name: the sequence of the announcement, for instance."""

from __future__ import annotations

from typing import cast

from cocoon_p2p.store.database import Database


class Values:
    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str, default: int = 0) -> int:
        row = self._database.one("SELECT value FROM numbers WHERE name=?", (name,))
        return default if row is None else cast(int, row[0])

    def set(self, name: str, value: int) -> None:
        self._database.execute(
            "INSERT INTO numbers (name, value) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET value=excluded.value",
            (name, value),
        )

    def next(self, name: str, *, at_least: int = 0) -> int:
        """Count up and return the new number, never one that was returned before, and not below `at_least`."""
        with self._database.transaction():
            value = max(self.get(name) + 1, at_least)
            self.set(name, value)
        return value
