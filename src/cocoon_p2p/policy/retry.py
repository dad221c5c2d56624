"""Whether a job that failed at one provider is tried at another, and what the next attempt may cost."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, RemoteProtocolError
from cocoon_p2p.limits import JOB_ATTEMPTS_MAX, QUESTION_ROUNDS_MAX


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """What became of the attempts so far."""

    attempts: int
    """Providers that had the job."""
    retryable: bool
    """Another provider may do better: a broken connection or a dead worker, not a wrong input."""
    in_time: bool = True
    """The deadline is not over."""
    questions: int = 0
    """Rounds of questions, and quotes, that brought nobody who took the job."""


def may_retry(facts: AttemptFacts) -> bool:
    """A model only computes, so doing it twice harms nobody; and what did not arrive whole is not owed (job/1 §3.8), so
    each attempt may cost what the whole job may. A "no" costs time alone: a crowd that says nothing else must not use up the
    attempts."""
    left = facts.attempts < JOB_ATTEMPTS_MAX and facts.questions < QUESTION_ROUNDS_MAX
    return facts.retryable and facts.in_time and left


def is_retryable(error: CocoonError) -> bool:
    """Whether another provider may do better. One that breaks a protocol's rule says nothing about the next."""
    return error.retryable or isinstance(error, RemoteProtocolError)


def counter_offer(error: CocoonError, max_total: int | None, refused: int | None) -> int | None:
    """The price, nanogram, at which a provider that refused would do it after all, where that is within our limit and more
    than the `refused` one; else None. So nobody is asked for ever at prices that it never keeps to."""
    if not isinstance(error, PeerRefused) or error.reason is not RefusalReason.PRICE or error.needed is None:
        return None
    if refused is not None and error.needed <= refused:
        return None
    return error.needed if max_total is None or error.needed <= max_total else None
