"""Connections lost in mid-job: what such a job cost is known as soon as the provider is met again. Virtual time."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from test_sim_jobs import autojump_clock, run

from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.errors import CocoonError, ExecutionError, PeerRefused, TransportError
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.limits import OUTCOMES_ASKED_MAX, PROGRESS_SILENCE_S
from cocoon_p2p.net.port import BulkFrame, Bytes
from cocoon_p2p.store import JobRecord
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.wire.job import JOB_PROTOCOL, Cancel, Failure, FailureCode, Receipt, decode_message

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


async def test_what_was_earned_with_an_answer_that_never_came_is_given_back(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The output was under way when the connection went."""
    async with Simulation(tmp_path, latency_s=0.1) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        await lost_in_mid_job(client, provider, lambda: bool(provider.node.receipts()))
        assert await newest(client) == ("unknown", 1020)
        assert (await provider.node.wallet())["earned_nanogram"] == 1020
        await run(client)
        await trio.sleep(5)
        assert await first(client) == ("failed", 0)
        assert await spent(client) == 1020, "for the one answer that came"
        assert (await provider.node.wallet())["earned_nanogram"] == 1020
        for node in (client, provider):
            assert len(node.node.receipts()) == 1
        (channel,) = (await provider.node.wallet())["channels"]
        assert channel["reserved_nanogram"] == 0


async def test_an_answer_whose_receipt_was_cut_off_is_paid_later(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the provider is slow between output and receipt, and then the connection goes."""
    honest, cut = Outbox.put_bulk, trio.Event()

    async def receipts_wait(outbox: Outbox, *frames: Bytes | BulkFrame, **how: Any) -> None:
        if any(not isinstance(f, BulkFrame) and isinstance(decode_message(f), Receipt) for f in frames):
            cut.set()
            await trio.sleep_forever()
        await honest(outbox, *frames, **how)

    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")

        async def job() -> None:
            result = await run(client)
            assert result.receipt is None
            assert result.payload.tensors

        with monkeypatch.context() as patch:
            patch.setattr(Outbox, "put_bulk", receipts_wait)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(job)
                await cut.wait()
                await trio.sleep(1)
                await client.node._parts.network.disconnect(provider.node.peer_id)
        assert await newest(client) == ("done", 1020)
        assert client.node.receipts() == []
        await run(client)
        await trio.sleep(5)
        assert len(client.node.receipts()) == 2
        assert await spent(client) == 2 * 1020
        assert (await provider.node.wallet())["earned_nanogram"] == 2 * 1020
        assert all(receipt["client_signature"] for receipt in provider.node.receipts())


async def test_a_frozen_provider_costs_seconds_and_no_money(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Its machine hangs, its connections stay: only its silence tells. The job is done by the other one."""
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two"):
            await sim.start(name, model=echo_model, execute_s=3)
        client = await sim.start("client")
        took: list[float] = []

        async def job() -> None:
            began = trio.current_time()
            await run(client)
            took.append(trio.current_time() - began)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            while not (busy := [n for n in ("one", "two") if sim.nodes[n].engine.models()[0].running]):  # noqa: ASYNC110
                await trio.sleep(0.1)
            sim.hub.freeze(sim.nodes[busy[0]].node.peer_id)
        assert took[0] < PROGRESS_SILENCE_S + 3 + 2
        sim.hub.heal()
        await trio.sleep(120)
        assert await spent(client) == 1020
        earned = [(await sim.nodes[n].node.wallet())["earned_nanogram"] for n in ("one", "two")]
        assert sorted(earned) == [0, 1020]


@pytest.mark.parametrize("hedge", [1, 2])
@pytest.mark.parametrize("seed", range(4))
async def test_nobody_pays_twice_or_for_nothing_whatever_breaks(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, seed: int, hedge: int
) -> None:
    """Connections are cut and machines hang at random; in the end both sides' books say one price for each answer."""
    rng = random.Random(seed)
    async with Simulation(tmp_path, seed=seed, latency_s=0.05) as sim:
        await sim.start("bootstrap")
        providers = [await sim.start(name, model=echo_model, execute_s=0.2) for name in ("one", "two", "three")]
        client = await sim.start("client")
        answers = 0

        async def jobs() -> None:
            nonlocal answers
            for _ in range(12):
                with suppress(CocoonError):
                    await run(client, hedge=hedge)
                    answers += 1
                await trio.sleep(rng.uniform(0, 0.5))

        async def trouble() -> None:
            while True:
                await trio.sleep(rng.uniform(0.1, 1.5))
                peer = rng.choice(providers).node.peer_id
                if rng.random() < 0.3:
                    sim.hub.freeze(peer)
                    await trio.sleep(rng.uniform(1, 9))
                    sim.hub.heal()
                else:
                    await client.node._parts.network.disconnect(peer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            async with trio.open_nursery() as running:
                for _ in range(3):
                    running.start_soon(jobs)
            nursery.cancel_scope.cancel()
        sim.hub.heal()
        await trio.sleep(120)
        for provider in providers:  # each is met once more
            with suppress(PeerRefused):  # by one that did too much for nothing
                await run(client, provider=provider.node.peer_id)
                answers += 1
        await trio.sleep(120)
        earned = [(await provider.node.wallet())["earned_nanogram"] for provider in providers]
        assert answers > 20
        assert await spent(client) == answers * 1020
        assert sum(earned) == answers * 1020
        assert all(row["state"] != "unknown" for row in client.node.jobs())


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
