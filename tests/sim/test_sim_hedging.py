"""A second provider for a job whose first is late: the first answer is taken and paid, and only that. Virtual time."""

from __future__ import annotations

import math
import random
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_failover import NAMES, settled, start_all, working
from test_sim_jobs import X, autojump_clock, doubled, result_of, run

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers import purchase
from cocoon_p2p.errors import CocoonError, ConfigError, ExecutionError
from cocoon_p2p.limits import PROGRESS_SILENCE_S
from cocoon_p2p.node import RunResult
from cocoon_p2p.testing.simulation import RunningNode, Simulation

__all__ = ["autojump_clock"]


async def warmed(sim: Simulation, model: Path, count: int, execute_s: float) -> RunningNode:
    """A client that has had a job done by each of so many providers, and so knows how long one takes."""
    client = await start_all(sim, model, count, execute_s=execute_s)
    for name in NAMES[:count]:
        await run(client, provider=sim.nodes[name].node.peer_id)
    return client


async def test_a_second_one_begins_when_the_first_is_late_and_the_loser_is_told_at_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await warmed(sim, echo_model, 2, execute_s=0.5)
        engines = {name: sim.nodes[name].engine for name in NAMES[:2]}
        times: list[float] = []
        results: list[RunResult] = []

        async def job() -> None:
            started = trio.current_time()
            results.append(await run(client, hedge=2))
            times.append(trio.current_time() - started)

        for engine in engines.values():
            engine.execute_s = 50
        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            first = await working(sim)
            (second,) = (name for name in NAMES[:2] if name != first)
            engines[second].execute_s = 0.5
            await trio.sleep(0.5)
            assert engines[second].models()[0].running == 0, "the first has its time"
        assert 1.5 * 0.5 + 0.5 < times[0] < 1.5
        assert results[0].provider == sim.nodes[second].node.peer_id
        assert results[0].attempts == []
        assert np.array_equal(result_of(results[0]), 2 * X)
        await trio.sleep(0.1)
        assert engines[first].models()[0].running == 0, "it does not work for nothing"
        assert await settled(sim) == (3 * 1020, 3 * 1020)
        states = {row["peer_id"]: row["state"] for row in client.node.jobs() if row["job_id"] == results[0].job_id}
        assert states == {
            sim.nodes[first].node.peer_id: "failed",
            sim.nodes[second].node.peer_id: "done",
        }
        assert client.node.why(results[0].job_id)["chosen"] == results[0].provider
        experience = client.node._parts.experience
        assert experience.reliability(sim.nodes[first].node.peer_id) < experience.reliability(results[0].provider)


async def test_two_that_are_equally_fast_are_paid_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both answers are on their way when the first one is whole."""
    monkeypatch.setattr(purchase, "backup_delay_s", lambda *_: 0.001)
    async with Simulation(tmp_path, seed=1, latency_s=0.05) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=0.1)
        for _ in range(4):
            assert np.array_equal(result_of(await run(client, hedge=3)), 2 * X)
        assert await settled(sim) == (4 * 1020, 4 * 1020)
        assert sum(row["state"] == "done" for row in client.node.jobs()) == 4
        assert len(client.node.jobs()) > 6
        assert all(row["state"] in ("done", "failed") for row in client.node.jobs())


async def test_honest_hedging_is_never_refused(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Two equal providers whose work takes 50 ms, and now and then twice or three times that: hardly any of it is thrown
    away, and the load grows little."""
    rng = random.Random(5)
    async with Simulation(tmp_path, seed=5, latency_s=0.01) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=0.05)
        for _ in range(200):
            for name in NAMES[:2]:
                sim.nodes[name].engine.execute_s = rng.lognormvariate(math.log(0.05), 0.4)
            result = await run(client, hedge=2)
            assert result.attempts == [], "nobody refuses"
        asked = len(client.node.jobs(limit=1000))
        assert 205 <= asked <= 240, "some are asked, and the load grows by a fifth at most"
        assert sum(sim.nodes[name].engine.jobs_done for name in NAMES[:2]) <= 210
        assert await settled(sim) == (200 * 1020, 200 * 1020)


