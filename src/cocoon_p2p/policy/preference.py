"""What counts when one of several fitting offers is taken. An object with a `score` is a preference: `node.run(prefer=…)`
takes one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from cocoon_p2p.policy.selection import Candidate, Wanted

RELIABILITY_MIN = 0.01
"""Below, a provider is not told from a worse one: the scores stay finite."""

NEAR_ENOUGH = 1.15
"""Times of equal machines differ by so much from job to job."""


class Preference(Protocol):
    """Scores only offers that fit: limits are limits, whatever is preferred. One may have a `near_enough`, a factor from 1:
    of offers that cost no more than the best and score at most so many times as much, chance takes one."""

    def score(self, wanted: Wanted, candidate: Candidate) -> float:
        """Lower is better. To be quick, and the same for the same facts: a choice repeats under a seed."""


class Balanced:
    """Price × expected time ÷ reliability. One nanogram is added to the price, so that time still counts between offers
    that cost nothing."""

    near_enough: ClassVar[float] = NEAR_ENOUGH

    def score(self, wanted: Wanted, candidate: Candidate) -> float:
        return (candidate.price(wanted) + 1) * _time_to_success(wanted, candidate)


class Cheapest:
    """The price; between equal ones the time."""

    def score(self, wanted: Wanted, candidate: Candidate) -> float:
        return candidate.price(wanted) + _fraction(_time_to_success(wanted, candidate))


class Fastest:
    """The expected time, attempts that fail included; what is free of difference in time is chosen by price."""

    near_enough: ClassVar[float] = NEAR_ENOUGH

    def score(self, wanted: Wanted, candidate: Candidate) -> float:
        return _time_to_success(wanted, candidate) + _fraction(candidate.price(wanted)) / 1000


class MostReliable:
    """How likely the job succeeds, in percent; between equal ones as Balanced."""

    def score(self, wanted: Wanted, candidate: Candidate) -> float:
        return round(100 * (1 - candidate.reliability)) + _fraction(BALANCED.score(wanted, candidate))


def _time_to_success(wanted: Wanted, candidate: Candidate) -> float:
    """Milliseconds; who fails half the time takes twice as long."""
    return candidate.time_ms(wanted) / max(candidate.reliability, RELIABILITY_MIN)


def _fraction(value: float) -> float:
    """0 … 1, growing with a value of 0 or more: decides only between what is equal before the point."""
    return value / (value + 1e6)


BALANCED = Balanced()
PREFERENCES: Mapping[str, Preference] = {
    "balanced": BALANCED,
    "cheapest": Cheapest(),
    "fastest": Fastest(),
    "reliable": MostReliable(),
}
"""By the names that the configuration, the command line and the API use."""
