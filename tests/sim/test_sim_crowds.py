"""Crowds and single liars against a client that knows nobody: who refuses everything, baits with a price, or takes a name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing
from test_sim_jobs import X, autojump_clock, doubled, result_of, run

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.job_client import JobClient
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, SettlementError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.price import Price
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.wire.job import Ask

__all__ = ["autojump_clock"]

Answer = Callable[[Ask], Price | Refused]


def priced(folder: Path, base: int) -> Path:
    """The model of the others, at another price."""
    source = models.copy_model(folder / f"at {base}", "float32", ("batch", 4))
    return (
        ModelRegistry(folder / f"at {base}" / "home").add(source, name="echo", price_base=base, price_per_item=0).folder
    )


class Desks:
    """What chosen providers answer to an ASK, whatever they announced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers: dict[PeerId, Answer] = {}
        self.asked: list[tuple[PeerId, int]] = []
        """(provider, max_total)"""
        honest = ProviderDesk.decide

        def decide(desk: ProviderDesk, ask: Ask, **facts: Any) -> Price | Refused:
            peer = desk.identity.peer_id
            self.asked.append((peer, ask.max_total))
            return self._answers[peer](ask) if peer in self._answers else honest(desk, ask, **facts)

        monkeypatch.setattr(ProviderDesk, "decide", decide)

    def script(self, node: RunningNode, answer: Answer) -> None:
        self._answers[node.node.peer_id] = answer


def wants(price: int) -> Answer:
    """An honest one whose price has moved."""

    def answer(ask: Ask) -> Price | Refused:
        if ask.max_total and ask.max_total < price:
            return Refused(RefusalReason.PRICE, "dearer by now", price)
        return Price(price, 0, price)

    return answer


async def client_of(sim: Simulation) -> RunningNode:
    client = await sim.start("client")
    await client.node.offers("echo")
    await trio.sleep(2)
    return client


@pytest.fixture
def desks(monkeypatch: pytest.MonkeyPatch) -> Desks:
    return Desks(monkeypatch)


# --- who says no to everything ---


