"""Whether a job that failed at one provider is tried at another."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.limits import JOB_ATTEMPTS_MAX


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What became of the attempts so far."""

    attempts: int
    retryable: bool
    """Another provider may do better: a broken connection or a dead worker, not a wrong input."""
    at_risk: int
    """Nanogram that earlier providers may have earned although no output came; 0 when the outcome is known."""
    max_total: int | None
    """The most that the whole job may cost."""


def budget_left(facts: AttemptFacts) -> int | None:
    """What the next attempt may cost, nanogram; None for no limit. What may be lost already counts as spent."""
    return None if facts.max_total is None else facts.max_total - facts.at_risk


def may_retry(facts: AttemptFacts) -> bool:
    """A model only computes, so doing it twice harms nobody; but nobody pays more than they said."""
    left = budget_left(facts)
    return facts.retryable and facts.attempts < JOB_ATTEMPTS_MAX and (left is None or left > 0)
