"""One task that fires a machine's timer at its next deadline, however that deadline moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from math import inf

import trio


class Alarm:
    """`next_deadline` is read again whenever `poke` says that it may have come nearer. `now` is the clock it is on."""

    def __init__(
        self,
        next_deadline: Callable[[], float | None],
        fire: Callable[[], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self._next_deadline = next_deadline
        self._fire = fire
        self._now = now
        self._waiting_until = inf
        self._poked = trio.Event()

    def poke(self) -> None:
        """The machine's deadline may have changed."""
        deadline = self._next_deadline()
        if deadline is not None and deadline < self._waiting_until:
            self._poked.set()

    def expect(self, deadline: float) -> None:
        """There is this deadline now; as `poke`, without looking at all the others."""
        if deadline < self._waiting_until:
            self._poked.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            deadline = self._next_deadline()
            self._waiting_until = inf if deadline is None else deadline
            with trio.move_on_after(max(0.0, self._waiting_until - self._now())):
                await self._poked.wait()
            self._poked = trio.Event()
            deadline = self._next_deadline()
            if deadline is not None and deadline <= self._now():
                await self._fire()
