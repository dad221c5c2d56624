from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.selection import Candidate, Wanted, cheapest, score, select, why_not

WANTED = Wanted(Tier.SEALED, items=10, input_bytes=1000, max_total=2000)
GOOD = Candidate(PeerId("good"), 100, 10, frozenset({Tier.OPEN, Tier.SEALED}), 64, 1 << 20, latency_ms=20.0)


def peers(count: int) -> list[Candidate]:
    return [replace(GOOD, peer_id=PeerId(f"peer {n}"), price_base=100 + n) for n in range(count)]


@pytest.mark.parametrize(
    ("candidate", "reason", "needed"),
    [
        (replace(GOOD, price_base=1901), RefusalReason.PRICE, 2001),
        (replace(GOOD, tiers=frozenset({Tier.OPEN})), RefusalReason.TIER, None),
        (replace(GOOD, tiers=frozenset()), RefusalReason.TIER, None),
        (replace(GOOD, items_max=9), RefusalReason.LIMITS, 9),
        (replace(GOOD, input_bytes_max=999), RefusalReason.LIMITS, 999),
        (replace(GOOD, banned=True), RefusalReason.STANDING, None),
        (replace(GOOD, networks=frozenset({-239})), RefusalReason.PAYMENT, None),
    ],
)
def test_exclusions_say_what_would_do(candidate: Candidate, reason: RefusalReason, needed: int | None) -> None:
    selection = select(WANTED, [candidate, GOOD], count=3, rng=random.Random(1))
    assert selection.chosen == (GOOD,)
    (excluded,) = selection.excluded
    assert (excluded.candidate, excluded.reason, excluded.needed) == (candidate, reason, needed)
    assert excluded.detail


def test_what_just_fits() -> None:
    assert why_not(WANTED, replace(GOOD, price_base=1900, items_max=10, input_bytes_max=1000)) is None
    assert why_not(replace(WANTED, max_total=None), replace(GOOD, price_base=10**15)) is None


def test_only_the_provider_that_was_asked_for() -> None:
    others = peers(5)
    selection = select(replace(WANTED, provider=others[3].peer_id), others, count=3, rng=random.Random(1))
    assert selection.chosen == (others[3],)
    assert len(selection.excluded) == 4


def test_chosen_are_distinct_and_as_many_as_asked_for() -> None:
    candidates = peers(20)
    selection = select(WANTED, candidates, count=4, rng=random.Random(1))
    assert len(set(selection.chosen)) == 4
    assert set(select(WANTED, candidates[:2], count=4, rng=random.Random(1)).chosen) == set(candidates[:2])
    assert select(WANTED, [], count=4, rng=random.Random(1)).chosen == ()


def test_same_seed_same_choice() -> None:
    choices = [select(WANTED, peers(50), count=3, rng=random.Random(seed)).chosen for seed in (5, 5, 6)]
    assert choices[0] == choices[1] != choices[2]


def test_few_candidates_come_in_the_order_of_their_scores() -> None:
    candidates = peers(5)
    assert select(WANTED, candidates[::-1], count=5, rng=random.Random(1)).chosen == tuple(candidates)


def test_work_is_spread_over_the_better_half_and_not_piled_on_the_best() -> None:
    rng = random.Random(11)
    candidates = peers(50)
    first = Counter(select(WANTED, candidates, count=1, rng=rng).chosen[0].price_base - 100 for _ in range(2000))
    assert first[0] < 2000 * 0.15, "everybody runs to the cheapest"
    assert sum(first[n] for n in range(25)) > 2000 * 0.9, "the dear ones are chosen too often"


@pytest.mark.parametrize(
    "worse",
    [
        replace(GOOD, price_per_item=12),
        replace(GOOD, latency_ms=60.0),
        replace(GOOD, latency_ms=None),
        replace(GOOD, queue_ms=500),
        replace(GOOD, item_us=50_000),
        replace(GOOD, reliability=0.4),
        replace(GOOD, reliability=0.0),
    ],
)
def test_score(worse: Candidate) -> None:
    assert score(WANTED, worse) > score(WANTED, GOOD)


def test_time_counts_between_free_offers() -> None:
    free = replace(GOOD, price_base=0, price_per_item=0)
    assert score(WANTED, free) < score(WANTED, replace(free, latency_ms=30.0))


def test_cheapest_at_any_price() -> None:
    dear = [replace(GOOD, price_base=n) for n in (9000, 5000, 7000)]
    small = replace(GOOD, price_base=1, items_max=1)
    found = cheapest(WANTED, [*dear, small])
    assert found == dear[1]
    assert found.price(WANTED.items) == 5100
    assert cheapest(WANTED, [small]) is None
