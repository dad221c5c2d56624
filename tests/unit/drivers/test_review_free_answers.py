"""Ways to have answers for nothing: one job on two streams, another's job id, receipts that are never signed, cancellations
hidden behind many that cost nobody anything, a stream that breaks off before the last byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from far_client import CLIENT, JOB, PAYLOAD, PRICE, PROVIDER, Far, Scene, open_scene
from trio.testing import MockClock, wait_all_tasks_blocked

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason, TransportError
from cocoon_p2p.ids import JobId
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.wire.job import Cancel, Failure, Input, Output, OutputHead, Receipt, Refusal, decode_refusal_body


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def scene(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


def ids(count: int, kind: int = 0) -> list[JobId]:
    return [JobId(bytes([kind]) * 8 + number.to_bytes(8)) for number in range(count)]


async def refused_for_standing(far: Far, job_id: JobId) -> str:
    await far.submit(job_id)
    (refusal,) = await far.take(Refusal)
    body = decode_refusal_body(refusal.body)
    assert body.reason is RefusalReason.STANDING
    return body.detail


async def test_a_job_on_two_streams_is_paid_all_the_same(autojump_clock: MockClock, scene: Scene) -> None:
    first, second = await scene.stream(), await scene.stream()
    await first.submit(JOB, whole=False)
    await wait_all_tasks_blocked()
    await second.submit(JOB, whole=False)
    (refusal,) = await second.take(Refusal)
    assert decode_refusal_body(refusal.body).reason is RefusalReason.BUSY
    await first.send(Input(JOB, PAYLOAD, True))
    await second.send(Input(JOB, PAYLOAD, True))  # under way when the refusal came
    await wait_all_tasks_blocked()
    assert await scene.reserved() == PRICE
    scene.engine.proceed.set()
    await first.take(OutputHead, Output, Receipt)
    assert await scene.earned() == PRICE


async def test_a_cancellation_of_the_second_does_not_free_what_the_first_is_paid_with(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """The two streams have the same id; what the second one says is about the job wherever it goes on."""
    first, second = await scene.stream(), await scene.stream()
    await first.submit(JOB)
    await wait_all_tasks_blocked()
    await second.cancelled(JOB)
    scene.engine.proceed.set()
    await wait_all_tasks_blocked()
    assert (await scene.earned(), await scene.reserved()) == (0, 0)
    (failure,) = await first.take(Failure)
    assert failure.job_id == JOB


async def test_somebody_else_with_the_same_id_changes_nothing(
    autojump_clock: MockClock, scene: Scene, tmp_path: Path
) -> None:
    """Whoever is asked for a wish knows its id: it may come to a competitor with it, as a client."""
    stranger = IdentityKey.from_seed(b"s" * 32)
    with open_local_settlement(tmp_path / "stranger.db", stranger, stranger, threads=False) as money:
        far = await scene.stream()
        await far.submit(JOB)
        await wait_all_tasks_blocked()
        payment = await money.reserve(PROVIDER.peer_id, JOB, PRICE)
        await scene.money.accept_payment(stranger.peer_id, JOB, payment, PRICE)
        await scene.money.release(JOB, payer=stranger.peer_id)
        assert await scene.reserved() == PRICE
        scene.engine.proceed.set()
        await far.answered()
        assert await scene.earned() == PRICE
        await scene.money.refund(JOB, payer=stranger.peer_id)
        assert await scene.earned() == PRICE


async def test_a_strangers_use_of_an_id_does_not_burn_it(scene: Scene, tmp_path: Path) -> None:
    stranger = IdentityKey.from_seed(b"s" * 32)
    with open_local_settlement(tmp_path / "stranger.db", stranger, stranger, threads=False) as money:
        payment = await money.reserve(PROVIDER.peer_id, JOB, PRICE)
        await scene.money.accept_payment(stranger.peer_id, JOB, payment, PRICE)
        await scene.money.release(JOB, payer=stranger.peer_id)
    scene.engine.proceed.set()
    far = await scene.stream()
    await far.done()
    assert await scene.earned() == PRICE
    assert scene.standing.of(CLIENT.peer_id).penalty == 0


async def test_receipts_that_are_never_signed_end_the_credit(autojump_clock: MockClock, scene: Scene) -> None:
    """Otherwise a client could let them gather, and cancel all at once."""
    scene.engine.proceed.set()
    far = await scene.stream()
    jobs = ids(limits.RECEIPTS_UNSIGNED_MAX)
    receipts = [await far.done(job_id) for job_id in jobs]
    assert "are not signed" in await refused_for_standing(far, JOB)
    for receipt in receipts[:2]:
        await far.sign(receipt)
    await scene.client_money.end_reservation(JOB, "released")
    await far.done()


async def test_receipts_that_are_not_signed_in_time_count_as_cancelled(autojump_clock: MockClock, scene: Scene) -> None:
    scene.engine.proceed.set()
    far = await scene.stream()
    receipts = []
    for job_id in ids(limits.LATE_JOBS_FREE + 1):
        receipts.append(await far.done(job_id))
    await trio.sleep(limits.RECEIPT_SIGNED_WITHIN_S + 1)
    await refused_for_standing(far, JOB)
    for receipt in receipts:
        await far.sign(receipt)
    await scene.client_money.end_reservation(JOB, "released")
    await far.done()


async def test_unsigned_receipts_count_after_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        scene.engine.proceed.set()
        far = await scene.stream()
        for job_id in ids(limits.RECEIPTS_UNSIGNED_MAX):
            await far.done(job_id)
    async with open_scene(tmp_path) as scene:
        far = await scene.stream()
        await far.take(*[Receipt] * limits.RECEIPTS_RESENT_MAX)
        await refused_for_standing(far, JOB)


async def test_all_receipts_come_again_a_few_at_a_time(autojump_clock: MockClock, scene: Scene) -> None:
    """A client whose line broke with many of them under way can sign them all, and lose nothing."""
    scene.engine.proceed.set()
    far = await scene.stream()
    jobs = ids(2 * limits.RECEIPTS_RESENT_MAX + 3)
    for job_id in jobs:
        await far.done(job_id)
    await far.stream.reset()
    await trio.sleep(limits.RECEIPT_SIGNED_WITHIN_S + 1)
    far = await scene.stream()
    for number, job_id in enumerate(jobs):
        if number == 5:
            new = await far.take(*[Receipt] * (limits.RECEIPTS_RESENT_MAX - 5))
            for receipt in new:
                await far.sign(receipt)
            break
        (receipt,) = await far.take(Receipt)
        assert receipt.job_id == job_id
        await far.sign(receipt)
    for job_id in jobs[limits.RECEIPTS_RESENT_MAX :]:
        (receipt,) = await far.take(Receipt)
        assert receipt.job_id == job_id
        await far.cancelled(job_id) if job_id == jobs[-1] else await far.sign(receipt)
    await wait_all_tasks_blocked()
    assert scene.store.receipts.unacknowledged(CLIENT.peer_id, 99) == ()
    await far.done()
    assert await scene.earned() == PRICE * len(jobs)


async def test_cancellations_that_cost_nothing_do_not_hide_those_that_do(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.engine.proceed.set()
    far = await scene.stream()
    for job_id in ids(limits.LATE_JOBS_FREE + 1):
        await far.done(job_id)
        await far.cancelled(job_id)
    for job_id in ids(40, 1):
        scene.desk.late_cancels, kept = type(scene.desk.late_cancels)(), scene.desk.late_cancels
        await far.submit(job_id, whole=False)  # as if it was not refused
        await wait_all_tasks_blocked()
        scene.desk.late_cancels = kept
        await far.cancelled(job_id)
    await refused_for_standing(far, JOB)


async def test_nor_do_they_after_a_restart(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        scene.engine.proceed.set()
        far = await scene.stream()
        for job_id in ids(limits.LATE_JOBS_FREE):
            await far.done(job_id)
            await far.cancelled(job_id)
        for job_id in ids(40, 1):
            await far.submit(job_id, whole=False)
            await wait_all_tasks_blocked()
            await far.cancelled(job_id)
        await far.done()
        await far.cancelled()
    async with open_scene(tmp_path) as scene:
        await refused_for_standing(await scene.stream(), ids(1, 2)[0])


async def test_who_leaves_before_the_last_byte_throws_work_away_too(autojump_clock: MockClock, scene: Scene) -> None:
    scene.engine.answer = b"a" * (64 << 20)
    scene.engine.proceed.set()
    for job_id in ids(limits.LATE_JOBS_FREE + 1):
        far = await scene.stream()
        await far.submit(job_id)
        await far.take(OutputHead, Output)
        await far.stream.reset()
        await wait_all_tasks_blocked()
        assert await scene.earned() == 0
    await refused_for_standing(await scene.stream(), JOB)


async def test_more_streams_are_no_more_answers(autojump_clock: MockClock, scene: Scene) -> None:
    """What one client may have signed without giving a job is its own, not its stream's."""
    scene.desk.models = {}
    asked = 0
    for _ in range(3):
        far = await scene.stream()
        for job_id in ids(int(limits.ANSWERS_UNPAID_BURST) // 2):
            await far.send(Cancel(job_id))
            await far.take(Failure)
        try:
            for job_id in ids(int(limits.ANSWERS_UNPAID_BURST) // 2, 1):
                await far.submit(job_id)
                await far.take(Refusal)
                await scene.client_money.end_reservation(job_id, "released")
                asked += 1
        except TransportError:
            break
    assert asked <= limits.ANSWERS_UNPAID_BURST + limits.ANSWERS_UNPAID_PER_S
    assert scene.standing.of(CLIENT.peer_id).penalty > 0
