"""Asking several providers at once, when whoever asked goes away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from cocoon_p2p.drivers.quotes import Asked, Asker, Terms
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import QUOTE_SILENT_S


@dataclass
class Quote:
    cancelled: bool = False

    async def cancel(self) -> None:
        self.cancelled = True


class Jobs:
    """`quick` quotes after `takes_s`, everybody else never."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s = takes_s
        self.quotes: list[Quote] = []
        self.quoted = trio.Event()

    async def ask(self, peer: PeerId, addresses: Sequence[str], *terms: Any, deadline: float) -> Quote:
        if peer != "quick":
            await trio.sleep_forever()
        await trio.sleep(self.takes_s)
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


@pytest.mark.parametrize("waited_long", [False, True])
async def test_only_who_was_waited_for_long_enough_kept_us_waiting(
    autojump_clock: trio.testing.MockClock, waited_long: bool
) -> None:
    """Who is a tenth of a second behind the first one is no worse than that."""
    jobs = Jobs(takes_s=QUOTE_SILENT_S if waited_long else 0.0)
    asked = await asker(jobs).ask(PEERS, None, enough=1)  # type: ignore[arg-type]
    assert asked.silent == {PeerId("mute")}
    assert asked.kept_waiting == ({PeerId("mute")} if waited_long else set())
