from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.preference import PREFERENCES
from cocoon_p2p.policy.selection import Candidate, Wanted, cheapest, score, select, why_not

WANTED = Wanted(Tier.SEALED, items=10, input_bytes=1000, max_total=2000, min_reliability=0.5)
BOTH = {Tier.OPEN: (90, 10), Tier.SEALED: (100, 10)}
GOOD = Candidate(PeerId("good"), BOTH, 64, 1 << 20, latency_ms=20.0)


def priced(base: int, per_item: int = 10, candidate: Candidate = GOOD) -> Candidate:
    return replace(candidate, prices={Tier.SEALED: (base, per_item)})


def peers(count: int, prefix: str = "peer", **facts: object) -> list[Candidate]:
    return [
        replace(priced(100 + n), peer_id=PeerId(f"{prefix} {n}"), **facts)  # type: ignore[arg-type]
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("candidate", "reason", "needed"),
    [
        (priced(1901), RefusalReason.PRICE, 2001),
        (replace(GOOD, prices={Tier.OPEN: (1, 1)}), RefusalReason.TIER, None),
        (replace(GOOD, prices={}), RefusalReason.TIER, None),
        (replace(GOOD, items_max=9), RefusalReason.LIMITS, 9),
        (replace(GOOD, input_bytes_max=999), RefusalReason.LIMITS, 999),
        (replace(GOOD, banned=True), RefusalReason.STANDING, None),
        (replace(GOOD, networks=frozenset({-239})), RefusalReason.PAYMENT, None),
        (replace(GOOD, reliability=0.49, tries=9), RefusalReason.STANDING, None),
    ],
)
def test_exclusions_say_what_would_do(candidate: Candidate, reason: RefusalReason, needed: int | None) -> None:
    selection = select(WANTED, [candidate, GOOD], count=3, rng=random.Random(1))
    assert selection.chosen == (GOOD,)
    (excluded,) = selection.excluded
    assert (excluded.candidate, excluded.reason, excluded.needed) == (candidate, reason, needed)
    assert excluded.detail


def test_what_just_fits() -> None:
    assert why_not(WANTED, priced(1900, candidate=replace(GOOD, items_max=10, input_bytes_max=1000))) is None
    assert why_not(replace(WANTED, max_total=None), priced(10**15)) is None


def test_only_the_provider_that_was_asked_for() -> None:
    others = peers(5)
    selection = select(replace(WANTED, provider=others[3].peer_id), others, count=3, rng=random.Random(1))
    assert selection.chosen == (others[3],)
    assert len(selection.excluded) == 4


def test_chosen_are_distinct_and_as_many_as_asked_for() -> None:
    candidates = peers(20)
    selection = select(WANTED, candidates, count=4, rng=random.Random(1))
    assert len({c.peer_id for c in selection.chosen}) == 4
    assert {c.peer_id for c in select(WANTED, candidates[:2], count=4, rng=random.Random(1)).chosen} == {
        c.peer_id for c in candidates[:2]
    }
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
    first = Counter(
        select(WANTED, candidates, count=1, rng=rng).chosen[0].prices[Tier.SEALED][0] - 100 for _ in range(2000)
    )
    assert first[0] < 2000 * 0.15, "everybody runs to the cheapest"
    assert sum(first[n] for n in range(25)) > 2000 * 0.9, "the dear ones are chosen too often"


@pytest.mark.parametrize(
    "worse",
    [
        priced(100, 12),
        replace(GOOD, latency_ms=60.0),
        replace(GOOD, latency_ms=None),
        replace(GOOD, queue_ms=500),
        replace(GOOD, item_us=50_000),
        replace(GOOD, reliability=0.3),
        replace(GOOD, reliability=0.0),
        replace(GOOD, expected_ms=500.0),
        replace(GOOD, in_flight=3),
    ],
)
def test_score(worse: Candidate) -> None:
    assert score(WANTED, worse) > score(WANTED, GOOD)


def test_time_counts_between_free_offers() -> None:
    free = priced(0, 0)
    assert score(WANTED, free) < score(WANTED, replace(free, latency_ms=30.0))


def test_cheapest_at_any_price() -> None:
    dear = [priced(n) for n in (9000, 5000, 7000)]
    small = priced(1, candidate=replace(GOOD, items_max=1))
    found = cheapest(WANTED, [*dear, small])
    assert found == dear[1]
    assert found.price(WANTED) == 5100
    assert cheapest(WANTED, [small]) is None


def test_what_we_know_goes_before_what_was_announced() -> None:
    boaster = replace(GOOD, item_us=1, queue_ms=0, expected_ms=900.0)
    honest = replace(GOOD, item_us=20_000)
    assert score(WANTED, honest) < score(WANTED, boaster)


