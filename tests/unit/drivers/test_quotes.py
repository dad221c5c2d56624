"""Asking several providers at once, when whoever asked goes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import trio
import trio.testing

from cocoon_p2p.drivers.quotes import Asked, Asker, Terms
from cocoon_p2p.ids import JobId, PeerId


@dataclass
class Quote:
    cancelled: bool = False

    async def cancel(self) -> None:
        self.cancelled = True


class Jobs:
    """`quick` quotes at once, everybody else never."""

    def __init__(self) -> None:
        self.quotes: list[Quote] = []
        self.quoted = trio.Event()

    async def ask(self, peer: PeerId, addresses: Sequence[str], *terms: Any, deadline: float) -> Quote:
        if peer != "quick":
            await trio.sleep_forever()
        self.quotes.append(Quote())
        self.quoted.set()
        return self.quotes[-1]


def asker(jobs: Jobs) -> Asker:
    return Asker(jobs, {PeerId("quick"): (), PeerId("mute"): ()}, Terms(JobId(bytes(16)), 100.0))  # type: ignore[arg-type]


PEERS = [PeerId("quick"), PeerId("mute")]


async def test_quotes_that_nobody_waits_for_any_more_are_cancelled() -> None:
    jobs = Jobs()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: asker(jobs).ask(PEERS, None, enough=2))  # type: ignore[arg-type]
        await jobs.quoted.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [quote.cancelled for quote in jobs.quotes] == [True]


async def test_quotes_that_came_in_time_are_not() -> None:
    jobs = Jobs()
    asked: Asked = await asker(jobs).ask(PEERS, None, enough=1)  # type: ignore[arg-type]
    assert [quote.cancelled for quote in jobs.quotes] == [False]
    assert asked.quotes == jobs.quotes
    assert asked.silent == {"mute"}
