"""The idle rules: each alone, all together, and no change of mind with every look."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.limits import IDLE_CHANGE_MIN_S, IDLE_DETAIL_CHARS_MAX
from cocoon_p2p.policy.idle import (
    IdleJudge,
    IdleRules,
    MachineFacts,
    Rests,
    Serves,
    decide,
    parse_hours,
    problem_of_hours,
)

NOON = 12 * 60
FINE = MachineFacts(NOON, user_idle_s=3600, on_mains=True, temperature_c=50, foreign_load_cores=0.1)
RULES = IdleRules(600, mains_power=True, temperature_max_c=80, load_max=2, hours=((8 * 60, 20 * 60),))


def test_no_rules_always_serve() -> None:
    assert not IdleRules().any
    assert decide(IdleRules(), MachineFacts(0)) == Serves()
    assert RULES.any
    assert decide(RULES, FINE) == Serves()


@pytest.mark.parametrize(
    ("facts", "detail", "needed_ms"),
    [
        (replace(FINE, user_idle_s=130), "somebody uses this machine (idle for 2 of 10 minutes)", 470_001),
        (replace(FINE, user_idle_s=599), "somebody uses this machine (idle for 9 of 10 minutes)", 1_001),
        (replace(FINE, on_mains=False), "this machine runs on battery", None),
        (replace(FINE, temperature_c=80.4), "this machine is hot (80 °C; it serves at 80 °C and below)", None),
        (replace(FINE, foreign_load_cores=3.14), "other programs use 3.1 CPU cores (it serves at 2 and below)", None),
        (replace(FINE, local_minutes=20 * 60), "outside its hours (it serves from 08:00)", 12 * 3600_000),
    ],
)
def test_a_rule_that_is_not_kept_says_so_with_numbers(facts: MachineFacts, detail: str, needed_ms: int | None) -> None:
    assert decide(RULES, facts) == Rests(detail, needed_ms)


@pytest.mark.parametrize(
    ("unknown", "key"),
    [
        ({"user_idle_s": None}, "user_idle_minutes"),
        ({"on_mains": None}, "mains_power"),
        ({"temperature_c": None}, "temperature_max_c"),
        ({"foreign_load_cores": None}, "load_max"),
    ],
)
def test_what_the_machine_cannot_tell_is_not_kept_and_says_what_to_do(unknown: dict[str, None], key: str) -> None:
    found = decide(RULES, replace(FINE, **unknown))  # type: ignore[arg-type]
    assert isinstance(found, Rests)
    assert found.detail.startswith("this machine cannot tell ")
    assert found.detail.endswith(f"take {key} out of [idle] in node.toml")
    assert found.needed_ms is None


def test_several_broken_rules_are_all_named_and_the_longest_wait_counts() -> None:
    night = replace(FINE, user_idle_s=0, local_minutes=23 * 60)
    found = decide(RULES, night)
    assert isinstance(found, Rests)
    assert found.detail.startswith("somebody uses this machine")
    assert "; outside its hours (it serves from 08:00)" in found.detail
    assert found.needed_ms == 9 * 3600_000
    everything = decide(RULES, MachineFacts(23 * 60))
    assert isinstance(everything, Rests)
    assert everything.needed_ms is None
    assert len(everything.detail) <= IDLE_DETAIL_CHARS_MAX


@pytest.mark.parametrize(
    ("minutes", "serves", "wait"),
    [
        (21 * 60 + 59, False, 1),
        (22 * 60, True, 0),
        (23 * 60 + 59, True, 0),
        (0, True, 0),
        (6 * 60 + 59, True, 0),
        (7 * 60, False, 5 * 60),
        (12 * 60 + 30, True, 0),
        (13 * 60, False, 9 * 60),
    ],
)
def test_hours_go_over_midnight_and_the_next_span_counts(minutes: int, serves: bool, wait: int) -> None:
    rules = IdleRules(hours=parse_hours(["22:00-07:00", "12:00-13:00"]))
    found = decide(rules, MachineFacts(minutes))
    assert isinstance(found, Serves) == serves
    assert serves or found == Rests(found.detail, wait * 60_000)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["", "22-7", "24:00-07:00", "22:00-7:00", "22:60-23:00", "22:00 - 23:00", "08:00-08:00"]
)
def test_what_are_no_hours(text: str) -> None:
    assert problem_of_hours(text)
    assert problem_of_hours("22:00-07:00") is None


def test_a_machine_that_rests_must_be_cooler_and_less_busy_than_the_bound() -> None:
    rules = IdleRules(temperature_max_c=80, load_max=2)
    for temperature, load, resting, serves in (
        (80.0, 2.0, False, True),
        (80.0, 0.0, True, False),
        (77.1, 0.0, True, False),
        (77.0, 1.6, True, True),
        (20.0, 1.61, True, False),
    ):
        facts = MachineFacts(0, temperature_c=temperature, foreign_load_cores=load)
        assert isinstance(decide(rules, facts, resting=resting), Serves) == serves


def test_a_judge_waits_between_two_changes_of_mind() -> None:
    judge = IdleJudge(IdleRules(user_idle_s=60))
    used, idle = replace(FINE, user_idle_s=0), FINE
    assert isinstance(judge.judge(used, 0.0), Rests)  # the first look counts at once
    assert isinstance(judge.judge(idle, 5.0), Rests)
    assert isinstance(judge.judge(idle, 10.0), Serves)
    assert isinstance(judge.judge(used, 19.9), Serves)
    assert isinstance(judge.judge(used, 20.0), Rests)


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(60, 100)), min_size=1, max_size=60))
def test_a_judge_never_flaps(looks: list[tuple[float, float]]) -> None:
    judge = IdleJudge(IdleRules(temperature_max_c=80))
    now, changed_at, before = 0.0, None, False
    for wait, temperature in looks:
        now += wait
        resting = isinstance(judge.judge(MachineFacts(0, temperature_c=temperature), now), Rests)
        if resting != before:
            assert changed_at is None or now - changed_at >= IDLE_CHANGE_MIN_S
            assert temperature > 80 if resting else temperature <= 77
            changed_at, before = now, resting
