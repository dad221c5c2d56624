"""How often nodes gossip, and how many announcements one author may bring; with a number for a clock."""

from __future__ import annotations

import heapq
import math
import random

import pytest

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.policy.gossip_pace import AuthorRates, GossipPace

FULL = limits.GOSSIP_ANNOUNCEMENTS_PER_MINUTE


def per_minute(providers: int, minutes: int, *, seed: int = 1, news: bool = False) -> list[int]:
    """A network in which everybody hears everything half a second later: gossiped announcements, minute by minute. The
    first providers were there before; who comes asks how much there was."""
    rng = random.Random(seed)
    topic = GossipPace()  # what goes over it is the same for all
    due = [(rng.uniform(0, 30), number) for number in range(providers)]
    heapq.heapify(due)
    under_way: list[float] = []
    counted = [0] * (minutes + 1)
    while due[0][0] < 60 * minutes:
        now, number = heapq.heappop(due)
        while under_way and under_way[0] <= now:
            topic.note_heard(heapq.heappop(under_way))
        if rng.random() < topic.chance(now, changed=news):
            heapq.heappush(under_way, now + 0.5)
            counted[int(now / 60)] += 1
        heapq.heappush(due, (now + 30 - 3 * rng.random(), number))
    return counted[:-1]


@pytest.mark.parametrize("providers", [1, 3, 5])
def test_in_a_small_network_everybody_is_heard_of_twice_a_minute(providers: int) -> None:
    counted = per_minute(providers, 30)
    assert sum(counted) > 0.97 * 30 * 2 * providers


@pytest.mark.parametrize("providers", [20, 100, 1000, 10_000])
def test_a_network_of_any_size_keeps_to_the_budget_from_the_second_minute_on(providers: int) -> None:
    counted = per_minute(providers, 20)
    assert max(counted[1:]) <= 1.35 * FULL
    assert sum(counted[-10:]) / 10 <= 1.05 * FULL
    assert sum(counted[-10:]) / 10 >= 0.75 * FULL, "nor is it silent"


def test_news_have_half_as_much_again() -> None:
    counted = per_minute(1000, 20, news=True)
    assert FULL < sum(counted[-10:]) / 10 <= 1.55 * FULL


def test_who_comes_into_a_busy_network_knows_what_was_said_before() -> None:
    pace = GossipPace()
    pace.begin(1000.0, FULL)
    assert pace.heard(1000.0) == FULL
    assert pace.chance(1000.0, changed=False) == 0.0
    assert pace.chance(1000.0, changed=True) == 1.0
    assert pace.heard(1060.0) == pytest.approx(FULL / math.e)


def test_what_comes_by_while_the_neighbour_is_asked_is_part_of_what_he_tells() -> None:
    pace = GossipPace()
    for _ in range(5):
        pace.note_heard(1000.0)
    pace.begin(1000.0, FULL)
    assert pace.heard(1000.0) == FULL
    pace.begin(1000.0, 3)
    assert pace.heard(1000.0) == FULL, "who has listened needs no telling"


def test_a_clock_that_is_set_back_forgets_what_was_counted() -> None:
    pace = GossipPace()
    for _ in range(30):
        pace.note_heard(5000.0)
    assert pace.chance(5000.0, changed=True) == 0.0
    assert pace.chance(1000.0, changed=True) == 1.0


def test_who_changes_all_the_time_has_some_changes_and_then_one_now_and_then() -> None:
    pace = GossipPace()
    taken = [second for second in range(1000, 1120) if pace.take_change(float(second))]
    assert taken[:6] == list(range(1000, 1006)), "the burst"
    assert 6 <= len(taken[6:]) <= 9


def test_an_author_may_bring_ten_at_once_and_then_one_a_second() -> None:
    rates, author = AuthorRates(), PeerId("a")
    assert [rates.take(author, 100.0) for _ in range(12)] == [True] * 10 + [False] * 2
    assert [rates.take(author, 100.0 + second) for second in range(1, 6)] == [True] * 5
    assert rates.take(PeerId("b"), 100.0), "others are others"


def test_writing_other_times_brings_nothing() -> None:
    rates, author = AuthorRates(), PeerId("a")
    taken = sum(rates.take(author, 100.0 + 10 * (number % 2)) for number in range(1000))
    assert taken <= 20
    late = AuthorRates()
    assert all(late.take(author, 100.0 + second) for second in range(60)), "a minute's worth that comes at once"


def test_authors_are_forgotten_beyond_the_bound() -> None:
    rates = AuthorRates(authors_max=3)
    for number in range(10):
        rates.take(PeerId(str(number)), 100.0)
    assert len(rates._left) == 3
