"""When a machine serves others: the operator's rules and the state of the machine in, a yes or a no with its reason out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from cocoon_p2p.limits import IDLE_CHANGE_MIN_S, IDLE_DETAIL_CHARS_MAX

TEMPERATURE_MARGIN_C = 3.0
"""So much cooler than its bound a machine must be before it serves again."""
LOAD_MARGIN = 0.8
"""So much of its bound the load must be at most before the machine serves again."""
MINUTES_PER_DAY = 24 * 60

_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def problem_of_hours(text: str) -> str | None:
    """What is wrong with a span of hours such as "22:00-07:00"; None when it is right."""
    match = _HOURS.fullmatch(text)
    if match is None:
        return f'{text!r} is no span of hours; one looks like "22:00-07:00"'
    start, end = text.split("-")
    return f"{text!r} begins when it ends" if start == end else None


@dataclass(frozen=True, slots=True)
class IdleRules:
    """The section [idle] of node.toml. A rule that is left at its default is none."""

    user_idle_s: float = 0.0
    mains_power: bool = False
    temperature_max_c: float = 0.0
    load_max: float = 0.0
    """CPU cores."""
    hours: tuple[tuple[int, int], ...] = ()
    """Spans of local time in minutes since midnight; one may go over midnight."""

    @property
    def any(self) -> bool:
        """Whether the machine must be looked at at all."""
        return self != IdleRules()


def parse_hours(texts: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Of spans that have no `problem_of_hours`."""
    spans = []
    for text in texts:
        match = _HOURS.fullmatch(text)
        if match is None:
            raise ValueError(problem_of_hours(text))
        start_h, start_m, end_h, end_m = map(int, match.groups())
        spans.append((60 * start_h + start_m, 60 * end_h + end_m))
    return tuple(spans)


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The machine at one moment. None is what it cannot tell."""

    local_minutes: int
    """Since midnight, by the clock on the wall."""
    user_idle_s: float | None = None
    on_mains: bool | None = None
    temperature_c: float | None = None
    """Of the hottest sensor."""
    foreign_load_cores: float | None = None
    """CPU cores in use by others than the node and its processes."""


@dataclass(frozen=True, slots=True)
class Serves:
    """Every rule is kept."""


@dataclass(frozen=True, slots=True)
class Rests:
    detail: str
    """For the operator: which rules are not kept, with numbers."""
    needed_ms: int | None
    """When they would be kept at the earliest, as far as that is known."""


IdleDecision = Serves | Rests


@dataclass(frozen=True, slots=True)
class _Broken:
    """A rule that is not kept."""

    detail: str
    needed_ms: int | None = None


def decide(rules: IdleRules, facts: MachineFacts, *, resting: bool = False) -> IdleDecision:
    """Whether the machine serves. One that is `resting` already must be cooler and less busy than the bounds say before it
    serves again, so that it does not change its mind with every look. A rule whose fact the machine cannot tell is not
    kept: it was set for a reason."""
    rules_broken = [
        broken
        for broken in (
            _user(rules, facts),
            _power(rules, facts),
            _temperature(rules, facts, resting),
            _load(rules, facts, resting),
            _hours(rules, facts),
        )
        if broken is not None
    ]
    if not rules_broken:
        return Serves()
    waits = [broken.needed_ms for broken in rules_broken]
    needed = None if None in waits else max(wait for wait in waits if wait is not None)
    return Rests("; ".join(broken.detail for broken in rules_broken)[:IDLE_DETAIL_CHARS_MAX], needed)


def _user(rules: IdleRules, facts: MachineFacts) -> _Broken | None:
    if not rules.user_idle_s:
        return None
    if facts.user_idle_s is None:
        return _Broken(_unknown("whether somebody uses it", "user_idle_minutes"))
    missing_s = rules.user_idle_s - facts.user_idle_s
    if missing_s <= 0:
        return None
    idle, wanted = facts.user_idle_s / 60, rules.user_idle_s / 60
    detail = f"somebody uses this machine (idle for {max(0, int(idle))} of {wanted:g} minutes)"
    return _Broken(detail, int(missing_s * 1000) + 1)


def _power(rules: IdleRules, facts: MachineFacts) -> _Broken | None:
    if not rules.mains_power or facts.on_mains:
        return None
    if facts.on_mains is None:
        return _Broken(_unknown("whether it runs on mains power", "mains_power"))
    return _Broken("this machine runs on battery")


def _temperature(rules: IdleRules, facts: MachineFacts, resting: bool) -> _Broken | None:
    if not rules.temperature_max_c:
        return None
    if facts.temperature_c is None:
        return _Broken(_unknown("its temperature", "temperature_max_c"))
    bound = rules.temperature_max_c - (TEMPERATURE_MARGIN_C if resting else 0.0)
    if facts.temperature_c <= bound:
        return None
    return _Broken(f"this machine is hot ({facts.temperature_c:.0f} °C; it serves at {bound:g} °C and below)")


def _load(rules: IdleRules, facts: MachineFacts, resting: bool) -> _Broken | None:
    if not rules.load_max:
        return None
    if facts.foreign_load_cores is None:
        return _Broken(_unknown("what other programs use", "load_max"))
    bound = rules.load_max * (LOAD_MARGIN if resting else 1.0)
    if facts.foreign_load_cores <= bound:
        return None
    return _Broken(f"other programs use {facts.foreign_load_cores:.1f} CPU cores (it serves at {bound:g} and below)")


def _hours(rules: IdleRules, facts: MachineFacts) -> _Broken | None:
    if not rules.hours or any(_within(span, facts.local_minutes) for span in rules.hours):
        return None
    wait, start = min(((start - facts.local_minutes) % MINUTES_PER_DAY, start) for start, _ in rules.hours)
    return _Broken(f"outside its hours (it serves from {start // 60:02}:{start % 60:02})", wait * 60_000)


def _within(span: tuple[int, int], minutes: int) -> bool:
    start, end = span
    return start <= minutes < end if start < end else minutes >= start or minutes < end


def _unknown(what: str, key: str) -> str:
    return f"this machine cannot tell {what}: take {key} out of [idle] in node.toml"


class IdleJudge:
    """`decide`, and a while between two changes of mind."""

    def __init__(self, rules: IdleRules) -> None:
        self.rules = rules
        self.decision: IdleDecision = Serves()
        self._changed_at = -inf

    def judge(self, facts: MachineFacts, now: float) -> IdleDecision:
        """`now` in seconds that never jump."""
        resting = isinstance(self.decision, Rests)
        found = decide(self.rules, facts, resting=resting)
        if isinstance(found, Rests) != resting:
            if now - self._changed_at < IDLE_CHANGE_MIN_S:
                return self.decision
            self._changed_at = now
        self.decision = found
        return found
