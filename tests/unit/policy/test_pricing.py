from __future__ import annotations

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, ITEMS_PER_JOB_MAX
from cocoon_p2p.policy.pricing import PRICING, FixedPricing, Price, PriceFacts, pricing_policy, total_price


@pytest.mark.parametrize(("items", "total"), [(0, 100), (1, 107), (4096, 100 + 7 * 4096)])
def test_fixed_price(items: int, total: int) -> None:
    facts = PriceFacts(items, input_bytes=1 << 30, slots_total=1, slots_free=0)
    assert pricing_policy("fixed", 100, 7).price(facts) == Price(100, 7, total)
    assert total_price(100, 7, items) == total


def test_every_registered_policy_prices_whole_nanogram() -> None:
    for name in PRICING:
        price = pricing_policy(name, 1, 1).price(PriceFacts(3, 10, 2, 1))
        assert all(type(amount) is int for amount in (price.base, price.per_item, price.max_total))


@pytest.mark.parametrize(
    ("base", "per_item"), [(-1, 0), (0, -1), (AMOUNT_NANOGRAM_MAX + 1, 0), (0, AMOUNT_NANOGRAM_MAX)]
)
def test_prices_that_cannot_be(base: int, per_item: int) -> None:
    with pytest.raises(ConfigError):
        FixedPricing(base, per_item)
    assert FixedPricing(0, AMOUNT_NANOGRAM_MAX // ITEMS_PER_JOB_MAX)


def test_unknown_policy_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError) as raised:
        pricing_policy("fixd", 1, 1)
    assert raised.value.hint == "did you mean 'fixed'?"
    with pytest.raises(ConfigError) as raised:
        pricing_policy("zzz", 1, 1)
    assert raised.value.hint == "known: fixed"