async def test_hedging_cuts_the_tail(tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock) -> None:
    """One job in twenty takes a provider forty times as long."""
    times: dict[int, list[float]] = {}
    for hedge in (1, 2):
        rng = random.Random(7)
        async with Simulation(tmp_path / str(hedge), seed=7, latency_s=0.01) as sim:
            client = await warmed(sim, echo_model, 2, execute_s=0.05)
            times[hedge] = []
            for _ in range(200):
                for name in NAMES[:2]:
                    sim.nodes[name].engine.execute_s = 2.0 if rng.random() < 0.05 else 0.05
                started = trio.current_time()
                result = await run(client, hedge=hedge)
                times[hedge].append(trio.current_time() - started)
                assert result.attempts == []
            assert len(client.node.jobs(limit=1000)) < 202 + 200 // 5
            assert (await settled(sim))[0] == 202 * 1020
    p50 = {hedge: sorted(taken)[100] for hedge, taken in times.items()}
    p99 = {hedge: sorted(taken)[197] for hedge, taken in times.items()}
    assert p99[1] > 2
    assert p99[2] < 0.4
    assert p50[2] == pytest.approx(p50[1], rel=0.1)


async def test_when_one_fails_the_next_begins_at_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=5)
        times: list[float] = []

        async def job() -> None:
            started = trio.current_time()
            result = await run(client, hedge=2)
            times.append(trio.current_time() - started)
            assert [each["provider"] for each in result.attempts] == [victim]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            name = await working(sim)
            victim = sim.nodes[name].node.peer_id
            await trio.sleep(1)
            await sim.kill(name)
        assert times[0] < 1 + 5 + 0.5


