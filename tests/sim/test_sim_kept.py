"""A provider hands nothing out for a payment that a power cut could take away. Virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from test_sim_jobs import autojump_clock, run

from cocoon_p2p.errors import ExecutionError, SettlementError
from cocoon_p2p.testing.simulation import Simulation

__all__ = ["autojump_clock"]


async def test_the_result_waits_for_the_disk(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, finished = trio.Event(), trio.Event()
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        monkeypatch.setattr(provider.node._parts.settlement, "kept", disk.wait)

        async def job() -> None:
            await run(client)
            finished.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(5)  # virtual: the model has long run
            assert not finished.is_set()
            assert provider.node.receipts() == []
            disk.set()
        assert finished.is_set()
        assert len(provider.node.receipts()) == 1


async def test_a_disk_that_fails_costs_the_client_nothing(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise SettlementError("Input/output error", code="DATABASE")

    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        monkeypatch.setattr(provider.node._parts.settlement, "kept", fail)
        with pytest.raises(ExecutionError, match="disk failed"):
            await run(client)
        assert provider.node.receipts() == []
        assert (await client.node.wallet())["spent_nanogram"] == 0
