"""One job at several providers at once: the first answer is taken and paid, and only that. Virtual time."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_failover import NAMES, settled, start_all
from test_sim_jobs import X, autojump_clock, doubled, result_of, run

from cocoon_p2p.errors import CocoonError, ConfigError, ExecutionError
from cocoon_p2p.testing.simulation import Simulation

__all__ = ["autojump_clock"]


async def test_the_faster_one_is_taken_and_the_other_is_told_at_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=0.5)
        sim.nodes["one"].engine.execute_s = 50
        started = trio.current_time()
        result = await run(client, hedge=2)
        assert trio.current_time() - started < 1
        assert result.provider == sim.nodes["two"].node.peer_id
        assert np.array_equal(result_of(result), 2 * X)
        await trio.sleep(0.1)
        assert sim.nodes["one"].engine.models()[0].running == 0, "it does not work for nothing"
        assert await settled(sim) == (1020, 1020)
        rows = {row["peer_id"]: row["state"] for row in client.node.jobs()}
        assert sorted(rows.values()) == ["done", "failed"]
        assert rows[result.provider] == "done"
        (job_id,) = {row["job_id"] for row in client.node.jobs()}
        assert client.node.why(job_id)["chosen"] == result.provider


async def test_two_that_are_equally_fast_are_paid_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Both answers are on their way when the first one is whole."""
    async with Simulation(tmp_path, seed=1, latency_s=0.05) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=0.1)
        for _ in range(4):
            assert np.array_equal(result_of(await run(client, hedge=3)), 2 * X)
        assert await settled(sim) == (4 * 1020, 4 * 1020)
        assert sum(row["state"] == "done" for row in client.node.jobs()) == 4
        assert all(row["state"] in ("done", "failed") for row in client.node.jobs())


async def test_while_one_lives_a_hedged_job_does_not_notice(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=5)
        async with trio.open_nursery() as nursery:
            times: list[float] = []

            async def job() -> None:
                started = trio.current_time()
                assert (await run(client, hedge=2)).attempts[0]["provider"] == victim
                times.append(trio.current_time() - started)

            victim = sim.nodes["one"].node.peer_id
            nursery.start_soon(job)
            await trio.sleep(3)
            await sim.kill("one")
        assert times[0] < 5.5, "no more than the work takes"


async def test_when_all_fail_the_job_goes_on_elsewhere(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=3) as sim:
        client = await start_all(sim, echo_model, 4, execute_s=5)
        results = []

        async def job() -> None:
            results.append(await run(client, hedge=2))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(3)
            busy = [name for name in NAMES[:4] if sim.nodes[name].engine.models()[0].running]
            assert len(busy) == 2
            for name in busy:
                await sim.kill(name)
        assert len(results[0].attempts) == 2
        assert await settled(sim) == (3 * 1020, 1020), "of the two dead ones nobody ever hears again"


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