async def test_while_a_backup_lives_a_hedged_job_does_not_notice(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await warmed(sim, echo_model, 2, execute_s=2)
        for name in NAMES[:2]:
            sim.nodes[name].engine.execute_s = 6
        times: list[float] = []

        async def job() -> None:
            started = trio.current_time()
            assert (await run(client, hedge=2)).attempts[0]["provider"] == victim
            times.append(trio.current_time() - started)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            name = await working(sim)
            victim = sim.nodes[name].node.peer_id
            await working(sim, [name])
            await sim.kill(name)
        assert times[0] < 1.5 * 2 + 6 + 0.5


async def test_when_all_fail_the_job_goes_on_elsewhere(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=3) as sim:
        client = await warmed(sim, echo_model, 4, execute_s=2)
        for name in NAMES[:4]:
            sim.nodes[name].engine.execute_s = 8
        results = []

        async def job() -> None:
            results.append(await run(client, hedge=2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            first = await working(sim)
            busy = [first, await working(sim, [first])]
            for name in busy:
                await sim.kill(name)
        assert len(results[0].attempts) == 2
        assert await settled(sim) == (7 * 1020, 3 * 1020), "of the two dead ones nobody ever hears again"


async def test_one_that_shows_that_it_works_is_not_given_up_and_hedged(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """It works far longer than it ever said."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await warmed(sim, echo_model, 2, execute_s=0.5)
        for name in NAMES[:2]:
            sim.nodes[name].engine.execute_s = 40
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, hedge=2, timeout_s=60.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            first = await working(sim)
            at = trio.current_time()
            second = await working(sim, [first])
            assert 0.7 < trio.current_time() - at < 1.5
            await trio.sleep(30)
            assert all(sim.nodes[name].engine.models()[0].running for name in (first, second)), "neither is given up"
        assert results[0].provider == sim.nodes[first].node.peer_id
        assert results[0].attempts == []
        started = trio.current_time()
        assert (await run(client, timeout_s=60.0)).attempts == [], "while PROGRESS comes it is waited for"
        assert trio.current_time() - started > 40


async def test_a_frozen_one_is_given_up_after_its_silence(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=3)
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, timeout_s=60.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            name = await working(sim)
            frozen = sim.nodes[name].node.peer_id
            await trio.sleep(1)
            sim.hub.freeze(frozen)
            at = trio.current_time()
            await working(sim, [name])
            assert trio.current_time() - at < PROGRESS_SILENCE_S + 0.5
        assert [(each["provider"], each["code"]) for each in results[0].attempts] == [(frozen, "SILENT")]
        offered = {each.peer for each in client.node._parts.market.offers("echo")}
        assert frozen not in offered, "other books do not bring it back"


async def test_a_busy_backup_does_it_later_when_the_job_is_in_need(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = replace(NodeConfig(), provider=replace(NodeConfig().provider, slots=1))
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        for name in NAMES[:2]:
            await sim.start(name, model=echo_model, behaviour=doubled, execute_s=0.5, config=config)
        client, other = await sim.start("client"), await sim.start("other")
        for node in (client, other):
            await node.node.offers("echo")
        await trio.sleep(2)
        one, two = (sim.nodes[name].node.peer_id for name in NAMES[:2])
        for provider in (one, two):
            await run(client, provider=provider)
        for name in NAMES[:2]:
            sim.nodes[name].engine.execute_s = 100
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client, hedge=2, timeout_s=60.0))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            first = await working(sim)
            (second,) = (name for name in NAMES[:2] if name != first)
            sim.nodes[second].engine.execute_s = 5
            nursery.start_soon(lambda: run(other, provider=sim.nodes[second].node.peer_id))
            await trio.sleep(10)
            await sim.kill(first)
        assert results[0].provider == sim.nodes[second].node.peer_id


async def test_a_wrong_input_is_no_race(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        client = await start_all(sim, echo_model, 2)
        with pytest.raises(ExecutionError, match="float32"):
            await client.node.run("echo", {"x": X.astype(np.float64)}, hedge=2)
        with pytest.raises(ConfigError, match="hedge must be"):
            await run(client, hedge=5)
        with pytest.raises(ConfigError, match="either hedge or quorum"):
            await run(client, hedge=2, quorum=3)


async def test_one_that_is_cancelled_costs_nothing_at_any_provider(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=100)
        with trio.move_on_after(2):
            await run(client, hedge=3, timeout_s=200.0)
        await trio.sleep(1)
        assert not any(sim.nodes[name].engine.models()[0].running for name in NAMES[:3])
        assert await settled(sim) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_nobody_is_paid_twice_and_nothing_is_lost_whatever_happens(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    """Providers die and come back, hang, and lose their connections, over a line that loses packets. In the end the books
    of the payer and of the payees say the same: one price for one answer."""
    rng = random.Random(seed)
    async with Simulation(tmp_path, seed=seed, latency_s=0.03, loss=0.02) as sim:
        client = await start_all(sim, echo_model, 4, execute_s=0.3)
        answers: list[str] = []

        async def jobs() -> None:
            for _ in range(8):
                with suppress(CocoonError):
                    result = await run(client, hedge=rng.choice((1, 2, 3)), timeout_s=20.0)
                    assert np.array_equal(result_of(result), 2 * X)
                    answers.append(result.job_id)
                await trio.sleep(rng.uniform(0, 1))

        async def trouble() -> None:
            while True:
                await trio.sleep(rng.uniform(0.2, 1.5))
                name = rng.choice(NAMES[:4])
                what = rng.random()
                if what < 0.3:
                    await sim.kill(name)
                    await trio.sleep(rng.uniform(0.1, 3))
                    sim.hub.heal()
                    await sim.start(name, model=echo_model, behaviour=doubled, execute_s=0.3)
                elif what < 0.6:
                    sim.hub.freeze(sim.nodes[name].node.peer_id)
                    await trio.sleep(rng.uniform(1, 9))
                    sim.hub.heal()
                else:
                    await client.node._parts.network.disconnect(sim.nodes[name].node.peer_id)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            async with trio.open_nursery() as running:
                for _ in range(3):
                    running.start_soon(jobs)
            nursery.cancel_scope.cancel()
        sim.hub.heal()
        for name in NAMES[:4]:  # one that was dead at the end comes back with its books
            if name not in sim.nodes:
                await sim.start(name, model=echo_model, behaviour=doubled)
        await trio.sleep(120)
        for name in NAMES[:4]:  # each is met once more, and asked what it has earned
            with suppress(CocoonError):
                answers.append((await run(client, provider=sim.nodes[name].node.peer_id)).job_id)
        assert len(answers) > 12
        assert len(set(answers)) == len(answers)
        assert await settled(sim) == (1020 * len(answers), 1020 * len(answers))
        done = [row["job_id"] for row in client.node.jobs() if row["state"] == "done"]
        assert sorted(done) == sorted(answers), "exactly one provider is paid for each answer"
