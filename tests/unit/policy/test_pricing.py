from __future__ import annotations

from decimal import Decimal

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, ITEMS_PER_JOB_MAX
from cocoon_p2p.policy.pricing import (
    PRICING,
    FixedPricing,
    ListedPrice,
    Price,
    PriceFacts,
    problem_of_price,
    total_price,
    unknown_policy,
)


@pytest.mark.parametrize(("items", "total"), [(0, 100), (1, 107), (4096, 100 + 7 * 4096)])
def test_fixed_price(items: int, total: int) -> None:
    facts = PriceFacts(items, input_bytes=1 << 30, slots_total=1, slots_free=0)
    assert PRICING["fixed"](ListedPrice(100, 7)).price(facts) == Price(100, 7, total)
    assert total_price(100, 7, items) == total


def test_a_fixed_price_never_moves() -> None:
    policy = FixedPricing(100, 7)
    assert not policy.observe(1.0)
    assert policy.price(PriceFacts(1, 0, 1, 1)) == Price(100, 7, 107)


def test_every_registered_policy_prices_whole_nanogram() -> None:
    for make in PRICING.values():
        price = make(ListedPrice(1, 1)).price(PriceFacts(3, 10, 2, 1))
        assert price == Price(1, 1, 4)
        assert problem_of_price(price, 3) is None


@pytest.mark.parametrize(
    ("base", "per_item"), [(-1, 0), (0, -1), (AMOUNT_NANOGRAM_MAX + 1, 0), (0, AMOUNT_NANOGRAM_MAX)]
)
def test_prices_that_cannot_be(base: int, per_item: int) -> None:
    with pytest.raises(ConfigError):
        FixedPricing(base, per_item)
    assert FixedPricing(0, AMOUNT_NANOGRAM_MAX // ITEMS_PER_JOB_MAX)


def test_a_price_must_be_countable_at_its_ceiling_too() -> None:
    assert ListedPrice(AMOUNT_NANOGRAM_MAX // 4, 0, ceiling_percent=400)
    with pytest.raises(ConfigError, match="too large"):
        ListedPrice(AMOUNT_NANOGRAM_MAX // 4 + 1, 0, ceiling_percent=400)


@pytest.mark.parametrize(("floor", "ceiling"), [(0, 400), (101, 400), (50, 99)])
def test_a_floor_above_the_listed_price_or_a_ceiling_below_it_cannot_be(floor: int, ceiling: int) -> None:
    with pytest.raises(ConfigError, match="floor"):
        ListedPrice(100, 7, floor, ceiling)


def test_unknown_policy_suggests_the_nearest_of_ours_and_of_installed_ones() -> None:
    assert unknown_policy("fixd").hint == "did you mean 'fixed'?"
    assert unknown_policy("nihgt", ["night"]).hint == "did you mean 'night'?"
    assert unknown_policy("zzz", ["night"]).hint == "known: fixed, follow-demand, night"


@pytest.mark.parametrize(
    ("price", "problem"),
    [
        (Price(100, 7, 121), None),
        (None, "price() returned a NoneType"),
        ((100, 7, 121), "price() returned a tuple"),
        (Price(100.0, 7, 121), "base is a float"),  # type: ignore[arg-type]
        (Price(True, 0, 1), "base is a bool"),
        (Price(100, Decimal(7), 121), "per_item is a Decimal"),  # type: ignore[arg-type]
        (Price(-1, 7, 20), "base is -1"),
        (Price(AMOUNT_NANOGRAM_MAX, 0, AMOUNT_NANOGRAM_MAX), "base is 9223372036854775807"),
        (Price(100, 7, 120), "max_total is 120"),
    ],
)
def test_what_is_no_price(price: object, problem: str | None) -> None:
    found = problem_of_price(price, 3)
    assert (found is None) if problem is None else (found is not None and found.startswith(problem))
