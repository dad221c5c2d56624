"""What a stranger finds out about nodes, and nodes about themselves, in virtual time."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.cli.doctor_checks import judge_clock
from cocoon_p2p.cli.doctor_stranger import buy
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.limits import ANNOUNCEMENT_INTERVAL_S
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import Payload, Tensor
from cocoon_p2p.testing.simulation import RunningNode, Simulation


class Answers:
    """An echo that can be made to lie."""

    def __init__(self) -> None:
        self.honest_runs = 1000

    def __call__(self, given: Payload) -> Payload:
        self.honest_runs -= 1
        (tensor,) = given.tensors
        data = bytes(tensor.data) if self.honest_runs >= 0 else bytes(len(tensor.data))
        return Payload((Tensor("y", tensor.dtype, tensor.shape, data),))


async def network(sim: Simulation, model: Path, answers: Answers) -> tuple[RunningNode, RunningNode, str]:
    """A provider, a stranger, and the id of the model."""
    await sim.start("bootstrap")
    provider = await sim.start("provider", model=model, behaviour=answers)
    await trio.sleep(ANNOUNCEMENT_INTERVAL_S)
    stranger = await sim.start("stranger")
    return provider, stranger, provider.node.models()[0]["model_id"]


@pytest.mark.parametrize("honest", [True, False])
async def test_a_stranger_buys_and_compares(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path, honest: bool
) -> None:
    answers = Answers()
    async with Simulation(tmp_path) as sim:
        provider, stranger, model_id = await network(sim, echo_model, answers)
        manifest = ModelRegistry(provider.home).get(model_id).manifest
        own, answer = await provider.node.own_answer(model_id, 7)
        assert (own["tame"], own["item_us"] > 0) == (0, True)
        if not honest:
            answers.honest_runs = 0
        peer = provider.node.peer_id
        bought = await buy(stranger.node, peer, manifest, own, answer, seed=7, tier="sealed", timeout_s=5.0)
        assert (bought.agrees, bought.signed_by_both, bought.tier) == (honest, True, "sealed")
        assert bought.price >= 1000


async def test_a_model_that_answers_differently_is_told(
    autojump_clock: MockClock, tmp_path: Path, echo_model: Path
) -> None:
    answers = Answers()
    async with Simulation(tmp_path) as sim:
        provider, _, model_id = await network(sim, echo_model, answers)
        answers.honest_runs = 1
        with pytest.raises(CocoonError) as caught:
            await provider.node.own_answer(model_id, 7)
        assert caught.value.code == "RANDOM"
        provider.engine.execute_s = 100.0
        with pytest.raises(CocoonError) as caught:
            await provider.node.own_answer(model_id, 7)
        assert caught.value.code == "TIMEOUT"


async def test_what_others_know_of_a_node(autojump_clock: MockClock, tmp_path: Path, echo_model: Path) -> None:
    async with Simulation(tmp_path) as sim:
        provider, stranger, model_id = await network(sim, echo_model, Answers())
        node, peer = provider.node, provider.node.peer_id
        rows = await node.heard(leave_out=stranger.node.peer_id)
        assert [(row["peer_id"], row["knows"]) for row in rows] == [(sim.nodes["bootstrap"].node.peer_id, True)]
        assert rows[0]["heard_by"] == "gossip"
        assert rows[0]["heard_ago_ms"] <= 1000 * ANNOUNCEMENT_INTERVAL_S
        assert [offer["model_id"] for offer in node.health()["offers"]] == [model_id]

        found = await stranger.node.in_directory(peer, model_id)
        assert (found["listed"], found["providers"]) == (True, 1)
        assert found["age_ms"] <= 1000 * 3 * ANNOUNCEMENT_INTERVAL_S
        nothing = await stranger.node.in_directory(sim.nodes["bootstrap"].node.peer_id, "ab" * 32)
        assert nothing == {"age_ms": None, "addresses": [], "listed": False, "providers": 0}

        good = node.addresses()[0].partition("/p2p/")[0]
        dials = await stranger.node.try_addresses(peer, [good, "/memory/999999"])
        assert [(dial["address"], dial["error"] is None) for dial in dials] == [(good, True), ("/memory/999999", False)]


async def test_whose_clock_is_wrong(autojump_clock: MockClock, tmp_path: Path, echo_model: Path) -> None:
    async with Simulation(tmp_path) as sim:
        await sim.start("bootstrap")
        right = [await sim.start(f"right-{number}", model=echo_model) for number in range(3)]
        wrong = await sim.start("wrong", model=echo_model, wrong_clock_s=3600.0)
        await trio.sleep(2 * ANNOUNCEMENT_INTERVAL_S)
        check = judge_clock(wrong.node.health()["clock"], None)
        assert (check.state, "3600 s fast" in check.seen) == ("fail", True), check
        check = judge_clock(right[0].node.health()["clock"], None)
        assert (check.state, "2 of 3 other clocks" in check.seen) == ("pass", True), check
