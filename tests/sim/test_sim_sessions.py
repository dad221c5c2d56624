"""Calls of a recurrent model, over the simulated network in virtual time: state that stays, and state that travels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.models.gathering import Wishes
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import Session
from cocoon_p2p.tensors import Payload, Tensor
from cocoon_p2p.testing.recurrent_models import STATE, gru_model
from cocoon_p2p.testing.simulation import Simulation

ONE = np.ones((1, 3), np.float32)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(scope="module")
def recurrent_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recurrent")
    registry = ModelRegistry(folder / "home", inspect=inspect_onnx)
    return registry.add(gru_model(folder), name="rnn", wishes=Wishes(state=STATE)).folder


def adding(payload: Payload) -> Payload:
    """h_next = y = h + the sum of x: in the place of what the graph would do."""
    given = {tensor.name: np.frombuffer(tensor.data, np.float32).reshape(tensor.shape) for tensor in payload.tensors}
    after = given["h"] + given["x"].sum(axis=1, keepdims=True)
    return Payload(tuple(Tensor(name, "float32", after.shape, after.tobytes()) for name in ("y", "h_next")))


async def next_of(session: Session) -> float:
    outputs = await session.run({"x": ONE})
    assert list(outputs) == ["y"]
    return float(outputs["y"][0, 0])


async def test_state_stays_at_one_provider(
    tmp_path: Path, recurrent_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        providers = [await sim.start(name, model=recurrent_model, behaviour=adding) for name in ("one", "two")]
        client = await sim.start("client")
        other = await sim.start("other")
        async with client.node.session("rnn") as session, other.node.session("rnn") as others:
            assert session.provider is None
            assert [await next_of(session) for _ in range(3)] == [3, 6, 9]
            assert await next_of(others) == 3
            session.calls -= 1  # as if the answer had got lost
            assert await next_of(session) == 9
            home = next(each for each in providers if each.node.peer_id == session.provider)
            assert session.price_nanogram > 0
            begun = await session.run({"x": ONE, "h": np.full((1, 4), 100, np.float32)}, outputs=["h_next"])
            assert begun["h_next"].tolist() == [[103] * 4]
            assert await next_of(session) == 106
            await trio.sleep(301)
            with pytest.raises(CocoonError) as caught:
                await next_of(session)
            assert caught.value.code == "SESSION"
        jobs = [row for row in client.node.jobs() if row["state"] == "done"]
        assert {row["peer_id"] for row in jobs} == {home.node.peer_id}

        async with client.node.session("rnn") as session:
            assert await next_of(session) == 3
            lost = next(each for each in providers if each.node.peer_id == session.provider)
            await sim.kill(lost.name)
            with pytest.raises(CocoonError):
                await next_of(session)
            assert session.calls == 1
        with pytest.raises(ConfigError, match="this session is over"):
            await next_of(session)
        async with client.node.session("rnn") as session:
            assert await next_of(session) == 3
            assert session.provider != lost.node.peer_id


async def test_state_travels_from_provider_to_provider(
    tmp_path: Path, recurrent_model: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        for name in ("one", "two"):
            await sim.start(name, model=recurrent_model, behaviour=adding)
        await sim.start("three", model=echo_model)
        client = await sim.start("client")
        async with client.node.session("rnn", keep="travel") as session:
            assert [await next_of(session) for _ in range(2)] == [3, 6]
            last = client.node.jobs()[0]["peer_id"]
            await sim.kill(next(each.name for each in sim.nodes.values() if each.node.peer_id == last))
            assert [await next_of(session) for _ in range(2)] == [9, 12]
            assert session.provider is None
        async with trio.open_nursery() as nursery, client.node.session("rnn", keep="travel") as session:
            nursery.start_soon(next_of, session)
            await trio.testing.wait_all_tasks_blocked()
        assert session.calls == 1 and session._state == (), "it ended during the call, and keeps nothing"
        for model, options, words in (("echo", {}, "has no state"), ("rnn", {"keep": "ever"}, "keep must be one of")):
            with pytest.raises(ConfigError, match=words):
                async with client.node.session(model, **options):
                    pass