# --- newcomers ---

KNOWN = {"tries": 50, "reliability": 0.95}


@pytest.mark.parametrize(("count", "good", "share"), [(1, 4, 0.05), (3, 9, 0.05), (1, 3, 0.1), (1, 1, 0.2)])
def test_newcomers_get_their_share_and_no_more(count: int, good: int, share: float) -> None:
    rng = random.Random(7)
    candidates = peers(good, "known", **KNOWN)
    cheap = [priced(1, 0, candidate) for candidate in peers(200, "fake")]
    first, tried, rounds = 0, 0, 4000
    for _ in range(rounds):
        selection = select(WANTED, [*candidates, *cheap], count=count, rng=rng)
        newcomers = [c.peer_id.startswith("fake") for c in selection.chosen]
        assert selection.trial == newcomers[0]
        assert not any(newcomers[1:]), "the others asked are known ones"
        first += newcomers[0]
        tried += sum(newcomers)
    assert tried == first
    assert 0.8 * share < first / rounds < 1.2 * share


def test_equal_ones_get_equal_work_and_dearer_or_slower_ones_none_of_it() -> None:
    rng = random.Random(11)
    equal = [replace(priced(100, 10, c), expected_ms=100.0 + n) for n, c in enumerate(peers(4, "equal", **KNOWN))]
    others = [
        *peers(1, "slow", expected_ms=130.0, **KNOWN),
        priced(1100, 0, peers(1, "dear", expected_ms=90.0, **KNOWN)[0]),
    ]
    chosen = Counter(select(WANTED, [*equal, *others], count=1, rng=rng).chosen[0].peer_id for _ in range(2000))
    shares = [chosen[c.peer_id] for c in equal]
    assert min(shares) > 0.8 * max(shares)
    cheapest = PREFERENCES["cheapest"]
    assert select(WANTED, equal, count=1, rng=rng, prefer=cheapest).chosen[0] == equal[0], (
        "nothing is near enough there"
    )


def test_newcomers_have_it_all_while_nobody_is_known_to_be_good() -> None:
    bad = peers(2, "bad", tries=50, reliability=0.1)
    full = peers(2, "full", slots_free=0, **KNOWN)
    rng = random.Random(3)
    wanted = replace(WANTED, min_reliability=0.0)
    chosen = Counter(select(wanted, [*bad, *peers(5)], count=1, rng=rng).chosen[0].peer_id[:3] for _ in range(300))
    assert chosen["pee"] > 200
    chosen = Counter(select(wanted, [*full, *peers(20)], count=1, rng=rng).chosen[0].peer_id[:3] for _ in range(300))
    assert chosen["pee"] > 150, "known ones that have no room keep nobody out"


def test_newcomers_fill_up_what_must_be_filled() -> None:
    candidates = [*peers(1, "known", **KNOWN), *peers(5)]
    for seed in range(50):
        selection = select(WANTED, candidates, count=3, rng=random.Random(seed), at_least=2)
        assert len(selection.chosen) == 2
        assert "known 0" in [c.peer_id for c in selection.chosen]


# --- subnets ---


def test_a_subnet_full_of_equals_gets_no_more_than_its_part_of_the_draw() -> None:
    crowd = [replace(priced(100, 10, c), subnet="198.51.100.0/24") for c in peers(200, "crowd", **KNOWN)]
    honest = [replace(priced(100, 10, c), subnet=f"203.0.{n}.0/24") for n, c in enumerate(peers(6, "honest", **KNOWN))]
    rng = random.Random(5)
    chosen = Counter(select(WANTED, [*crowd, *honest], count=1, rng=rng).chosen[0].peer_id[:5] for _ in range(1000))
    assert 0.3 < chosen["crowd"] / 1000 < 0.5, "two of the five that are drawn"


def test_one_subnet_is_never_all_of_the_choice() -> None:
    crowd = [replace(c, subnet="198.51.100.0/24") for c in peers(100, "crowd", reliability=1.0)]
    honest = [replace(c, subnet=f"203.0.{n}.0/24") for n, c in enumerate(peers(4, "honest"))]
    rng = random.Random(5)
    shares: Counter[int] = Counter()
    for _ in range(300):
        chosen = select(WANTED, [*crowd, *honest], count=3, rng=rng).chosen
        crowded = sum(c.peer_id.startswith("crowd") for c in chosen)
        assert crowded <= 1
        shares[crowded] += 1
    assert shares[1], "it is not kept out either"


