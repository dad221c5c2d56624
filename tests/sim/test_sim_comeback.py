"""Answers that lost the only provider there is, in the middle: whoever comes back in time goes on. Virtual time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
import trio.testing
from test_sim_generate import BASE, EACH, asked, asked_once_more, books, start_all, tokens_come, writer, writing
from test_sim_jobs import autojump_clock

from cocoon_p2p import limits
from cocoon_p2p.drivers.choosing import Progress
from cocoon_p2p.drivers.purchase import Buyer, Leg
from cocoon_p2p.drivers.resolve import ResolvedModel
from cocoon_p2p.drivers.stream_attempt import StreamAttempt
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, TransportError
from cocoon_p2p.testing.simulated_writing import prompt_tokens, whole_answer
from cocoon_p2p.testing.simulation import Simulation
from cocoon_p2p.testing.writing_model import writing_model

__all__ = ["autojump_clock", "writer"]


@pytest.mark.parametrize("how", ["killed", "killed twice", "cut off", "worker died", "a stranger comes"])
async def test_the_only_provider_goes_on_when_it_is_back(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, how: str
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=300, temperature=1.0, seed=5)
        lost = sim.nodes["one"].node.peer_id
        times = 2 if how == "killed twice" else 1
        for number in range(times):
            await tokens_come(answer, 100 * (number + 1))
            if how == "cut off":
                await client.node._parts.network.disconnect(lost)
            elif how == "worker died":
                sim.nodes["one"].engine.writing.fails_at = answer.usage.completion_tokens
                await sim.nodes["one"].engine.streams[-1].ended.wait()
                sim.nodes["one"].engine.writing.fails_at = None
            else:
                await sim.kill("one")
                await trio.sleep(20)
                back = await sim.start("two" if how == "a stranger comes" else "one", model=writer)
                back.engine.writing.token_s = 0.02
        began = trio.current_time()
        request = asked(max_tokens=300, temperature=1.0, seed=5)
        assert await answer.read() == answer.text == whole_answer(request)
        assert trio.current_time() - began < 200 * 0.02 + limits.RESUME_LOOK_MAX_S + 3.0
        assert answer.usage.completion_tokens == 300
        assert {each["provider"] for each in answer.attempts} == {lost}
        assert (answer.provider == lost) is (how != "a stranger comes")
        assert client.node.why(answer.job_id)["chosen"] == answer.provider
        if how == "a stranger comes":
            await sim.start("one", model=writer)
        spent, earned = await books(sim, meet=True)
        assert spent == earned <= answer.price_nanogram + asked_once_more(len(sim.nodes) - 2)
        most = (times + 1) * (BASE + EACH * prompt_tokens(request)) + EACH * (300 + sum((110, 210)[:times]))
        assert answer.price_nanogram <= most, "each part once, and what came once more as a prompt"


async def test_an_answer_that_waits_for_somebody_can_be_stopped(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=100)
        await tokens_come(answer, 40)
        await sim.kill("one")
        await trio.sleep(20)
        began = trio.current_time()
        await answer.cancel()
        assert trio.current_time() - began < 0.1
        assert (answer.finish, answer.usage.completion_tokens >= 40) == ("caller", True)


async def test_a_stop_while_somebody_is_asked_is_not_lost(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while what is asked cannot be cancelled, and then says no: nobody is waited for after that."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=100)
        await tokens_come(answer, 40)

        async def next_leg(buyer: Buyer, progress: Progress, model: ResolvedModel, items: int) -> Leg:
            with trio.CancelScope(shield=True):
                answer._answer.stop()
                await trio.testing.wait_all_tasks_blocked()
            raise TransportError("nobody is there", outcome_known=True)

        monkeypatch.setattr(Buyer, "next_leg", next_leg)
        await client.node._parts.network.disconnect(sim.nodes["one"].node.peer_id)
        await answer._answer.stop_wanted.wait()
        began = trio.current_time()
        await answer._answer.over.wait()
        assert trio.current_time() - began < 0.1
        assert answer.finish == "caller"


async def test_who_comes_back_and_refuses_is_asked_more_and_more_rarely(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal uses up no attempt: it must not be had four times a second until the time is over."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=100, timeout_s=60)
        await tokens_come(answer, 40)

        async def run_stream(attempt: StreamAttempt, payment: bytes, pieces: object) -> None:
            await attempt.cancel()
            raise PeerRefused(RefusalReason.SHUTTING_DOWN, "not now")

        monkeypatch.setattr(StreamAttempt, "run_stream", run_stream)
        await client.node._parts.network.disconnect(sim.nodes["one"].node.peer_id)
        with pytest.raises(CocoonError):
            await answer.read()
        assert 5 < len(answer.attempts) < 25


async def test_no_other_model_of_its_name_goes_on_with_an_answer(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """All who had the model are gone, and somebody offers another one by its name: that would go on behind tokens of another's
    vocabulary."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        answer = client.node.generate("writer", "Why?", max_tokens=300, timeout_s=30)
        await tokens_come(answer, 100)
        began_with = answer.model_id
        await sim.kill("one")
        await sim.kill("two")
        other = writing_model(tmp_path / "other", context=2048)
        await sim.start("three", model=other)
        await client.node.offers("writer")
        with pytest.raises(CocoonError):
            await answer.read()
        assert answer.model_id == began_with
        assert not sim.nodes["three"].engine.streams


async def test_who_comes_back_too_dear_is_not_waited_for(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        answer = client.node.generate("writer", "Why?", max_tokens=300, max_price=10**5, timeout_s=300)
        await tokens_come(answer, 100)
        await sim.kill("one")
        (offer,) = (tmp_path / "one").rglob("offer.json")
        offer.write_text(json.dumps(json.loads(offer.read_text()) | {"price_per_item": 10**5}))
        began = trio.current_time()
        await sim.start("one", model=writer)
        with pytest.raises(CocoonError):
            await answer.read()
        assert trio.current_time() - began < 30


async def test_who_said_nothing_is_asked_again_when_nobody_is_left(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 2)
        answer = client.node.generate("writer", "Why?", max_tokens=300, temperature=1.0, seed=5, timeout_s=100)
        await tokens_come(answer, 100)
        first = writing(sim)
        assert first is not None
        (other,) = {"one", "two"} - {first}
        sim.hub.freeze(sim.nodes[other].node.peer_id)
        await sim.kill(first)
        await trio.sleep(limits.QUOTE_TIMEOUT_S + 1)
        assert not answer._answer.over.is_set()
        sim.hub.heal()
        assert await answer.read() == whole_answer(asked(max_tokens=300, temperature=1.0, seed=5))


async def test_an_answer_that_has_not_begun_is_not_waited_for(
    tmp_path: Path, writer: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Whoever asked has nothing yet, and learns at once that nobody is there."""
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, writer, 1)
        sim.nodes["one"].engine.writing.prompt_token_s = 10.0
        answer = client.node.generate("writer", "Why?", max_tokens=100, timeout_s=600)
        async with answer:
            await trio.sleep(5)
            await sim.kill("one")
            began = trio.current_time()
            with pytest.raises(CocoonError):
                await answer.read()
            assert trio.current_time() - began < 30
