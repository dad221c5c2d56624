"""One job at several providers at the same time: the first whole answer is taken, and the others are told at once that
theirs is not wanted any more. What did not arrive whole is not owed (job/1 §3.9), so the job is paid once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from cocoon_p2p.drivers.job_client import Attempt
from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError

NOT_NEEDED = "not needed any more: another provider was faster"

Carry = Callable[[Attempt], Awaitable[memoryview]]
"""Takes one attempt from the payment to the whole output. Raises CocoonError."""


@dataclass(slots=True)
class Race:
    """What came of it."""

    winner: Attempt | None = None
    output: memoryview | None = None
    failures: list[tuple[Attempt, CocoonError]] = field(default_factory=list)
    """Of those that failed by themselves."""


async def race(legs: Sequence[Attempt], carry: Carry) -> Race:
    """Carry all legs through at the same time until one output is whole; every leg is over at the end."""
    result = Race()
    scopes = {id(leg): trio.CancelScope() for leg in legs}

    async with open_plain_nursery() as nursery:

        def won(leg: Attempt) -> None:
            """Called in the step in which its last piece was opened: nothing of the others is opened after it."""
            if result.winner is not None:
                return
            result.winner = leg
            for other in legs:
                if other is not leg and not other.job.over:
                    effects = other.job.cancel(NOT_NEEDED)
                    nursery.start_soon(end, other, effects)

        async def end(other: Attempt, effects: Sequence[object]) -> None:
            with trio.CancelScope(shield=True):
                await other.run_effects(effects)  # type: ignore[arg-type]
            scopes[id(other)].cancel()  # it may wait for a line that is full

        async def run(leg: Attempt) -> None:
            leg.on_whole = lambda: won(leg)
            with scopes[id(leg)]:
                try:
                    output = await carry(leg)
                except CocoonError as error:
                    if result.winner is None or result.winner is leg:
                        result.failures.append((leg, error))
                else:
                    if result.winner is leg:
                        result.output = output

        for leg in legs:
            nursery.start_soon(run, leg)
    return result
