"""`node.map`: many inputs, many providers, in order. Virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_failover import NAMES, settled, start_all
from test_sim_jobs import X, autojump_clock, doubled

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ConfigError, ExecutionError
from cocoon_p2p.node import MapItem
from cocoon_p2p.testing.simulation import Simulation

__all__ = ["autojump_clock"]


def inputs(count: int) -> list[dict[str, Any]]:
    return [{"x": X + n} for n in range(count)]


async def test_results_come_in_order_from_many_providers(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 4, execute_s=0.1)
        sim.nodes["one"].engine.execute_s = 0.5
        told: list[tuple[int, int, int | None]] = []
        started = trio.current_time()
        items = [item async for item in client.node.map("echo", inputs(60), progress=lambda *n: told.append(n))]
        assert [item.index for item in items] == list(range(60))
        for item in items:
            assert item.outputs is not None
            assert np.array_equal(item.outputs["y"], 2 * (X + item.index))
            assert item.price == 1020
        assert told == [(n, 0, 60) for n in range(1, 61)]
        assert len({item.provider for item in items}) == 4
        assert trio.current_time() - started < 60 * 0.1, "faster than one provider alone"
        assert await settled(sim) == (60 * 1020, 60 * 1020)


async def test_failures_come_item_by_item(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=0.01)
        given: list[Any] = [*inputs(3), {"x": X.astype(np.float64)}, "a text", {"x": object()}, *inputs(2)]
        items = [item async for item in client.node.map("echo", given)]
        errors = {item.index: item.error for item in items if item.error is not None}
        assert set(errors) == {3, 4, 5}
        assert all(error.code == "INPUT" for error in errors.values())
        assert all((item.outputs is None) == (item.error is not None) for item in items)
        with pytest.raises(ExecutionError, match="float32"):
            async for item in client.node.map("echo", given, on_error="raise"):
                assert item.index < 3


async def test_no_more_is_read_than_there_is_room_for(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 3, execute_s=0.1)
        read = 0

        def source() -> Iterator[dict[str, Any]]:
            nonlocal read
            for each in inputs(40):
                read += 1
                yield each

        async with client.node.map("echo", source(), in_flight=5) as items:
            async for item in items:
                assert read <= item.index + 1 + 5
                if item.index == 3:
                    await trio.sleep(60)  # a slow consumer
                    assert read <= 9
        assert read == 40


async def test_an_endless_source_that_is_left_in_the_middle(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 2, execute_s=1)

        async def endless() -> AsyncIterator[dict[str, Any]]:
            while True:
                await trio.sleep(0.1)
                yield {"x": X}

        async with client.node.map("echo", endless(), in_flight=4) as items:
            async for item in items:
                if item.index == 2:
                    break
        assert [item async for item in items] == []
        await trio.sleep(1)
        assert not any(sim.nodes[name].engine.models()[0].running for name in NAMES[:2]), "what was under way is ended"
        assert not any(row["state"] == "running" for row in client.node.jobs())
        spent, earned = await settled(sim)
        assert spent == earned


async def test_what_the_source_raises_reaches_the_consumer(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)

        def broken() -> Iterator[dict[str, Any]]:
            yield {"x": X}
            raise KeyError("no such column")

        seen: list[MapItem] = []
        with pytest.raises(KeyError, match="no such column"):
            async for item in client.node.map("echo", broken()):
                seen.append(item)
        assert len(seen) <= 1
        with pytest.raises(ZeroDivisionError):
            async for _ in client.node.map("echo", inputs(3), progress=lambda *_: 1 // 0):  # type: ignore[arg-type]
                pass


async def test_busy_providers_are_waited_for(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = replace(NodeConfig(), provider=replace(NodeConfig().provider, slots=2))
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        for name in NAMES[:2]:
            await sim.start(name, model=echo_model, behaviour=doubled, execute_s=0.5, config=config)
        client = await sim.start("client")
        items = [item async for item in client.node.map("echo", inputs(40))]
        assert [item.error for item in items] == [None] * 40


async def test_providers_that_die_on_the_way_cost_no_item(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 4, execute_s=0.2)
        count = 0
        async for item in client.node.map("echo", inputs(60), in_flight=12):
            assert item.error is None
            count += 1
            if count in (10, 25):
                await sim.kill(NAMES[count // 20])
        assert count == 60


async def test_limits_are_checked_before_anything_is_read(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 1)
        for wrong in (
            {"in_flight": 0},
            {"in_flight": 257},
            {"on_error": "ignore"},
            {"prefer": "best"},
            {"max_price": -1},
        ):
            with pytest.raises(ConfigError):
                client.node.map("echo", iter([]), **wrong)  # type: ignore[arg-type]
        assert [item async for item in client.node.map("echo", [])] == []
        with pytest.raises(CocoonError):
            async for _ in client.node.map("nothing", inputs(1), on_error="raise"):
                pass


async def test_items_that_lost_their_provider_wait_for_room_at_the_other(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """The larger one dies while the smaller one is full."""
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        small = replace(NodeConfig(), provider=replace(NodeConfig().provider, slots=4))
        await sim.start("one", model=echo_model, behaviour=doubled, execute_s=0.04, config=small)
        await sim.start("two", model=echo_model, behaviour=doubled, execute_s=0.01)
        client = await sim.start("client")
        await client.node.offers("echo")
        items: list[MapItem] = []
        async for item in client.node.map("echo", inputs(400), in_flight=32):
            items.append(item)
            if len(items) == 80:
                await sim.kill("two")
        assert [item.error for item in items if item.error is not None] == []
        assert [item.index for item in items] == list(range(400))
