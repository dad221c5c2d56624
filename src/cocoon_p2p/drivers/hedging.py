"""One job at a second provider when the first is late, and at a third when that is late too: the first whole answer is taken,
and the others are told at once that theirs is not wanted any more. What did not arrive whole is not owed (job/1 §3.9), so the
job is paid once.

When "late" begins is `policy.backup`'s to say. Dean and Barroso, The Tail at Scale, CACM 56(2), 2013.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import trio

from cocoon_p2p.drivers.job_client import Attempt
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.limits import BACKUP_AGAIN_S
from cocoon_p2p.proto.job_effects import ClientEffect

NOT_NEEDED = "not needed any more: another provider was faster"

Carry = Callable[[Attempt], Awaitable[memoryview]]
"""Takes one attempt from the payment to the whole output. Raises CocoonError."""


class Backups(Protocol):
    """Where further legs come from."""

    def delay_s(self, leg: Attempt) -> float:
        """How long to wait for this leg before another starts."""

    async def another(self) -> Attempt | None:
        """One more leg, at a provider that has none yet; None where there is nobody now."""

    def failed(self, leg: Attempt, error: CocoonError, *, alone: bool) -> None:
        """Called in the step in which a leg failed by itself; `alone`: no other leg is left."""


@dataclass(slots=True)
class Race:
    """What came of it."""

    winner: Attempt | None = None
    output: memoryview | None = None
    overtaken: list[Attempt] = field(default_factory=list)
    """Legs that began before the winner and were still at it."""


async def race(first: Attempt, carry: Carry, backups: Backups, *, at_most: int) -> Race:
    """Carry the first leg through, and start others, at most so many at the same time, when those that run are late or one of
    them fails. Over when one output is whole, or no leg is left; every leg is over at the end."""
    return await (_alone(first, carry, backups) if at_most == 1 else _Racing(carry, backups, at_most).run(first))


async def _alone(leg: Attempt, carry: Carry, backups: Backups) -> Race:
    """Without a task of its own: most jobs are not hedged."""
    try:
        return Race(leg, await carry(leg))
    except CocoonError as error:
        backups.failed(leg, error, alone=True)
        return Race()


class _Racing:
    def __init__(self, carry: Carry, backups: Backups, at_most: int) -> None:
        self._carry = carry
        self._backups = backups
        self._at_most = at_most
        self._result = Race()
        self._running: list[tuple[Attempt, trio.CancelScope]] = []
        """In the order in which they began."""
        self._asking = trio.CancelScope()
        self._is_asking = False
        self._one_failed = trio.Event()
        self._nursery: trio.Nursery

    async def run(self, first: Attempt) -> Race:
        async with open_plain_nursery() as self._nursery:
            self._start(first)
            if self._at_most > 1:
                self._nursery.start_soon(self._call_backups, self._backups.delay_s(first))
        return self._result

    def _start(self, leg: Attempt) -> None:
        scope = trio.CancelScope()
        self._running.append((leg, scope))
        self._nursery.start_soon(self._run, leg, scope)

    async def _run(self, leg: Attempt, scope: trio.CancelScope) -> None:
        result = self._result
        leg.on_whole = lambda: self._won(leg)
        with scope:
            try:
                output = await self._carry(leg)
            except CocoonError as error:
                if result.winner is None or result.winner is leg:
                    self._failed(leg, error)
            else:
                if result.winner is leg:
                    result.output = output

    def _won(self, leg: Attempt) -> None:
        """Called in the step in which its last piece was opened: nothing of the others is opened after it."""
        result = self._result
        if result.winner is not None:
            return
        result.winner = leg
        self._asking.cancel()
        order = [each for each, _ in self._running]
        for other, scope in self._running:
            if other is leg or other.job.over:
                continue
            if order.index(other) < order.index(leg):
                result.overtaken.append(other)
            self._nursery.start_soon(self._end, other, scope, other.job.cancel(NOT_NEEDED))

    async def _end(self, leg: Attempt, scope: trio.CancelScope, effects: Sequence[ClientEffect]) -> None:
        with trio.CancelScope(shield=True):
            await leg.run_effects(effects)
        scope.cancel()  # it may wait for a line that is full

    def _failed(self, leg: Attempt, error: CocoonError) -> None:
        self._running = [each for each in self._running if each[0] is not leg]
        self._backups.failed(leg, error, alone=not self._running)
        if self._running or self._is_asking:
            self._one_failed.set()
        else:
            self._asking.cancel()

    async def _call_backups(self, delay_s: float) -> None:
        again_s = BACKUP_AGAIN_S
        with self._asking:
            while True:
                full = len(self._running) >= self._at_most
                with trio.move_on_after(float("inf") if full else delay_s):
                    await self._one_failed.wait()
                self._one_failed = trio.Event()
                self._is_asking = True
                leg = await self._backups.another()
                self._is_asking = False
                if leg is not None and self._result.winner is not None:
                    await leg.cancel()  # an answer came in the same moment
                    return
                if leg is not None:
                    self._start(leg)
                    delay_s = self._backups.delay_s(leg)
                elif not self._running:
                    return
                else:
                    delay_s, again_s = again_s, 2 * again_s
