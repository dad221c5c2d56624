"""Single offers summed up by model, tier and unit."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX
from cocoon_p2p.policy.order_book import OfferFacts, median_price, order_book

FACTS = OfferFacts(PeerId("a"), ModelId("ab" * 32), "echo", Tier.SEALED, "item", 100, 3, 4, "cpu", 5_000, 12.5)


def facts(peer: str, **changes: object) -> OfferFacts:
    return dataclasses.replace(FACTS, peer=PeerId(peer), **changes)  # type: ignore[arg-type]


def test_nothing_makes_no_book() -> None:
    assert order_book([]) == []


def test_one_line_sums_up_a_model_in_a_tier() -> None:
    (line,) = order_book(
        [
            facts("a"),
            facts("b", price=70, slots_free=0, slots_total=8, device_class="gpu", age_ms=900, expected_ms=2.0),
            facts("c", price=300, slots_free=2, slots_total=2, device_class="gpu", expected_ms=None),
        ]
    )
    assert (line.model_id, line.name, line.tier, line.unit) == (FACTS.model_id, "echo", Tier.SEALED, "item")
    assert (line.providers, line.slots_free, line.slots_total) == (3, 5, 14)
    assert (line.best, line.median, line.fastest_ms, line.age_ms) == (70, 100, 2.0, 900)
    assert line.devices == (("gpu", 2), ("cpu", 1))


def test_models_tiers_and_units_are_lines_of_their_own() -> None:
    other = ModelId("cd" * 32)
    lines = order_book(
        [
            facts("a", tier=Tier.OPEN),
            facts("a"),
            facts("a", unit="token"),
            facts("a", model_id=other),
            facts("b", model_id=other, name="alpha"),
            facts("c", model_id=other, name="alpha"),
        ]
    )
    assert [(line.name, line.model_id, line.tier, line.unit) for line in lines] == [
        ("alpha", other, Tier.SEALED, "item"),
        ("echo", FACTS.model_id, Tier.SEALED, "item"),
        ("echo", FACTS.model_id, Tier.SEALED, "token"),
        ("echo", FACTS.model_id, Tier.OPEN, "item"),
    ]


def test_what_a_provider_says_cannot_break_the_book() -> None:
    (line,) = order_book([facts("a", price=2**64, slots_free=9, slots_total=1), facts("b", price=2**64)])
    assert (line.best, line.median) == (AMOUNT_NANOGRAM_MAX, AMOUNT_NANOGRAM_MAX)
    assert (line.slots_free, line.slots_total) == (4, 5), "nobody has more free slots than slots"


def test_the_time_is_unknown_when_nobody_knows() -> None:
    (line,) = order_book([facts("a", expected_ms=None)])
    assert line.fastest_ms is None


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20))
def test_the_median_is_in_the_middle(prices: list[int]) -> None:
    median = median_price(prices)
    assert sum(price <= median for price in prices) >= len(prices) / 2
    assert min(prices) <= median <= max(prices)
    assert median_price([10, 20]) == 15
    assert median_price([30, 10, 20]) == 20


@given(st.permutations([facts("a"), facts("b", name="alpha"), facts("c", name="beta", price=1)]))
def test_two_nodes_that_heard_the_same_show_the_same(offers: list[OfferFacts]) -> None:
    (line,) = order_book(offers)
    assert (line.name, line.best) == ("alpha", 1)
