"""A machine whose clock is an hour wrong: it is told so, others are told of it, and nobody is blamed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.limits import ANNOUNCEMENT_INTERVAL_S
from cocoon_p2p.testing.simulation import Simulation


@pytest.mark.parametrize("wrong_by_s", [3600.0, -3600.0])
async def test_a_clock_an_hour_wrong(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path, wrong_by_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        right = [await sim.start(f"right-{number}", model=echo_model) for number in range(3)]
        wrong = await sim.start("wrong", model=echo_model, wrong_clock_s=wrong_by_s)
        await trio.sleep(2 * ANNOUNCEMENT_INTERVAL_S)
        peers = {running.node.peer_id for running in right}
        market = wrong.node._parts.market
        assert market.clocks.counts() == (3, 3)
        assert market.clocks.own_error_s() == pytest.approx(-wrong_by_s, abs=60)
        assert ("3600 s fast" if wrong_by_s > 0 else "s slow") in market.clocks.advice()
        assert wrong.node.status()["clock_advice"] == market.clocks.advice()
        for running in right:
            assert running.node.status()["clock_advice"] is None
            theirs = running.node._parts.market
            assert theirs.clocks.counts() == (1, 3)
            assert theirs.clocks.advice() == ""
            assert not running.node._parts.standing.of(wrong.node.peer_id).penalty
            assert {offer.peer for offer in theirs.offers("echo")} <= peers
        assert not any(wrong.node._parts.standing.of(peer).penalty for peer in peers)
        warnings = [
            record.getMessage() for record in caplog.records if "the clocks of this machine and" in record.getMessage()
        ]
        of_the_wrong = [text for text in warnings if f"peer {wrong.node.peer_id} differ by" in text]
        assert len(of_the_wrong) == 4, "one line at each of the others, not one an announcement"
        assert len(warnings) == 7
