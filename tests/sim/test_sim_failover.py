"""Providers that die, freeze, leave, refuse and get dearer in the middle of things. Virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_jobs import X, autojump_clock, doubled, result_of, run

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ExecutionError, PeerRefused, RefusalReason
from cocoon_p2p.node import RunResult
from cocoon_p2p.policy.experience import Outcome
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing.simulation import RunningNode, Simulation

__all__ = ["autojump_clock"]

NAMES = ("one", "two", "three", "four", "five", "six")


async def start_all(sim: Simulation, model: Path, count: int, execute_s: float = 5.0) -> RunningNode:
    """So many providers, and a client that knows all of them."""
    await sim.start("bootstrap")
    for name in NAMES[:count]:
        await sim.start(name, model=model, behaviour=doubled, execute_s=execute_s)
    client = await sim.start("client")
    await client.node.offers("echo")
    await trio.sleep(2)
    return client


async def working(sim: Simulation, but: Sequence[str] = ()) -> str:
    """Who has begun to work on a job."""
    with trio.fail_after(60):
        while True:
            for name in NAMES:
                if name in sim.nodes and name not in but and sim.nodes[name].engine.models()[0].running:
                    return name
            await trio.sleep(0.01)


async def settled(sim: Simulation) -> tuple[int, int]:
    """(spent by the client, earned by all providers), after all have met again."""
    sim.hub.heal()
    await trio.sleep(120)
    client = sim.nodes["client"]
    spent = (await client.node.wallet())["spent_nanogram"]
    earned = [(await sim.nodes[n].node.wallet())["earned_nanogram"] for n in NAMES if n in sim.nodes]
    return int(spent), sum(earned)


@pytest.mark.parametrize("how", ["killed", "cut off", "frozen"])
async def test_a_job_outlives_four_providers(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 5)
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=60.0, max_price=1020))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            broken: dict[str, str] = {}
            while len(broken) < 4:
                name = await working(sim, list(broken))
                peer = broken[name] = sim.nodes[name].node.peer_id
                if how == "killed":
                    await sim.kill(name)
                elif how == "frozen":
                    sim.hub.freeze(peer)
                else:
                    await client.node._parts.network.disconnect(peer)
        (result,) = results
        assert np.array_equal(result_of(result), 2 * X)
        assert [attempt["provider"] for attempt in result.attempts] == list(broken.values())
        assert result.price_nanogram == 1020, "each may cost what the job may: what did not arrive is not owed"
        ids = [row["job_id"] for row in client.node.jobs()]
        assert len(ids) == 5
        assert set(ids) == {result.job_id}, "one wish"


async def test_who_came_during_a_long_job_is_considered(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=100)
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=300.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await working(sim)
            late = await sim.start("two", model=echo_model, behaviour=doubled)
            await trio.sleep(30)
            await sim.kill("one")
        assert results[0].provider == late.node.peer_id


async def test_who_said_goodbye_during_a_long_job_is_not_asked(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=20)
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=300.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            first = await working(sim)
            leaving, staying = (name for name in NAMES[:3] if name != first)
            gone, dead = (sim.nodes[name].node.peer_id for name in (leaving, first))
            await sim.nodes[leaving].leave()
            await trio.sleep(2)
            await sim.kill(first)
        (result,) = results
        assert result.provider == sim.nodes[staying].node.peer_id
        assert [each["provider"] for each in result.attempts] == [dead]
        said = {each["peer_id"]: each["answer"] for each in client.node.why(result.job_id)["providers"]}
        assert said.get(gone, "none") != "error", "it was not asked once more"


async def test_after_five_providers_it_is_given_up(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def broken(payload: Payload) -> Payload:
        raise ExecutionError("the worker was killed by signal 9", code="WORKER")

    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 6, execute_s=0.01)
        for name in NAMES:
            sim.nodes[name].engine.behaviour = broken
        with pytest.raises(CocoonError) as caught:
            await run(client)
        assert caught.value.code == "WORKER"
        assert sum(len(sim.nodes[name].node.jobs()) for name in NAMES) == limits.JOB_ATTEMPTS_MAX
        why = client.node.why((caught.value.hint or "").rpartition(" ")[2])
        assert sum(entry["answer"] == "error" for entry in why["providers"]) == 5
        assert why["chosen"] is None
        assert await settled(sim) == (0, 0)


async def test_the_deadline_ends_all_attempts(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 4, execute_s=1000)
        started = trio.current_time()

        async def job() -> None:
            with pytest.raises(CocoonError):
                await run(client, timeout_s=10.0)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(6)
            await sim.kill(await working(sim))
        assert trio.current_time() - started < 11.5
        assert await settled(sim) == (1020, 0), "of the one that was killed nobody ever hears again"


async def test_a_provider_that_failed_counts_for_less_from_then_on(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=2) as sim:
        client = await start_all(sim, echo_model, 2)
        experience = client.node._parts.experience
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, client)
            name = await working(sim)
            victim = sim.nodes[name].node.peer_id
            await sim.kill(name)
        (other,) = (sim.nodes[n].node.peer_id for n in ("one", "two") if n in sim.nodes)
        assert experience.reliability(victim) < 0.5 < experience.reliability(other)
        await client.leave()
        client = await sim.start("client")
        experience = client.node._parts.experience
        assert experience.reliability(victim) < 0.5 < experience.reliability(other), "that outlives a restart"


async def test_min_reliability_leaves_out_who_failed_and_keeps_strangers(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=2) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)
        peer = sim.nodes["one"].node.peer_id
        assert (await run(client, min_reliability=0.5)).provider == peer
        (offer,) = client.node._parts.market.offers("echo")
        client.node._parts.experience.note(peer, offer.offer.model_id, Outcome.WRONG)
        with pytest.raises(PeerRefused, match=r"its reliability is 0\.05; 0\.5 is wanted") as caught:
            await run(client, min_reliability=0.5)
        why = client.node.why((caught.value.hint or "").rpartition(" ")[2])
        assert why["providers"][0]["would_be_yes"] == "its reliability is 0.05: --min-reliability 0.04"
        assert (await run(client, min_reliability=0.04)).provider == peer


async def test_busy_providers_are_passed_over_until_one_has_room(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = NodeConfig()
    config = replace(config, provider=replace(config.provider, slots=1))
    async with Simulation(tmp_path, seed=4) as sim:
        await sim.start("bootstrap")
        for name in NAMES[:5]:
            await sim.start(name, model=echo_model, behaviour=doubled, execute_s=5, config=config)
        client, other = await sim.start("client"), await sim.start("other")
        for node in (client, other):
            await node.node.offers("echo")
        await trio.sleep(2)
        async with trio.open_nursery() as nursery:
            for name in NAMES[:4]:
                nursery.start_soon(lambda peer: run(other, provider=peer), sim.nodes[name].node.peer_id)
            await trio.sleep(1)
            result = await run(client)
        assert result.provider == sim.nodes["five"].node.peer_id


# --- firm offers ---


async def test_a_warm_job_goes_to_work_without_a_question(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, latency_s=0.1) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)
        cold = (await run(client)).timeline_ms
        warm = (await run(client)).timeline_ms
        assert cold["quote"] > 190
        assert warm["quote"] == 0, "its announced price was taken for a quote"
        assert warm["seal"] + warm["queue"] + warm["execute"] + warm["return"] < 300, "one round trip"
        assert await settled(sim) == (2040, 2040)


async def test_a_price_that_rose_is_paid_within_the_limit_and_refused_above_it(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's book is behind: it still has the old announcement, which has run out for the provider."""
    async with Simulation(tmp_path) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)
        await run(client)
        market = client.node._parts.market
        stale = [
            replace(
                each, offer=replace(each.offer, prices=tuple(replace(p, base=p.base // 2) for p in each.offer.prices))
            )
            for each in market.offers("echo")
        ]

        async def find(model: str) -> list[BookOffer]:
            return stale  # cheaper than it ever was

        monkeypatch.setattr(market, "find", find)
        result = await run(client, max_price=1020)
        assert (result.price_nanogram, [a["code"] for a in result.attempts]) == (1020, ["PRICE"])
        with pytest.raises(PeerRefused) as caught:
            await run(client, max_price=1019)
        assert (caught.value.reason, caught.value.needed) == (RefusalReason.PRICE, 1020)
        assert caught.value.signed is not None
        why = client.node.why((caught.value.hint or "").rpartition(" ")[2])
        (entry,) = why["providers"]
        assert entry["would_be_yes"] == "runs at ≥ 1,020 nanogram: --max-price 1020"
        assert entry["signed"]["body"]
        monkeypatch.undo()
        assert await settled(sim) == (2040, 2040)


def refusing_input(payload: Payload) -> Payload:
    raise ExecutionError("x must be something else", code="INPUT")


async def test_one_that_blames_the_input_is_doubted_and_two_are_believed(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)
        sim.nodes["one"].engine.behaviour = refusing_input
        with pytest.raises(ExecutionError, match="something else"):
            await run(client)
        await sim.start("two", model=echo_model, behaviour=doubled)
        await trio.sleep(60)
        for _ in range(20):
            assert np.array_equal(result_of(await run(client)), 2 * X)
        experience = client.node._parts.experience
        liar, honest = (sim.nodes[name].node.peer_id for name in ("one", "two"))
        assert experience.reliability(liar) < 0.5 < experience.reliability(honest)
        sim.nodes["two"].engine.behaviour = refusing_input
        done = sim.nodes["one"].engine.jobs_done + sim.nodes["two"].engine.jobs_done
        with pytest.raises(ExecutionError, match="something else"):
            await run(client)
        assert sim.nodes["one"].engine.jobs_done + sim.nodes["two"].engine.jobs_done == done
        assert (await settled(sim))[0] == 20 * 1020
