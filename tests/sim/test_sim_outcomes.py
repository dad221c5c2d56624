"""Connections lost in mid-job: what such a job cost is known as soon as the provider is met again. Virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from test_sim_jobs import autojump_clock, run

from cocoon_p2p.errors import ExecutionError, TransportError
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.limits import OUTCOMES_ASKED_MAX
from cocoon_p2p.store import JobRecord
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.wire.job import JOB_PROTOCOL, Cancel, Failure, FailureCode, decode_message

__all__ = ["autojump_clock"]


async def lost_in_mid_job(
    client: RunningNode,
    provider: RunningNode,
    is_due: Callable[[], bool],
) -> TransportError:
    """One job, whose connection is cut when `is_due`."""
    caught: list[TransportError] = []

    async def job() -> None:
        with pytest.raises(TransportError) as error:
            await run(client)
        caught.append(error.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(job)
        while not is_due():  # noqa: ASYNC110
            await trio.sleep(0.01)
        await client.node._parts.network.disconnect(provider.node.peer_id)
    assert "1,020 nanogram count as spent" in (caught[0].hint or "")
    return caught[0]


async def newest(client: RunningNode) -> tuple[str, int]:
    row = client.node.jobs()[0]
    return row["state"], row["price_nanogram"]


async def first(client: RunningNode) -> tuple[str, int]:
    row = client.node.jobs()[-1]
    return row["state"], row["price_nanogram"]


async def spent(client: RunningNode) -> int:
    return int((await client.node.wallet())["spent_nanogram"])


async def test_what_the_provider_did_not_earn_comes_back(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, execute_s=5)
        client = await sim.start("client")
        error = await lost_in_mid_job(client, provider, lambda: provider.engine.models()[0].running > 0)
        assert error.message == f"the connection to provider {provider.node.peer_id} broke"
        assert await newest(client) == ("unknown", 1020)
        assert await spent(client) == 1020
        await run(client)
        assert await newest(client) == ("done", 1020)
        assert await first(client) == ("failed", 0), "its error stays, its price does not"
        assert client.node.jobs()[-1]["error"] == error.message
        assert await spent(client) == 1020
        assert (await provider.node.wallet())["earned_nanogram"] == 1020


async def test_what_the_provider_has_earned_stays_spent(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The output was under way when the connection went."""
    async with Simulation(tmp_path, latency_s=0.1) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        await lost_in_mid_job(client, provider, lambda: bool(provider.node.receipts()))
        assert await newest(client) == ("unknown", 1020)
        await run(client)
        await trio.sleep(5)
        assert await first(client) == ("failed", 1020)
        assert await spent(client) == 2 * 1020
        assert (await provider.node.wallet())["earned_nanogram"] == 2 * 1020


@pytest.mark.parametrize("who", ["client", "provider"])
async def test_the_question_outlives_a_crash(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, who: str
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, execute_s=5)
        client = await sim.start("client")

        async def job() -> None:
            with pytest.raises(TransportError):
                await run(client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(2)
            await sim.kill(who)
            nursery.cancel_scope.cancel()
        for name, model in (("provider", echo_model), ("client", None)):
            if name not in sim.nodes:
                await sim.start(name, model=model, execute_s=5)
        client = sim.nodes["client"]
        assert await newest(client) == ("unknown", 1020)
        await trio.sleep(90)
        await run(client)
        assert await first(client) == ("failed", 0)
        assert await spent(client) == 1020


async def test_a_job_that_goes_on_on_an_old_stream_is_ended_there(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The client came back before the provider noticed that it had gone: what it answers holds for good."""
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, execute_s=5)
        client = await sim.start("client")

        async def job() -> None:
            with pytest.raises(ExecutionError, match="cancelled by the client"):
                await run(client)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            while not provider.engine.models()[0].running:  # noqa: ASYNC110
                await trio.sleep(0.1)
            job_id = JobId(bytes.fromhex(client.node.jobs()[0]["job_id"]))
            network = client.node._parts.network
            stream = await network.open_stream(provider.node.peer_id, JOB_PROTOCOL)
            for asked in (job_id, job_id, JobId(bytes(16))):
                await stream.send(Cancel(asked).encode())
                answer = decode_message(await stream.receive())
                assert isinstance(answer, Failure)
                assert (answer.job_id, answer.code) == (asked, FailureCode.CANCELLED)
            assert not provider.engine.models()[0].running
        await trio.sleep(20)
        assert (await provider.node.wallet())["earned_nanogram"] == 0


async def test_it_asks_about_so_many_and_waits_for_no_answer(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """A provider of an earlier version says nothing to all that."""
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        model_id = next(iter(provider.engine.manifests))
        for number in range(2 * OUTCOMES_ASKED_MAX):
            client.node._parts.store.jobs.insert(
                JobRecord(
                    job_id=JobId(number.to_bytes(16)), role="client", model_id=model_id, model_name="echo",
                    peer_id=provider.node.peer_id, tier=Tier.OPEN, state="unknown", price=7, items=1, created_at_ms=1,
                    finished_at_ms=2,
                )
            )  # fmt: skip
        await run(client)
        await trio.sleep(1)
        states = [row["state"] for row in client.node.jobs()]
        assert states == ["done", *["failed"] * OUTCOMES_ASKED_MAX, *["unknown"] * OUTCOMES_ASKED_MAX]
