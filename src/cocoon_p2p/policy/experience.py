"""What we know of a provider from the jobs that it did for us: how likely the next one succeeds, and how long it takes.

Nothing here comes from hearsay: a crowd of fake peers that praise each other changes none of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from cocoon_p2p.limits import EXPERIENCE_HALF_LIFE_S, NEWCOMER_TRIES

SMOOTHING = 0.2
"""What the newest job weighs in a moving average: after five jobs two thirds of it is new."""
LATE_FACTOR = 4.0
LATE_EXTRA_MS = 1000.0
"""An answer is late when it took so many times what was expected, and a second more: a hiccup is none."""


class Outcome(Enum):
    """What became of a job, as far as the provider is to blame or to praise."""

    DONE = "done"
    LATE = "late"
    """Done, but long after it was to be expected."""
    FAILED = "failed"
    """No answer: refused after a quote, broken off, silent, or past the deadline."""
    TURNED_AWAY = "turned away"
    """It refused what it had announced: free slots, a price, its limits. An honest one may have filled up a moment ago, so two
    such count as one failure."""
    WRONG = "wrong"
    """An answer that others outvoted, or that differs from what is known to be right."""
    AGREED = "agreed"
    """An answer that another provider's confirmed."""


_WEIGHTS: dict[Outcome, tuple[float, float]] = {
    Outcome.DONE: (1.0, 0.0),
    Outcome.LATE: (0.5, 0.5),
    Outcome.FAILED: (0.0, 1.0),
    Outcome.TURNED_AWAY: (0.0, 0.5),
    Outcome.WRONG: (0.0, 20.0),
    Outcome.AGREED: (1.0, 0.0),
}
"""(success, failure). A wrong answer also takes all success before it: who is wrong on purpose is right as often as it must to
stay in business, and the tolerances leave room for every honest machine."""


@dataclass(frozen=True, slots=True)
class Experience:
    """`Experience()` is a stranger's. Counts are as of `at_ms` (Unix milliseconds) and fade."""

    good: float = 0.0
    bad: float = 0.0
    at_ms: int = 0
    tries: int = 0
    """Jobs in all, and those that it refused against its own announcement; does not fade."""
    overhead_ms: float | None = None
    """Moving average of what a job takes there beside its work and its wait."""
    item_us: float | None = None
    """Moving average of microseconds an item, by the provider's receipts."""


def after(
    experience: Experience,
    outcome: Outcome,
    now_ms: int,
    *,
    items: int = 0,
    total_ms: float | None = None,
    execute_us: int | None = None,
) -> Experience:
    """The experience after one more job. `total_ms` is what it took from here without its wait in the provider's queue,
    `execute_us` what the provider says that the work took; both only of jobs that were done."""
    good, bad = _WEIGHTS[outcome]
    faded = _fade(experience, now_ms)
    known = replace(
        experience,
        good=(0.0 if outcome is Outcome.WRONG else experience.good * faded) + good,
        bad=experience.bad * faded + bad,
        at_ms=max(now_ms, experience.at_ms),
        tries=experience.tries + (outcome not in (Outcome.AGREED, Outcome.WRONG)),
    )
    if total_ms is None or items < 1:
        return known
    execute_ms = min((execute_us or 0) / 1000, total_ms)
    return replace(
        known,
        overhead_ms=_averaged(experience.overhead_ms, total_ms - execute_ms),
        item_us=_averaged(experience.item_us, 1000 * execute_ms / items),
    )


def reliability(experience: Experience, now_ms: int) -> float:
    """How likely the next job succeeds, 0 < … < 1. Laplace's rule of succession, so a stranger counts as a half, and as good
    after its first success as one that failed one job in three."""
    faded = _fade(experience, now_ms)
    return (experience.good * faded + 1) / ((experience.good + experience.bad) * faded + 2)


def expected_ms(experience: Experience, items: int) -> float | None:
    """How long a job of so many items takes there, without waiting; None before the first that was done."""
    if experience.overhead_ms is None or experience.item_us is None:
        return None
    return experience.overhead_ms + items * experience.item_us / 1000


def is_late(experience: Experience, items: int, total_ms: float) -> bool:
    """Whether a job that took so long came late. Nobody is late who is not known yet."""
    expected = expected_ms(experience, items)
    if expected is None or experience.tries < NEWCOMER_TRIES:
        return False
    return total_ms > LATE_FACTOR * expected + LATE_EXTRA_MS


def _fade(experience: Experience, now_ms: int) -> float:
    """What is left of a count. A clock that went backwards does not make it grow."""
    return float(0.5 ** (max(now_ms - experience.at_ms, 0) / (1000 * EXPERIENCE_HALF_LIFE_S)))


def _averaged(before: float | None, now: float) -> float:
    return now if before is None else before + SMOOTHING * (now - before)
