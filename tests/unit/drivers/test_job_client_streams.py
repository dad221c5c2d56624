"""job/1 as a client on a stream whose other end the test plays: firm offers, silence, cancelling, receipts that come late.
Tier open where the sealing does not matter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from far_provider import JOB, OTHER, PRICE, PROVIDER, Scene, announced, make_terms, open_scene
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.drivers.clock import unix_ms
from cocoon_p2p.drivers.job_client import Attempt
from cocoon_p2p.errors import PeerRefused, RefusalReason, TransportError
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.sealing.envelope import SealKey
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.job import Cancel, Failure, FailureCode, Phase, Progress, ReceiptAck
from cocoon_p2p.wire.seal import make_seal_key_record


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def scene(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


# --- firm offers ----------------------------------------------------------------------------------------------------


async def test_a_stranger_has_to_be_asked(autojump_clock: MockClock, scene: Scene) -> None:
    assert not scene.jobs.is_warm(PROVIDER.peer_id, Tier.OPEN)
    with pytest.raises(TransportError) as caught:
        scene.jobs.prepare(PROVIDER.peer_id, JOB, make_terms(), announced(), deadline=60)
    assert (caught.value.code, caught.value.outcome_known) == ("NOT_WARM", True)


async def test_who_is_known_gets_the_job_unasked(autojump_clock: MockClock, scene: Scene) -> None:
    far, first = await scene.quoted()
    await first.cancel()
    await far.nothing_earned()
    assert scene.jobs.is_warm(PROVIDER.peer_id, Tier.OPEN)
    assert not scene.jobs.is_warm(PROVIDER.peer_id, Tier.SEALED), "nobody brought its seal key"
    with pytest.raises(TransportError, match="expires"):
        scene.jobs.prepare(PROVIDER.peer_id, OTHER, make_terms(), announced(lasts_ms=999), deadline=60)
    deadline = trio.current_time() + 60
    attempt = scene.jobs.prepare(PROVIDER.peer_id, OTHER, make_terms(), announced(), deadline=deadline)
    assert attempt.job.quote is not None
    assert attempt.job.quote.max_total == PRICE
    await scene.begin(attempt)
    assert await far.accepted() == OTHER
    await far.send(*far.answer(OTHER))
    await far.take(ReceiptAck)
    assert await scene.until_over(OTHER) is None
    assert scene.state(OTHER) == ("done", PRICE)
    assert await scene.spent() == PRICE
    assert attempt.transcript() is not None


async def test_a_counter_offer_is_the_providers_signed_word(autojump_clock: MockClock, scene: Scene) -> None:
    far, first = await scene.quoted()
    await first.cancel()
    await far.nothing_earned()
    attempt = scene.jobs.prepare(PROVIDER.peer_id, OTHER, make_terms(), announced(), deadline=60)
    await scene.begin(attempt)
    await far.accepted()
    await far.refuse(OTHER, RefusalReason.PRICE, 2020)
    error = await scene.until_over(OTHER)
    assert isinstance(error, PeerRefused)
    assert (error.reason, error.needed) == (RefusalReason.PRICE, 2020)
    assert error.signed is not None
    assert attempt.last_refusal == error.signed
    assert await scene.spent() == 0
    assert attempt.at_risk == 0


@pytest.mark.parametrize("end", ["failure", "break", "age"])
async def test_a_seal_key_is_remembered_until_it_may_not_open(
    autojump_clock: MockClock, scene: Scene, end: str
) -> None:
    now_ms = unix_ms(VirtualClock())
    lasts_ms = int(limits.FIRM_KEY_LEFT_S * 1000) + 20_000
    record = make_seal_key_record(
        PROVIDER.peer_id, SealKey.generate().public_key, now_ms, now_ms + lasts_ms, PROVIDER.sign
    )
    attempts: list[Attempt] = []

    async def ask() -> None:
        attempts.append(await scene.ask(tier=Tier.SEALED))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        far = await scene.stream()
        await far.quote(tier=Tier.SEALED, sealed=record)
    assert scene.jobs.is_warm(PROVIDER.peer_id, Tier.SEALED)
    await scene.begin(attempts[0])
    await far.accepted()
    if end == "failure":
        await far.send(Failure(JOB, FailureCode.ENVELOPE, "sealed to a key that is not in use"))
    elif end == "break":
        await scene.network.disconnect(PROVIDER.peer_id)
    else:
        await trio.sleep(20)
    await scene.until_over()
    assert not scene.jobs.is_warm(PROVIDER.peer_id, Tier.SEALED)


async def test_an_offer_whose_stream_broke_meanwhile_frees_its_payment(autojump_clock: MockClock, scene: Scene) -> None:
    _, first = await scene.quoted()
    await first.cancel()
    attempt = scene.jobs.prepare(PROVIDER.peer_id, OTHER, make_terms(), announced(), deadline=60)
    await scene.network.disconnect(PROVIDER.peer_id)
    await trio.sleep(0.1)
    await scene.begin(attempt)
    error = await scene.until_over(OTHER)
    assert isinstance(error, TransportError)
    assert error.outcome_known
    assert not await scene.money.open_reservations()
    assert await scene.spent() == 0


# --- silence --------------------------------------------------------------------------------------------------------


async def test_a_frozen_provider_is_found_in_seconds(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.working()
    began = trio.current_time()
    error = await scene.until_over()
    assert isinstance(error, TransportError)
    assert (error.code, error.outcome_known) == ("SILENT", False)
    assert trio.current_time() - began == pytest.approx(limits.PROGRESS_SILENCE_S, abs=0.2)
    assert scene.state() == ("unknown", PRICE)
    assert not scene.jobs.is_warm(PROVIDER.peer_id, Tier.OPEN), "the next job is not given to it unasked"
    assert await far.nothing_earned() == JOB
    await trio.sleep(0.1)
    assert scene.jobs.is_warm(PROVIDER.peer_id, Tier.OPEN)
    assert scene.state() == ("failed", 0)
    assert await scene.spent() == 0


async def test_a_slow_one_that_says_so_is_waited_for(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.working()
    for _ in range(20):
        await trio.sleep(limits.PROGRESS_INTERVAL_S)
        await far.send(Progress(JOB, Phase.RUNNING, None))
    await far.send(*far.answer(JOB))
    assert await scene.until_over() is None


async def test_what_comes_of_other_jobs_is_no_sign_of_life(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.working(OTHER)
    await scene.working(JOB, far)
    began = trio.current_time()
    with trio.move_on_after(limits.PROGRESS_SILENCE_S + 0.5):
        while True:
            await far.send(Progress(OTHER, Phase.RUNNING, None))
            await trio.sleep(0.5)
    assert OTHER not in scene.ended
    error = await scene.until_over(JOB)
    assert error is not None
    assert error.code == "SILENT"
    assert trio.current_time() - began < limits.PROGRESS_SILENCE_S + 1


async def test_an_input_that_nobody_reads_is_given_up(autojump_clock: MockClock, scene: Scene) -> None:
    size = 64 * limits.MIB
    attempts: list[Attempt] = []

    async def ask() -> None:
        attempts.append(await scene.ask(payload_bytes=size))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        far = await scene.stream()
        await far.quote()
    began = trio.current_time()
    await scene.begin(attempts[0], (bytes(size),))
    error = await scene.until_over()
    assert error is not None
    assert error.code == "SILENT"
    assert trio.current_time() - began <= limits.OUTPUT_SILENCE_S + 1


# --- cancelling, and what is owed -----------------------------------------------------------------------------------


async def test_a_receipt_for_an_answer_that_never_came_is_not_paid(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.working()
    *_, receipt = far.answer(JOB)
    await scene.network.disconnect(PROVIDER.peer_id)
    await scene.until_over()
    assert (scene.state(), await scene.spent()) == (("unknown", PRICE), PRICE)
    again, attempt = await scene.quoted(OTHER, first=[receipt])
    assert again.asked_about == [JOB]
    await trio.sleep(0.1)
    assert (scene.state(), await scene.spent()) == (("unknown", PRICE), PRICE), "not before the provider says so"
    await again.send(Failure(JOB, FailureCode.CANCELLED, "nothing was earned with this job"))
    await trio.sleep(0.1)
    assert (scene.state(), await scene.spent()) == (("failed", 0), 0)
    assert scene.store.receipts.by_job(JOB) is None
    await attempt.cancel()
    assert (await again.take(Cancel))[0].job_id == OTHER, "one CANCEL a job is enough"


async def test_an_answer_without_its_receipt_is_paid_when_that_comes(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.working()
    head, output, receipt = far.answer(JOB)
    await far.send(head, output)
    await trio.sleep(0.1)
    await scene.network.disconnect(PROVIDER.peer_id)
    await scene.until_over()
    assert (scene.state(), await scene.spent()) == (("done", PRICE), PRICE)
    for number in range(2):  # the acknowledgement may be lost, too
        again, attempt = await scene.quoted(JobId(bytes([number]) * 16), first=[receipt])
        (ack,) = await again.take(ReceiptAck)
        assert ack.job_id == JOB
        assert await scene.spent() == PRICE, "once"
        assert scene.store.receipts.by_job(JOB) is not None
        await attempt.cancel()
        await scene.network.disconnect(PROVIDER.peer_id)
        await trio.sleep(0.1)


async def test_a_cancel_after_the_whole_answer_is_none(autojump_clock: MockClock, scene: Scene) -> None:
    far, attempt = await scene.quoted()
    await scene.begin(attempt)
    await far.accepted()
    head, output, receipt = far.answer(JOB)
    await far.send(head, output)
    await trio.sleep(0.1)
    await attempt.cancel()
    await scene.until_over()
    assert scene.state() == ("done", PRICE)
    await far.send(receipt)
    await far.take(ReceiptAck)
    assert await scene.spent() == PRICE


async def test_a_cancel_in_the_middle_of_the_answer_costs_nothing(autojump_clock: MockClock, scene: Scene) -> None:
    far, attempt = await scene.quoted()
    await scene.begin(attempt)
    await far.accepted()
    head, output, receipt = far.answer(JOB)
    await far.send(head)
    await trio.sleep(0.1)
    await attempt.cancel()
    await far.send(output, receipt)  # crossed the CANCEL
    assert await scene.until_over() is not None
    assert await scene.spent() == PRICE
    assert await far.nothing_earned() == JOB
    await trio.sleep(0.1)
    assert (scene.state(), await scene.spent()) == (("failed", 0), 0)
    await far.send(receipt)  # a provider that does not know what it said
    assert (await far.take(Cancel))[0].job_id == JOB
    assert await scene.spent() == 0


async def test_answers_to_a_cancelled_attempt_do_not_end_the_next(autojump_clock: MockClock, scene: Scene) -> None:
    far, first = await scene.quoted()
    await first.cancel()
    attempts: list[Attempt] = []

    async def ask() -> None:
        attempts.append(await scene.ask(JOB))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await far.nothing_earned()
        await far.quote()
    await scene.begin(attempts[0])
    await far.accepted()
    await far.send(*far.answer(JOB))
    assert await scene.until_over() is None