def test_a_crowd_is_asked_when_nobody_else_is_left() -> None:
    crowd = [replace(c, subnet="198.51.100.0/24") for c in peers(10)]
    assert len(select(WANTED, crowd, count=3, rng=random.Random(5)).chosen) == 3
    alone = replace(peers(1, "alone")[0], subnet="203.0.113.0/24")
    chosen = select(WANTED, [*crowd, alone], count=3, rng=random.Random(5)).chosen
    assert len(chosen) == 3
    assert alone in chosen


def test_those_without_a_public_address_count_each_as_their_own() -> None:
    assert len(select(WANTED, peers(10), count=3, rng=random.Random(1)).chosen) == 3
    seen = {c.peer_id for seed in range(60) for c in select(WANTED, peers(5), count=1, rng=random.Random(seed)).chosen}
    assert seen == {"peer 0"}, "all five are drawn, and the best of them is taken"


# --- preferences ---

CHEAP = replace(priced(10, 0), peer_id=PeerId("cheap"), latency_ms=900.0, reliability=0.6)
FAST = replace(priced(1000, 0), peer_id=PeerId("fast"), latency_ms=1.0, item_us=10, reliability=0.7)
SURE = replace(priced(1500, 0), peer_id=PeerId("sure"), latency_ms=700.0, reliability=0.99)


@pytest.mark.parametrize(
    ("name", "best"), [("cheapest", "cheap"), ("fastest", "fast"), ("reliable", "sure"), ("balanced", "fast")]
)
def test_preferences(name: str, best: str) -> None:
    chosen = select(WANTED, [CHEAP, FAST, SURE], count=3, rng=random.Random(1), prefer=PREFERENCES[name]).chosen
    assert chosen[0].peer_id == best


def test_a_preference_of_ones_own_and_no_limit_is_passed() -> None:
    class LongestName:
        def score(self, wanted: Wanted, candidate: Candidate) -> float:
            return -len(candidate.peer_id)

    names = [replace(GOOD, peer_id=PeerId(name)) for name in ("a", "aaa", "aa")]
    dear = replace(priced(5000), peer_id=PeerId("aaaaaaa"))
    selection = select(WANTED, [*names, dear], count=3, rng=random.Random(1), prefer=LongestName())
    assert [c.peer_id for c in selection.chosen] == ["aaa", "aa", "a"]


@pytest.mark.parametrize("name", list(PREFERENCES))
def test_scores_are_finite_for_the_worst(name: str) -> None:
    worst = replace(priced(2**62, 0), reliability=0.0, latency_ms=None, queue_ms=2**32, in_flight=64)
    assert 0 <= PREFERENCES[name].score(WANTED, worst) < float("inf")


def test_while_nobody_is_known_one_of_those_asked_is_drawn_by_lot() -> None:
    cheap = [replace(priced(1, candidate=each), subnet=f"c{n}") for n, each in enumerate(peers(16, "cheap"))]
    dear = [replace(priced(1000, candidate=each), subnet=f"d{n}") for n, each in enumerate(peers(4, "dear"))]
    rng = random.Random(1)
    rounds = [select(WANTED, [*cheap, *dear], count=3, rng=rng).chosen for _ in range(300)]
    assert all(len(chosen) == len({each.peer_id for each in chosen}) == 3 for chosen in rounds)
    by_lot = sum(chosen[2] in dear for chosen in rounds)
    assert 30 < by_lot < 100, "four of the eighteen that are left"
    assert sum(chosen[0] in dear for chosen in rounds) < 5
    good = [replace(each, tries=9, reliability=0.9) for each in dear]
    later = [select(WANTED, [*cheap, *good], count=3, rng=rng) for _ in range(300)]
    asked = [each for selection in later if not selection.trial for each in selection.chosen]
    assert asked
    assert all(each in good for each in asked), "who knows good ones needs no lot"


def test_the_lot_falls_outside_the_subnets_that_are_asked_already() -> None:
    rack = [replace(each, subnet="198.51.100.0/24") for each in peers(15, "rack")]
    alone = replace(priced(1000), peer_id=PeerId("alone"), subnet="203.0.113.0/24")
    rng = random.Random(2)
    for _ in range(100):
        assert alone in select(WANTED, [*rack, alone], count=3, rng=rng).chosen


def test_the_wanted_reliability_is_not_rounded() -> None:
    for wanted, said in ((0.99999, "0.99999 is wanted"), (0.9, "0.9 is wanted")):
        no = why_not(replace(WANTED, min_reliability=wanted), replace(GOOD, reliability=0.86, tries=9))
        assert no is not None
        assert no.detail == f"its reliability is 0.86; {said}"
