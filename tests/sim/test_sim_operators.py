"""Whole nodes whose operators have idle rules, and prices that follow demand. Virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from test_sim_jobs import autojump_clock, run

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.engines import EngineSet
from cocoon_p2p.node import RunResult
from cocoon_p2p.policy.idle import MachineFacts
from cocoon_p2p.testing.simulation import RunningNode, Simulation

__all__ = ["autojump_clock"]

USED, IDLE = MachineFacts(0, user_idle_s=60), MachineFacts(0, user_idle_s=3600)
RULES = replace(NodeConfig(), idle=replace(NodeConfig().idle, user_idle_minutes=10.0, grace_s=30.0))


class ScriptedMachine:
    """A machine that somebody uses, or not, as the test says."""

    def __init__(self, facts: MachineFacts) -> None:
        self.now = facts

    async def facts(self) -> MachineFacts:
        return self.now


async def seen_by(client: RunningNode) -> set[str]:
    """Who offers something, as a client's book has it now."""
    return {offer.peer for offer in client.node._parts.market.offers()}


async def test_a_machine_in_use_offers_nothing_until_it_idles_and_again_when_it_is_used(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    machine = ScriptedMachine(USED)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, config=RULES, machine=machine)
        client = await sim.start("client")
        await trio.sleep(60)
        assert await seen_by(client) == set()
        idle = provider.node.status()["idle"]
        assert idle["resting"]
        assert idle["detail"] == "somebody uses this machine (idle for 1 of 10 minutes)"
        machine.now = IDLE
        await trio.sleep(10)
        assert await seen_by(client) == {provider.node.peer_id}
        assert not provider.node.status()["idle"]["resting"]
        assert (await run(client)).provider == provider.node.peer_id
        machine.now = USED
        await trio.sleep(10)
        assert await seen_by(client) == set()
        assert client.node.status()["idle"] is None


async def test_a_job_that_ends_within_the_grace_is_finished_and_paid(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    machine = ScriptedMachine(IDLE)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, config=RULES, machine=machine, execute_s=20.0)
        client = await sim.start("client")
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=200.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(3)
            machine.now = USED
        (result,) = results
        assert result.provider == provider.node.peer_id
        assert result.price_nanogram == 1020


async def test_a_job_that_takes_longer_goes_to_another_provider_and_is_paid_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    machines = {name: ScriptedMachine(IDLE) for name in ("a", "b")}
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for name, machine in machines.items():
            await sim.start(name, model=echo_model, config=RULES, machine=machine, execute_s=1000.0)
        client = await sim.start("client")
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=600.0))

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(3)
            first, second = sorted(
                (sim.nodes[name] for name in machines), key=lambda each: not each.node.models()[0]["running"]
            )
            second.engine.execute_s = 0.01
            machines[first.name].now = USED
        (result,) = results
        assert result.provider == second.node.peer_id
        assert 30 < trio.current_time() - began < 3 + 5 + 30 + 5  # a look, the grace, and a moment
        await trio.sleep(5)
        assert (await client.node.wallet())["spent_nanogram"] == 1020
        assert (await first.node.wallet())["earned_nanogram"] == 0
        (given_up,) = first.node.jobs()
        assert given_up["state"] == "failed"


async def test_a_client_that_insists_on_a_machine_at_rest_is_told_so(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    machine = ScriptedMachine(IDLE)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, config=RULES, machine=machine)
        client = await sim.start("client")
        await run(client)
        machine.now = USED
        await trio.sleep(10)
        with pytest.raises(CocoonError):
            await run(client, timeout_s=20.0)
        assert (await client.node.wallet())["spent_nanogram"] == 1020


async def test_a_price_in_demand_rises_is_announced_falls_back_and_outlives_a_restart(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    section = replace(NodeConfig().provider, pricing="follow-demand", slots=1)
    config = replace(NodeConfig(), provider=section)
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, config=config, execute_s=9.5)
        client = await sim.start("client")

        def asked() -> int:
            (offer,) = client.node._parts.market.offers("echo")
            return min(price.base for price in offer.offer.prices)

        first = await run(client, timeout_s=60.0)
        for _ in range(20):
            last = await run(client, timeout_s=60.0)
        assert first.price_nanogram <= 1050
        await trio.sleep(1)
        assert asked() > 1300
        assert last.price_nanogram > 1300
        risen = provider.node.models()[0]["price_base"]
        await provider.leave()
        provider = await sim.start("provider", model=echo_model, config=config)
        await trio.sleep(2)
        assert asked() == risen
        await trio.sleep(600)
        assert asked() == 500  # the floor
        assert provider.node.models()[0]["pricing"] == "follow-demand"


async def test_a_model_that_has_no_room_stands_in_the_status_until_it_is_taken_away(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulation(tmp_path) as sim:
        provider = (await sim.start("provider", model=echo_model)).node
        assert provider.status()["not_offered"] == []
        (row,) = provider.models()
        await provider.unload_model("echo")
        assert provider.status()["not_offered"] == [], "somebody wanted that"

        async def has_no_room(*_: object, **__: object) -> None:
            raise ExecutionError("it would take about 9.1 GiB of memory", code="LIMITS")

        with monkeypatch.context() as patch:
            patch.setattr(EngineSet, "load", has_no_room)
            with pytest.raises(ExecutionError):
                await provider.serve_model("echo")
        told = {"name": "echo", "model_id": row["model_id"], "problem": "it would take about 9.1 GiB of memory"}
        assert provider.status()["not_offered"] == [told]
        await provider.serve_model("echo")
        assert provider.status()["not_offered"] == []
