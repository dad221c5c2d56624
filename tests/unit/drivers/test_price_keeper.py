"""Prices that follow how busy the desk is, in virtual time, and that a restart does not forget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing
from serving_parts import make_desk

from cocoon_p2p.drivers.price_keeper import PriceKeeper, PriceLevels
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import PRICE_TICK_S
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.price import UNIT_LEVEL, ListedPrice, Price, PriceFacts, PricingPolicy
from cocoon_p2p.policy.pricing import FixedPricing, FollowDemand
from cocoon_p2p.proto.provider_desk import ProviderDesk, ServedModel
from cocoon_p2p.store import Store, open_store

MODEL, OTHER = ModelId("ab" * 32), ModelId("cd" * 32)
LISTED = ListedPrice(100_000, 10_000, 50, 400)


class Recorder:
    """A policy that remembers what it was told."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def price(self, facts: PriceFacts) -> Price:
        return Price(1, 0, 1)

    def observe(self, utilisation: float) -> bool:
        self.seen.append(round(utilisation, 6))
        return utilisation > 0.5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "state.db") as opened:
        yield opened


def desk_with(*policies: PricingPolicy) -> ProviderDesk:
    desk = make_desk(slots=4)
    ids = (MODEL, OTHER)
    desk.models = {each: ServedModel(each, "m", policy, "cpu") for each, policy in zip(ids, policies, strict=False)}
    return desk


async def test_utilisation_is_a_mean_over_time(store: Store, autojump_clock: trio.testing.MockClock) -> None:
    policy, moved = Recorder(), []
    desk = desk_with(policy)
    keeper = PriceKeeper(desk, PriceLevels(store.values, "x"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run, lambda: moved.append(trio.current_time()))
        await trio.sleep(2)
        desk.begin(MODEL, 1, 1)
        await trio.sleep(1)
        desk.begin(MODEL, 1, 1)
        await trio.sleep(2)
        desk.end(MODEL, 1, 1)
        await trio.sleep(5.5)  # into the second span, with one slot of four busy
        assert policy.seen == [(1 + 2 * 2 + 5) / 40]
        for _ in range(2):
            desk.begin(MODEL, 1, 1)
        await trio.sleep(10)
        assert policy.seen[1] == (0.5 + 3 * 9.5) / 40
        await trio.sleep(10)
        assert policy.seen[2] == 0.75
        nursery.cancel_scope.cancel()
    assert moved == [20, 30]
    desk.load_changed()  # of nobody's interest any more


async def test_more_jobs_than_slots_are_no_more_than_all_of_them(
    store: Store, autojump_clock: trio.testing.MockClock
) -> None:
    policy = Recorder()
    desk = desk_with(policy)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PriceKeeper(desk, PriceLevels(store.values, "x")).run, lambda: None)
        for _ in range(9):
            desk.begin(MODEL, 1, 1)
        await trio.sleep(PRICE_TICK_S + 1)
        nursery.cancel_scope.cancel()
    assert policy.seen == [1.0]


async def test_a_node_that_rests_learns_nothing_about_demand(
    store: Store, autojump_clock: trio.testing.MockClock
) -> None:
    policy = Recorder()
    desk = desk_with(policy)
    desk.rests = Refused(RefusalReason.IDLE_POLICY, "later")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PriceKeeper(desk, PriceLevels(store.values, "x")).run, lambda: None)
        await trio.sleep(3 * PRICE_TICK_S + 1)
        assert policy.seen == []
        desk.rests = None
        await trio.sleep(PRICE_TICK_S)
        assert policy.seen == [0]
        nursery.cancel_scope.cancel()


async def test_the_price_rises_with_demand_falls_back_and_survives_a_restart(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async def life(busy: int, ticks: int) -> tuple[int, int]:
        """One run of a node: the level at its start and at its end."""
        with open_store(tmp_path / "state.db") as store:
            policy, fixed = FollowDemand(LISTED), FixedPricing(1, 1)
            desk = desk_with(policy, fixed)
            levels = PriceLevels(store.values, "follow-demand")
            for model_id, each in ((MODEL, policy), (OTHER, fixed)):
                levels.restore(model_id, each)
            begun = policy.level
            for _ in range(busy):
                desk.begin(MODEL, 1, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(PriceKeeper(desk, levels).run, lambda: None)
                await trio.sleep(ticks * PRICE_TICK_S + 1)
                nursery.cancel_scope.cancel()
            return begun, policy.level

    begun, risen = await life(busy=4, ticks=10)
    assert begun == UNIT_LEVEL
    assert risen == pytest.approx(1.03**10 * UNIT_LEVEL)
    begun, fallen = await life(busy=0, ticks=100)
    assert begun == risen
    assert fallen == UNIT_LEVEL // 2
    assert (await life(busy=0, ticks=1))[0] == fallen


def test_a_level_belongs_to_one_policy_and_one_model(store: Store) -> None:
    kept = FollowDemand(LISTED)
    kept.level = 2 * UNIT_LEVEL
    PriceLevels(store.values, "follow-demand").keep(MODEL, kept)
    for pricing, model_id, level in (
        ("follow-demand", MODEL, 2 * UNIT_LEVEL),
        ("follow-demand", OTHER, UNIT_LEVEL),
        ("own", MODEL, UNIT_LEVEL),
    ):
        policy = FollowDemand(LISTED)
        PriceLevels(store.values, pricing).restore(model_id, policy)
        assert policy.level == level
