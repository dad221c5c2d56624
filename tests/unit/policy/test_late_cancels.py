"""Clients that let work be done and do not take it: when they are refused, for how long, and what speaks for them."""

from __future__ import annotations

import random

import pytest

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import (
    LATE_CANCELS_HALF_LIFE_S,
    LATE_JOBS_FREE,
    LATE_VALUE_FREE,
    RECEIPT_SIGNED_WITHIN_S,
    RECEIPTS_UNSIGNED_MAX,
)
from cocoon_p2p.policy.late_cancels import EndedJob, LateCancels

ALICE, BOB, CAROL = PeerId("alice"), PeerId("bob"), PeerId("carol")
HALF_LIFE_MS = int(LATE_CANCELS_HALF_LIFE_S * 1000)
NOW = 100 * HALF_LIFE_MS


def job(number: int, *, at_ms: int = NOW, paid: int = 0, wasted: int = 0) -> EndedJob:
    return EndedJob(JobId(number.to_bytes(16)), at_ms, paid, wasted)


def refused_ms(*jobs: EndedJob, now: int = NOW) -> int:
    book = LateCancels()
    for each in jobs:
        book.note(ALICE, each)
    refused = book.refusal(ALICE, now)
    assert refused is None or refused.reason is RefusalReason.STANDING
    return 0 if refused is None else refused.needed or 0


def test_a_few_jobs_are_free_and_no_more() -> None:
    jobs = [job(number, wasted=1) for number in range(LATE_JOBS_FREE + 1)]
    assert refused_ms() == 0
    assert refused_ms(*jobs[:-1]) == 0
    assert 0 < refused_ms(*jobs) < 11 * 60_000


def test_so_is_little_value_and_one_accident_whatever_it_cost() -> None:
    half = LATE_VALUE_FREE // 2
    assert refused_ms(job(1, wasted=half), job(2, wasted=half)) == 0
    assert refused_ms(job(1, wasted=half), job(2, wasted=half + 1)) > 0
    assert refused_ms(job(1, wasted=1000 * LATE_VALUE_FREE)) == 0
    dear = [job(number, wasted=1000 * LATE_VALUE_FREE) for number in range(2)]
    assert refused_ms(*dear) == HALF_LIFE_MS, "then the first one is half forgotten"


def test_what_was_paid_speaks_for_a_client_by_its_value() -> None:
    dear = [job(number, wasted=LATE_VALUE_FREE) for number in range(20)]
    many = [job(100 + number, paid=1) for number in range(100)]
    assert refused_ms(*dear, *many) > 0, "a hundred cheap ones are nothing against them"
    assert refused_ms(*dear, job(50, paid=20 * LATE_VALUE_FREE)) == 0
    assert refused_ms(*dear, job(50, paid=20 * LATE_VALUE_FREE - 1)) > 0


def test_both_fade_at_the_same_pace() -> None:
    jobs = [job(number, wasted=10) for number in range(LATE_JOBS_FREE * 2)]
    paid = job(50, at_ms=NOW - HALF_LIFE_MS, paid=2 * 10 * len(jobs))
    assert refused_ms(*jobs, paid) == 0
    assert refused_ms(paid, *jobs) == 0, "in whatever order they come"
    assert refused_ms(*jobs, job(50, at_ms=NOW - HALF_LIFE_MS, paid=2 * 10 * len(jobs) - 2)) > 0
    assert refused_ms(*jobs, now=NOW + HALF_LIFE_MS - 1) > 0
    assert refused_ms(*jobs, now=NOW + HALF_LIFE_MS) == 0


def test_what_it_names_is_when_it_ends() -> None:
    rng = random.Random(5)
    refusals = 0
    for _ in range(300):
        jobs = [
            job(n, at_ms=NOW - 100_000 + n * 4000, **{rng.choice(["paid", "wasted"]): rng.randrange(LATE_VALUE_FREE)})
            for n in range(rng.randrange(25))
        ]
        needed = refused_ms(*jobs)
        if needed:
            refusals += 1
            assert refused_ms(*jobs, now=NOW + needed - 2)
            assert not refused_ms(*jobs, now=NOW + needed + 1)
    assert refusals > 50


