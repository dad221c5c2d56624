"""Clients that let the work be done and then cancel: when they are refused, and for how long."""

from __future__ import annotations

import random

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import LATE_CANCELS_COUNTED, LATE_CANCELS_MEMORY_S, LATE_CANCELS_MIN
from cocoon_p2p.policy.late_cancels import EndedJob, LateCancels, refusal_for

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")
MEMORY_MS = int(LATE_CANCELS_MEMORY_S * 1000)
NOW = 10 * MEMORY_MS


def ended(*late: bool, at_ms: int = NOW, every_ms: int = 0) -> list[EndedJob]:
    return [EndedJob(JobId(n.to_bytes(16)), at_ms + n * every_ms, each) for n, each in enumerate(late)]


def test_more_than_half_of_at_least_eight() -> None:
    assert LATE_CANCELS_MIN == 8
    assert refusal_for([], NOW) is None
    assert refusal_for(ended(*[True] * 7), NOW) is None
    assert refusal_for(ended(*[True] * 4, *[False] * 4), NOW) is None
    refused = refusal_for(ended(*[True] * 5, *[False] * 3), NOW)
    assert refused is not None
    assert (refused.reason, refused.needed) == (RefusalReason.STANDING, MEMORY_MS)


def test_only_the_last_twenty_count() -> None:
    assert LATE_CANCELS_COUNTED == 20
    assert refusal_for(ended(*[True] * 30, *[False] * 10), NOW) is None
    assert refusal_for(ended(*[False] * 30, *[True] * 11), NOW) is not None


def test_what_it_names_is_when_it_ends() -> None:
    rng = random.Random(5)
    refusals = 0
    for _ in range(300):
        jobs = ended(*(rng.random() < 0.6 for _ in range(rng.randrange(25))), at_ms=NOW - 100_000, every_ms=4000)
        refused = refusal_for(jobs, NOW)
        if refused is None:
            continue
        refusals += 1
        assert refused.needed is not None
        assert refusal_for(jobs, NOW + refused.needed - 1) is not None
        assert refusal_for(jobs, NOW + refused.needed) is None
    assert refusals > 50


def test_a_job_that_was_done_counts_as_late_when_it_is_cancelled_after_all() -> None:
    book = LateCancels()
    for job in ended(*[False] * 8):
        book.note(ALICE, job)
    assert book.refusal(ALICE, NOW) is None
    for job in ended(*[True] * 5):
        book.note(ALICE, job)
    refused = book.refusal(ALICE, NOW)
    assert refused is not None
    assert "5 of this client's last 8" in refused.detail
    assert book.refusal(BOB, NOW) is None


def test_memory_is_bounded() -> None:
    book = LateCancels(clients_max=2)
    for client in (ALICE, BOB, CAROL):
        book.remember(client, ended(*[True] * 9))
    assert [book.knows(client) for client in (ALICE, BOB, CAROL)] == [False, True, True]
    for job in ended(*[False] * 50):
        book.note(BOB, job)
    assert len(book._ended[BOB]) == LATE_CANCELS_COUNTED