async def test_a_crowd_that_is_always_busy_keeps_nobody_from_the_honest(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, desks: Desks
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        for number in range(4):
            await sim.start(f"honest{number}", model=echo_model, behaviour=doubled)
        free_model = priced(tmp_path, 0)
        for number in range(16):
            free = await sim.start(f"free{number}", model=free_model)
            desks.script(free, lambda ask: Refused(RefusalReason.BUSY, "all places are taken", 1))
        client = await client_of(sim)
        questions = []
        for _ in range(20):
            before = len(desks.asked)
            assert np.array_equal(result_of(await run(client)), 2 * X)
            questions.append(len(desks.asked) - before)
        assert max(questions[:5]) > 3, "the crowd was asked"
        assert sum(questions[-5:]) < 5 * 3, "and is known by now"


async def test_a_crowd_that_takes_nobodys_payment(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> None:
        raise SettlementError("the vouchers do not reach", code="CREDIT", needed=max_total)

    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        honest = await sim.start("honest", model=echo_model, behaviour=doubled)
        cheap = priced(tmp_path, 1)
        for number in range(6):
            liar = await sim.start(f"liar{number}", model=cheap)
            monkeypatch.setattr(liar.node._parts.settlement, "accept_payment", refuse)
        client = await client_of(sim)
        for _ in range(3):
            assert (await run(client)).provider == honest.node.peer_id


async def test_one_that_lost_its_books_is_paid_over_a_new_channel_where_nobody_else_is(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        only = await sim.start("only", model=echo_model, behaviour=doubled)
        client = await client_of(sim)
        settlement = only.node._parts.settlement
        honest = settlement.accept_payment
        refused: list[JobId] = []

        async def once(payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> Any:
            if not refused:
                refused.append(job_id)
                raise SettlementError("no such channel", code="CREDIT", needed=max_total)
            return await honest(payer, job_id, payment, max_total)

        monkeypatch.setattr(settlement, "accept_payment", once)
        result = await run(client)
        assert [attempt["code"] for attempt in result.attempts] == ["PAYMENT"]
        assert client.node._parts.experience.reliability(only.node.peer_id) > 0.5


async def test_who_is_busy_with_our_own_jobs_or_says_so_beforehand_is_not_blamed(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = replace(NodeConfig(), provider=replace(NodeConfig().provider, slots=1))
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        only = await sim.start("only", model=echo_model, behaviour=doubled, execute_s=10, config=config)
        client, other = await client_of(sim), await sim.start("other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, client)
            await trio.sleep(5)
            for node in (client, other):  # it announced at once that it is full
                with pytest.raises(PeerRefused, match="all 1 places are taken"):
                    await run(node)
        for node in (client, other):
            assert node.node._parts.experience.reliability(only.node.peer_id) >= 0.5


# --- who says nothing ---


async def test_a_crowd_that_says_nothing_costs_half_a_second_for_each_three(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """Twelve that ask nothing for a job, and never answer: nobody waits for one of them alone."""
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        for number in range(2):
            await sim.start(f"honest{number}", model=echo_model, behaviour=doubled)
        free_model = priced(tmp_path, 0)
        for number in range(12):
            await sim.start(f"mute{number}", model=free_model)
        client = await client_of(sim)
        await client.node._parts.buyer._resolver.resolve("echo")
        for number in range(12):
            sim.hub.freeze(sim.nodes[f"mute{number}"].node.peer_id)
        took = []
        for _ in range(8):
            started = trio.current_time()
            assert np.array_equal(result_of(await run(client)), 2 * X)
            took.append(trio.current_time() - started)
        assert max(took) > limits.QUOTE_LATE_S, "the crowd was asked"
        assert max(took) < 5 * limits.QUOTE_LATE_S + 0.2, "fourteen, three at a time"
        reliability = client.node._parts.experience.reliability
        crowd = [reliability(sim.nodes[f"mute{number}"].node.peer_id) for number in range(12)]
        assert min(crowd) < 0.5, "who let us wait while others quoted is remembered"
        assert all(reliability(sim.nodes[f"honest{number}"].node.peer_id) >= 0.5 for number in range(2))


# --- announced and wanted ---


async def test_a_low_price_that_is_not_kept_to_wins_nothing(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, desks: Desks
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        honest = await sim.start("honest", model=echo_model, behaviour=doubled)
        cheap = priced(tmp_path, 10)
        bait = await sim.start("bait", model=cheap, behaviour=doubled)
        rude = await sim.start("rude", model=cheap, behaviour=doubled)
        desks.script(bait, wants(5000))
        desks.script(rude, lambda ask: Price(5000, 0, 5000))
        client = await client_of(sim)
        for _ in range(5):
            result = await run(client)
            assert (result.provider, result.price_nanogram) == (honest.node.peer_id, 1020)
        assert {most for peer, most in desks.asked if peer == bait.node.peer_id} == {10}


async def test_a_price_that_moved_competes_at_what_it_is_now(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, desks: Desks
) -> None:
    """One round trip more, in which the others' quotes are kept."""
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("dear", model=echo_model, behaviour=doubled)
        moved = await sim.start("moved", model=priced(tmp_path, 10), behaviour=doubled)
        desks.script(moved, wants(500))
        client = await client_of(sim)
        result = await run(client, prefer="cheapest")
        assert (result.provider, result.price_nanogram) == (moved.node.peer_id, 500)
        assert [most for peer, most in desks.asked if peer == moved.node.peer_id] == [10, 500]
        assert len(desks.asked) == 3
        assert client.node._parts.experience.reliability(moved.node.peer_id) > 0.5


async def test_the_only_provider_is_paid_what_it_wants_now_within_the_limit(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, desks: Desks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JobClient, "is_warm", lambda *_: False)  # it is asked each time
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        only = await sim.start("only", model=priced(tmp_path, 0), behaviour=doubled)
        desks.script(only, wants(700))
        client = await client_of(sim)
        with pytest.raises(PeerRefused) as caught:
            await run(client, max_price=699)
        assert (caught.value.reason, caught.value.needed) == (RefusalReason.PRICE, 700)
        peer = only.node.peer_id
        for options in ({}, {"provider": peer}, {"max_price": 700}):
            assert (await run(client, **options)).price_nanogram == 700
        assert desks.asked[1:] == [(peer, 1), (peer, 700)] * 3, "0 would be no limit"


# --- names ---


async def test_a_name_stays_what_it_was_when_somebody_else_takes_it(
    tmp_path: Path,
    echo_model: Path,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = models.copy_model(tmp_path / "other", "float32", ("batch", 4, 1))
    other = ModelRegistry(tmp_path / "other" / "home").add(source, name="echo", price_base=1, price_per_item=0).folder
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        honest = await sim.start("honest", model=echo_model, behaviour=doubled)
        client = await client_of(sim)
        before = (await run(client)).model_id
        for number in range(7):
            await sim.start(f"liar{number}", model=other, behaviour=doubled)
        newcomer = await client_of_name(sim, "newcomer")
        await client.node._parts.market.look_around()
        assert len({each["model_id"] for each in await client.node.offers("echo")}) == 2
        with caplog.at_level(logging.INFO):
            result = await run(client)
        assert (result.provider, result.model_id) == (honest.node.peer_id, before)
        assert f"echo is taken for model {before}" in caplog.text
        with pytest.raises(CocoonError) as caught:
            await run(newcomer)
        assert caught.value.code == "AMBIGUOUS"
        assert f"{before} (1 provider)" in caught.value.message
        assert "(7 providers)" in caught.value.message
        assert (await newcomer.node.run(before, {"x": X}))["y"].shape == X.shape
        with pytest.raises(CocoonError) as caught:
            await run(newcomer)
        assert caught.value.message.startswith(f"several different models are called echo: {before}"), "it did a job"
        await client.leave()
        client = await client_of(sim)
        await client.node._parts.market.look_around()
        assert (await run(client)).model_id == before, "that outlives a restart"


async def client_of_name(sim: Simulation, name: str) -> RunningNode:
    node = await sim.start(name)
    await node.node.offers("echo")
    await trio.sleep(2)
    return node


# --- the book ---


async def test_the_book_is_asked_once_for_each_attempt(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("one", model=echo_model, behaviour=doubled)
        client = await client_of(sim)
        await run(client)
        market = client.node._parts.market
        real, calls = market._book.offers, 0

        def offers(model: str | None = None, *, now: float) -> list[BookOffer]:
            nonlocal calls
            calls += 1
            return real(model, now=now)

        monkeypatch.setattr(market._book, "offers", offers)
        await run(client)
        assert calls == 1
        started = trio.current_time()
        items = [item async for item in client.node.map("echo", [{"x": X}] * 30, in_flight=1)]
        assert [item.error for item in items] == [None] * 30
        assert calls <= 31 + 2 + (trio.current_time() - started) / 1, "one an item, and one a second"
