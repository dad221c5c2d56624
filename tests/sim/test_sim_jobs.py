"""Whole nodes over the simulated network, in virtual time: finding, choosing, paying, failing over, and hostile peers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ExecutionError, PeerRefused, RefusalReason, TransportError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.net.port import AddressesChanged
from cocoon_p2p.node import RunRequest, RunResult
from cocoon_p2p.tensors import Payload, Tensor
from cocoon_p2p.testing.simulation import RunningNode, Simulation

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


def doubled(payload: Payload) -> Payload:
    x = np.frombuffer(payload.tensors[0].data, np.float32)
    return Payload((Tensor("y", "float32", payload.tensors[0].shape, (2 * x).tobytes()),))


async def nothing_was_spent(client: RunningNode) -> None:
    """The provider has said that it earned nothing for the client's one job, so the money is free again."""
    wallet = await client.node.wallet()
    (channel,) = wallet["channels"]
    assert (wallet["spent_nanogram"], channel["reserved_nanogram"], channel["earned_nanogram"]) == (0, 0, 0)
    (job,) = client.node.jobs()
    assert (job["state"], job["price_nanogram"]) == ("failed", 0)
    assert job["error"]


async def run(client: RunningNode, **options: object) -> RunResult:
    return await client.node.run_payload(RunRequest("echo", **options), to_payload({"x": X}))  # type: ignore[arg-type]


def result_of(result: RunResult) -> np.ndarray:
    (y,) = result.payload.tensors
    return np.frombuffer(y.data, np.float32).reshape(y.shape)


