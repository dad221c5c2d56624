"""The journal of the market, where the node's start fails."""

from __future__ import annotations

from typing import cast

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.drivers.journal import JournalKeeper
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.errors import StoreError
from cocoon_p2p.store.market_journal import MarketJournal


class ClosedJournal:
    def latest(self) -> list[bytes]:
        raise StoreError("Cannot operate on a closed database.")


async def test_a_keeper_that_is_cancelled_before_it_begins_complains_of_nothing(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    nothing = cast(MarketDriver, None)
    keeper = JournalKeeper(cast(MarketJournal, ClosedJournal()), nothing, cast(Clock, None))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        nursery.cancel_scope.cancel()
    assert not caplog.records
