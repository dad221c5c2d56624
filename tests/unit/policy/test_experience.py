from __future__ import annotations

import pytest

from cocoon_p2p.limits import EXPERIENCE_HALF_LIFE_S, NEWCOMER_TRIES
from cocoon_p2p.policy.experience import Experience, Outcome, after, expected_ms, is_late, reliability

NOW = 1_800_000_000_000
HALF_LIFE_MS = int(1000 * EXPERIENCE_HALF_LIFE_S)


def jobs(*outcomes: Outcome, at_ms: int = NOW) -> Experience:
    known = Experience()
    for outcome in outcomes:
        known = after(known, outcome, at_ms)
    return known


def test_a_stranger_is_a_half_and_nobody_is_certain() -> None:
    assert reliability(Experience(), NOW) == 0.5
    assert 0 < reliability(jobs(*[Outcome.FAILED] * 1000), NOW) < 0.01
    assert 0.99 < reliability(jobs(*[Outcome.DONE] * 1000), NOW) < 1


def test_the_order_of_outcomes() -> None:
    one = [reliability(jobs(outcome), NOW) for outcome in (Outcome.DONE, Outcome.LATE, Outcome.FAILED, Outcome.WRONG)]
    assert one == sorted(one, reverse=True)
    assert len(set(one)) == 4
    assert reliability(jobs(Outcome.DONE, Outcome.AGREED), NOW) > reliability(jobs(Outcome.DONE), NOW)


def test_a_wrong_answer_weighs_twenty_failures() -> None:
    wrong, failed = jobs(Outcome.WRONG), jobs(*[Outcome.FAILED] * 20)
    assert (wrong.bad, reliability(wrong, NOW)) == (failed.bad, reliability(failed, NOW))


def test_what_is_long_ago_fades_to_nothing() -> None:
    known = jobs(*[Outcome.DONE] * 10)
    week, year = NOW + HALF_LIFE_MS, NOW + 52 * HALF_LIFE_MS
    assert reliability(known, week) == pytest.approx((5 + 1) / (5 + 2))
    assert reliability(known, year) == pytest.approx(0.5, abs=1e-6)
    assert after(known, Outcome.DONE, week).good == pytest.approx(6)
    assert known.tries == 10


def test_a_clock_that_goes_backwards_makes_nothing_grow() -> None:
    known = after(jobs(*[Outcome.DONE] * 4), Outcome.DONE, NOW - HALF_LIFE_MS)
    assert (known.good, known.at_ms) == (5, NOW)
    assert reliability(known, NOW - HALF_LIFE_MS) == reliability(known, NOW)


def test_verdicts_are_no_tries() -> None:
    assert jobs(Outcome.DONE, Outcome.AGREED, Outcome.WRONG, Outcome.FAILED, Outcome.LATE).tries == 3


def test_times_are_averages_of_what_was_measured() -> None:
    known = Experience()
    assert expected_ms(known, 10) is None
    known = after(known, Outcome.DONE, NOW, items=10, total_ms=70.0, execute_us=50_000)
    assert (known.overhead_ms, known.item_us) == (20.0, 5000.0)
    assert expected_ms(known, 100) == 520.0
    for _ in range(50):
        known = after(known, Outcome.DONE, NOW, items=1, total_ms=11.0, execute_us=1000)
    assert expected_ms(known, 1) == pytest.approx(11.0, abs=0.1)
    assert after(known, Outcome.FAILED, NOW).overhead_ms == known.overhead_ms, "a failure says nothing of time"


def test_a_provider_cannot_have_worked_longer_than_we_waited() -> None:
    known = after(Experience(), Outcome.DONE, NOW, items=1, total_ms=10.0, execute_us=10**12)
    assert (known.overhead_ms, known.item_us) == (0.0, 10_000.0)


def test_late() -> None:
    known = Experience()
    for number in range(NEWCOMER_TRIES):
        assert not is_late(known, 1, 10**6), f"nothing to compare with after {number}"
        known = after(known, Outcome.DONE, NOW, items=1, total_ms=500.0, execute_us=100_000)
    assert not is_late(known, 1, 2999.0)
    assert is_late(known, 1, 3001.0)
    assert not is_late(known, 30, 13_000.0), "more items take longer"


def test_two_who_turned_us_away_are_one_failure_and_both_count_as_tries() -> None:
    twice, failed = jobs(Outcome.TURNED_AWAY, Outcome.TURNED_AWAY), jobs(Outcome.FAILED)
    assert reliability(twice, NOW) == reliability(failed, NOW) < reliability(jobs(Outcome.TURNED_AWAY), NOW) < 0.5
    assert (twice.tries, failed.tries) == (2, 1)
    busy_once = jobs(*[Outcome.DONE] * 5, Outcome.TURNED_AWAY)
    assert reliability(busy_once, NOW) > 0.7, "an honest one that filled up a moment ago stays a good one"