async def test_a_newcomer_finds_a_provider_and_pays_it(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        result = await run(client)
        assert np.array_equal(result_of(result), 2 * X)
        assert result.price_nanogram == 1020
        assert result.provider == provider.node.peer_id
        assert result.receipt is not None
        assert result.receipt["client_signature"]
        legs = {k: v for k, v in result.timeline_ms.items() if k != "total"}
        assert sum(legs.values()) == pytest.approx(result.timeline_ms["total"], abs=0.01)
        assert legs["execute"] == pytest.approx(10)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(1)
        wallet = await client.node.wallet()
        assert (wallet["spent_nanogram"], wallet["available_nanogram"]) == (1020, 9_500_000_000)
        assert (await provider.node.wallet())["earned_nanogram"] == 1020
        for node, role in ((client, "client"), (provider, "provider")):
            (job,) = node.node.jobs()
            assert (job["role"], job["state"], job["price_nanogram"]) == (role, "done", 1020)
            (receipt,) = node.node.receipts()
            assert receipt["client_signature"]
            assert receipt["model_name"] == job["model_name"] == "echo"
        assert all(buffer.released for buffer in provider.engine.buffers)


async def test_many_jobs_at_once_use_one_stream_and_add_up(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        await run(client)
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(run, client)
        await trio.sleep(1)
        assert (await client.node.wallet())["spent_nanogram"] == 31 * 1020
        assert (await provider.node.wallet())["earned_nanogram"] == 31 * 1020
        (channel,) = (await provider.node.wallet())["channels"]
        assert (channel["cumulative_nanogram"], channel["reserved_nanogram"]) == (31 * 1020, 0)


async def test_a_gossiped_offer_is_heard_without_asking(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        client = await sim.start("client")
        await sim.start("provider", model=echo_model)
        await trio.sleep(30)
        (offer,) = await client.node.offers()
        assert (offer["name"], offer["prices"]["sealed"]["base_nanogram"]) == ("echo", 1000)


async def test_a_client_that_knows_one_provider_looks_for_more(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        client = await sim.start("client")
        for name in ("one", "two", "three"):
            await sim.start(name, model=echo_model)
        await client.node.offers("echo")
        await trio.sleep(limits.DISCOVERY_INTERVAL_S)
        client.node._parts.market._book.forget(sim.nodes["two"].node.peer_id)
        assert len(await client.node.offers("echo")) == 2
        await trio.sleep(1)
        assert len(client.node._parts.market.offers("echo")) == 3


async def test_a_provider_that_vanished_is_forgotten_within_a_minute(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        assert len(await client.node.offers("echo")) == 1
        await sim.kill("provider")
        await trio.sleep(60)
        assert await client.node.offers("echo") == []


async def test_a_provider_that_came_back_elsewhere_is_found_again(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        await run(client)
        before = provider.node.addresses()
        market = client.node._parts.market
        stale = market._book.heard(provider.node.peer_id)
        assert stale is not None
        await sim.kill("provider")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        assert provider.node.addresses() != before
        market._book._entries.put(stale)  # whatever gossip has brought by now
        assert np.array_equal(result_of(await run(client)), 2 * X)


async def test_a_provider_that_leaves_says_so(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        assert len(await client.node.offers("echo")) == 1
        await provider.leave()
        await trio.sleep(1)
        assert await client.node.offers("echo") == []


@pytest.mark.parametrize("seed", range(5))
async def test_a_provider_killed_in_mid_job_costs_a_second_at_most(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    async with Simulation(tmp_path, seed=seed) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two"):
            await sim.start(name, model=echo_model, behaviour=doubled, execute_s=5)
        client = await sim.start("client")
        results: list[RunResult] = []

        async def job() -> None:
            results.append(await run(client))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(2)
            busy = next(n for n in ("one", "two") if sim.nodes[n].engine.models()[0].running)
            victim = sim.nodes[busy].node.peer_id
            await sim.kill(busy)
            killed = trio.current_time()
        (result,) = results
        assert result.provider != victim
        assert [attempt["provider"] for attempt in result.attempts] == [victim]
        assert trio.current_time() - killed < 5 + 1, "the second provider's work, and a second"
        wallet = await client.node.wallet()
        assert wallet["spent_nanogram"] == 2 * 1020, "set aside for the first until it says that it keeps nothing"


async def test_without_another_provider_the_error_is_clear_and_quick(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, execute_s=5)
        client = await sim.start("client")
        caught: list[CocoonError] = []

        async def job() -> None:
            with pytest.raises(TransportError) as error:
                await run(client)
            caught.append(error.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(job)
            await trio.sleep(2)
            await sim.kill("provider")
            killed = trio.current_time()
        assert trio.current_time() - killed < 1
        assert provider.node.peer_id in caught[0].message
        assert not caught[0].outcome_known
        (row,) = client.node.jobs()
        assert row["state"] == "unknown"


async def test_a_wrong_input_is_found_before_anybody_is_paid(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        with pytest.raises(ExecutionError, match=r"must be float32\[batch,4\], got float64\[2,4\]"):
            await client.node.run("echo", {"x": X.astype(np.float64)})
        assert client.node.jobs() == []


async def test_too_low_a_limit_names_the_lowest_offer(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        with pytest.raises(PeerRefused, match="the lowest is 1,020 nanogram") as caught:
            await run(client, max_price=1019)
        assert (caught.value.reason, caught.value.needed) == (RefusalReason.PRICE, 1020)
        assert (await run(client, max_price=1020)).price_nanogram == 1020


async def test_an_unknown_model_names_the_nearest(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        await client.node.offers()
        with pytest.raises(CocoonError) as caught:
            await client.node.run("ecko", {"x": X})
        assert caught.value.code == "NO_MODEL"
        assert caught.value.hint == "did you mean echo?"


async def test_a_failed_worker_is_tried_elsewhere_and_costs_nothing(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    def broken(payload: Payload) -> Payload:
        raise ExecutionError("the worker was killed by signal 9", code="WORKER")

    async with Simulation(tmp_path, seed=3) as sim:
        await sim.start("bootstrap")
        bad = await sim.start("bad", model=echo_model, behaviour=broken)
        good = await sim.start("good", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        providers = set()
        for _ in range(6):
            result = await run(client)
            providers.add(result.provider)
            assert result.provider == good.node.peer_id
        await trio.sleep(1)
        assert (await client.node.wallet())["spent_nanogram"] == 6 * 1020
        assert (await bad.node.wallet())["earned_nanogram"] == 0


async def test_a_timeout_ends_the_job_and_the_work(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, execute_s=100)
        client = await sim.start("client")
        started = trio.current_time()
        with pytest.raises(CocoonError) as caught:
            await run(client, timeout_s=3.0)
        assert caught.value.code in ("TIMEOUT", "DEADLINE")
        assert trio.current_time() - started < 4.5
        await trio.sleep(1)
        assert provider.engine.models()[0].running == 0
        assert provider.engine.jobs_done == 0
        await nothing_was_spent(client)


async def test_cancelling_stops_the_work(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, execute_s=100)
        client = await sim.start("client")
        with trio.move_on_after(2) as scope:
            await run(client, timeout_s=200.0)
        assert scope.cancelled_caught
        await trio.sleep(1)
        assert provider.engine.models()[0].running == 0
        (job,) = provider.node.jobs()
        assert job["state"] == "failed"
        assert (await provider.node.wallet())["earned_nanogram"] == 0
        await nothing_was_spent(client)


async def test_a_busy_provider_says_so(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = NodeConfig()
    config = replace(config, provider=replace(config.provider, slots=1))
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, execute_s=10, config=config)
        client = await sim.start("client")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, client)
            await trio.sleep(2)
            with pytest.raises(PeerRefused) as caught:
                await run(client)
            assert caught.value.reason is RefusalReason.BUSY
            assert caught.value.needed is not None


async def test_the_market_lives_on_without_its_bootstrap_node(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        await run(client)
        await sim.kill("bootstrap")
        await trio.sleep(120)
        assert np.array_equal(result_of(await run(client)), 2 * X)


async def test_an_unreachable_bootstrap_is_an_error(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(TransportError, match="no bootstrap node")):
        async with Simulation(tmp_path) as sim:
            await sim.start("bootstrap")
            await sim.kill("bootstrap")
            await sim.start("late")


async def test_a_node_that_listens_waits_for_its_configured_bootstrap(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """After a power cut everybody starts at once; nobody may give up because another was slower."""
    async with Simulation(tmp_path) as sim:
        bootstrap = await sim.start("bootstrap")
        client = await sim.start("client")
        config = replace(
            NodeConfig(), network=replace(NodeConfig().network, bootstrap=tuple(bootstrap.node.addresses()))
        )
        sim.hub.partition([bootstrap.node.peer_id, client.node.peer_id])
        await sim.start("provider", model=echo_model, behaviour=doubled, config=config)
        await trio.sleep(20)
        assert await client.node.offers("echo") == []
        sim.hub.heal()
        await trio.sleep(60)
        assert np.array_equal(result_of(await run(client)), 2 * X)


async def test_a_clock_an_hour_wrong_is_no_market(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("future", model=echo_model, wrong_clock_s=3600)
        client = await sim.start("client")
        await trio.sleep(30)
        assert await client.node.offers("echo") == []


async def test_a_client_that_leaves_at_once_still_learns_what_it_owes(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        await sim.start("provider", model=echo_model, execute_s=100)
        client = await sim.start("client")
        with trio.move_on_after(2):
            await run(client, timeout_s=200.0)
        await client.leave()
        client = await sim.start("client")
        await nothing_was_spent(client)


async def test_an_old_ledger_put_back_costs_one_channel_and_no_job(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        await run(client)
        await client.leave()
        backup = (client.home / "ledger.sqlite3").read_bytes()
        client = await sim.start("client")
        await run(client)
        await run(client)
        await client.leave()
        (client.home / "ledger.sqlite3").write_bytes(backup)
        client = await sim.start("client")
        for _ in range(3):
            assert np.array_equal(result_of(await run(client)), 2 * X)
        assert len((await provider.node.wallet())["channels"]) == 2


async def test_after_a_restart_nothing_is_lost(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        await run(client)
        await trio.sleep(1)
        await client.leave()
        await provider.leave()
        provider = await sim.start("provider", model=echo_model, behaviour=doubled)
        client = await sim.start("client")
        assert (await client.node.wallet())["spent_nanogram"] == 1020
        assert len(client.node.receipts()) == len(provider.node.receipts()) == 1
        await run(client)
        await trio.sleep(1)
        assert (await provider.node.wallet())["earned_nanogram"] == 2040
        (channel,) = (await provider.node.wallet())["channels"]
        assert channel["cumulative_nanogram"] == 2040, "the channel of before the restart"


async def test_new_addresses_are_announced_at_once(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay takes connections for the provider now: who wants it does not wait for the next regular announcement."""
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        provider = await sim.start("provider", model=echo_model)
        client = await sim.start("client")
        await client.node.offers("echo")
        await trio.sleep(limits.ANNOUNCEMENT_MIN_INTERVAL_S)
        network = provider.node._parts.network
        known = network.reachability()
        told = (*known.addresses, "/ip4/198.51.100.9/tcp/4001")
        monkeypatch.setattr(network, "reachability", lambda: replace(known, addresses=told))
        network._events.publish(AddressesChanged())  # type: ignore[attr-defined]
        await trio.sleep(limits.ANNOUNCEMENT_MIN_INTERVAL_S)
        (offer,) = client.node._parts.market.offers("echo")
        assert offer.addresses == told
