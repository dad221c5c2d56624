"""follow-demand: its rule to the letter, what holds whatever the demand, and a day of it."""

from __future__ import annotations

import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.limits import PRICE_TICK_S
from cocoon_p2p.policy.price import UNIT_LEVEL, KeepsLevel, ListedPrice, Price, PriceFacts
from cocoon_p2p.policy.pricing_follow_demand import FollowDemand

ONE_ITEM = PriceFacts(1, 0, 32, 32)
LISTED = ListedPrice(100_000, 10_000, 50, 400)

utilisations = st.floats(0, 1)
listed_prices = st.builds(
    ListedPrice, st.integers(0, 10**12), st.integers(0, 10**9), st.integers(1, 100), st.integers(100, 100_000)
)


def amounts(policy: FollowDemand) -> tuple[int, int]:
    price = policy.price(ONE_ITEM)
    return price.base, price.per_item


def test_one_step_is_what_the_rule_says() -> None:
    for utilisation, percent in ((1.0, 103), (0.8, 101), (0.7, 100), (0.6, 99), (0.2, 95), (0.0, 95)):
        policy = FollowDemand(LISTED)
        assert policy.observe(utilisation) == (percent != 100)
        assert amounts(policy) == (1000 * percent, 100 * percent)
        assert policy.price(PriceFacts(7, 0, 1, 1)) == Price(1000 * percent, 100 * percent, 1700 * percent)


@given(listed_prices, st.lists(utilisations, max_size=200))
def test_it_stays_within_its_bounds_in_whole_nanogram_and_small_steps(listed: ListedPrice, day: list[float]) -> None:
    policy = FollowDemand(listed)
    for utilisation in day:
        before, asked = policy.level, amounts(policy)
        moved = policy.observe(utilisation)
        after = amounts(policy)
        assert moved == (after != asked)
        assert type(policy.level) is int
        assert abs(policy.level - before) <= before * Fraction(1, 20) + 1
        for each, of in zip(after, (listed.base, listed.per_item), strict=True):
            assert type(each) is int
            # half a nanogram of rounding, and what is not free costs one
            assert each >= min(of, 1)
            assert Fraction(of * listed.floor_percent, 100) - 1 <= each
            assert each <= Fraction(of * listed.ceiling_percent, 100) + 1


@given(listed_prices, st.lists(utilisations, max_size=50), utilisations, utilisations)
def test_more_demand_never_means_a_lower_price(listed: ListedPrice, day: list[float], one: float, other: float) -> None:
    quieter, busier = FollowDemand(listed), FollowDemand(listed)
    for utilisation in day:
        quieter.observe(utilisation)
        busier.observe(utilisation)
    quieter.observe(min(one, other))
    busier.observe(max(one, other))
    assert amounts(quieter) <= amounts(busier)
    assert quieter.level <= busier.level


@given(st.integers(1, 100), st.integers(100, 100_000))
def test_it_reaches_its_ceiling_when_busy_and_its_floor_when_idle(floor: int, ceiling: int) -> None:
    policy = FollowDemand(ListedPrice(3, 1, floor, ceiling))  # so small that rounding alone would hold it fast
    for _ in range(math.ceil(math.log(ceiling / 100) / math.log(1.03)) + 1):
        policy.observe(1.0)
    assert policy.level == ceiling * UNIT_LEVEL // 100
    for _ in range(math.ceil(math.log(ceiling / floor) / -math.log(0.95)) + 1):
        policy.observe(0.0)
    assert policy.level == floor * UNIT_LEVEL // 100
    assert not policy.observe(0.0)


@given(st.floats(0.700001, 1))
def test_no_demand_above_the_target_is_too_small_to_move_it(utilisation: float) -> None:
    policy = FollowDemand(ListedPrice(10**9, 0, 1, 100))
    policy.level = 1  # its floor
    before = policy.level
    policy.observe(utilisation)
    assert policy.level > before


def test_what_is_no_number_moves_nothing_beyond_a_step() -> None:
    policy = FollowDemand(LISTED)
    for utilisation in (math.nan, -math.inf, -7.0):
        policy.level = UNIT_LEVEL
        policy.observe(utilisation)
        assert policy.level == 95 * UNIT_LEVEL // 100
    policy.level = UNIT_LEVEL
    policy.observe(math.inf)
    assert policy.level == 103 * UNIT_LEVEL // 100


def test_a_kept_level_is_taken_up_within_the_bounds_of_today() -> None:
    policy = FollowDemand(LISTED)
    assert isinstance(policy, KeepsLevel)
    for kept, taken in ((2 * UNIT_LEVEL, 200), (9 * UNIT_LEVEL, 400), (1, 50), (-5, 50)):
        policy.level = kept
        assert policy.level == taken * UNIT_LEVEL // 100


def utilisation_at(second: float) -> float:
    """A day: nobody at night, a working day that begins at nine, more than there is room for around noon."""
    hour = second / 3600
    if hour < 9 or hour >= 17:
        return 0.05
    return 1.0 if 11 <= hour < 14 else 0.72


def test_a_day() -> None:
    policy = FollowDemand(LISTED)
    by_hour: dict[int, int] = {}
    for tick in range(int(86_400 / PRICE_TICK_S)):
        second = tick * PRICE_TICK_S
        policy.observe(utilisation_at(second))
        by_hour[int(second // 3600)] = policy.price(ONE_ITEM).max_total
    assert by_hour[8] == 55_000  # the floor: half of 110,000
    # 0.2 % a step while a little more than 70 % are busy: from the floor to twice that within an hour
    assert by_hour[9] == round(55_000 * 1.002**360)
    assert by_hour[13] == 440_000  # the ceiling: four times as much
    assert by_hour[16] == 440_000
    assert by_hour[17] == 55_000  # 5 % a step: from the ceiling to the floor in seven minutes
    assert by_hour[23] == 55_000
