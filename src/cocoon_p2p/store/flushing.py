"""Waiting for the disk without holding anybody up: what several tasks committed goes there in one round trip, in a thread."""

from __future__ import annotations

import trio

from cocoon_p2p.store.database import Database


class Flusher:
    """Of one database. `in_thread` is False under a virtual clock, which would run ahead of a thread."""

    def __init__(self, database: Database, *, in_thread: bool = True) -> None:
        self._database = database
        self._in_thread = in_thread
        self._turn = trio.Lock()
        self._asked = 0
        self._done = 0

    async def flush(self) -> None:
        """When it returns, all that was committed before the call survives a power cut. Raises the database's failure."""
        self._asked += 1
        mine = self._asked
        async with self._turn:
            if self._done >= mine:
                return  # the one before us, who waited for the disk, took ours along
            reached = self._asked
            if self._in_thread:
                await trio.to_thread.run_sync(self._database.flush)
            else:
                self._database.flush()
            self._done = reached