def test_a_receipt_that_is_not_signed_in_time_counts_as_work_thrown_away_until_it_is() -> None:
    book = LateCancels()
    for number in range(LATE_JOBS_FREE + 1):
        book.earned(ALICE, JobId(number.to_bytes(16)), NOW, 500)
    assert book.refusal(ALICE, NOW + int(RECEIPT_SIGNED_WITHIN_S * 1000)) is None
    later = NOW + int(RECEIPT_SIGNED_WITHIN_S * 1000) + 1
    refused = book.refusal(ALICE, later)
    assert refused is not None
    assert "or acknowledge the receipts that are open (9)" in refused.detail
    book.signed(ALICE, JobId(bytes(16)))
    assert book.refusal(ALICE, later) is None
    assert book.refusal(BOB, later) is None


def test_receipts_that_are_open_for_long_weigh_as_little_as_what_was_left_then() -> None:
    book, later = LateCancels(), NOW + int(2000 * LATE_CANCELS_HALF_LIFE_S)
    for number in range(4 * LATE_JOBS_FREE):
        book.earned(ALICE, JobId(number.to_bytes(16)), NOW, 500)
    assert book.refusal(ALICE, later - 1000) is not None
    assert book.refusal(ALICE, later) is None


def test_many_that_are_not_signed_are_too_many_at_once() -> None:
    book = LateCancels()
    book.note(ALICE, job(10**6, paid=10**15))
    for number in range(RECEIPTS_UNSIGNED_MAX):
        assert book.refusal(ALICE, NOW) is None
        book.earned(ALICE, JobId(number.to_bytes(16)), NOW, 1)
    refused = book.refusal(ALICE, NOW)
    assert refused is not None
    assert "acknowledge them first" in refused.detail


def test_a_job_that_was_done_is_thrown_away_once_when_it_is_cancelled_after_all() -> None:
    book = LateCancels()
    for number in range(LATE_JOBS_FREE):
        book.earned(ALICE, JobId(number.to_bytes(16)), NOW, 500)
        book.note(ALICE, job(number, wasted=500))
    assert book.refusal(ALICE, NOW + 10**6) is None
    book.note(ALICE, job(99, wasted=1))
    refused = book.refusal(ALICE, NOW)
    assert refused is not None
    assert refused.detail.startswith(
        "of this client's jobs, 9 were left lately after work worth 4,001 nanogram was done for nothing, and 0 nanogram"
    )


@pytest.mark.parametrize("dear", [1, LATE_VALUE_FREE])
def test_an_honest_client_is_never_refused(dear: int) -> None:
    """Its very first job is lost to a hedge or a line that broke, and one in ten after it: twice what backups cost that begin when a job
    takes longer than it usually does."""
    for seed in range(50):
        rng, book, at_ms = random.Random(seed), LateCancels(), NOW
        for number in range(300):
            at_ms += rng.randrange(1, 60_000)
            assert book.refusal(ALICE, at_ms) is None, (seed, number)
            what = "wasted" if number % 10 == 0 else "paid"
            book.note(ALICE, job(number, at_ms=at_ms, **{what: rng.randrange(1, 10) * dear}))


def test_memory_is_bounded() -> None:
    book = LateCancels(clients_max=2)
    for client in (ALICE, BOB, CAROL):
        book.remember(client, [job(1, wasted=1)], [job(2, paid=1)])
    assert [book.knows(client) for client in (ALICE, BOB, CAROL)] == [False, True, True]
    assert len(book._unsigned) == 2
    for number in range(3 * RECEIPTS_UNSIGNED_MAX):
        book.earned(BOB, JobId(number.to_bytes(16)), NOW, 1)
    assert len(book._unsigned[BOB]) == 2 * RECEIPTS_UNSIGNED_MAX
