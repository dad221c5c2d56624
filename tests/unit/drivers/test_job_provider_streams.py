"""job/1 as a provider on a stream whose other end the test plays: firm offers, signs of life, what is taken back and what it
leaves on the disk, and the operator who wants his machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from far_client import CLIENT, JOB, OTHER, PRICE, Scene, open_scene
from trio.testing import MockClock, wait_all_tasks_blocked

from cocoon_p2p import limits
from cocoon_p2p.drivers.provider_books import ProviderBooks
from cocoon_p2p.drivers.recovery import recover
from cocoon_p2p.errors import RefusalReason, TransportError
from cocoon_p2p.ids import JobId
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.late_cancels import CANCELLED_LATE
from cocoon_p2p.testing.simulation import VirtualClock
from cocoon_p2p.wire.job import (
    Cancel,
    FailureCode,
    OutputHead,
    Phase,
    Progress,
    Receipt,
    Refusal,
    decode_message,
    decode_refusal_body,
)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
async def scene(tmp_path: Path, autojump_clock: MockClock) -> AsyncIterator[Scene]:
    async with open_scene(tmp_path) as opened:
        yield opened


async def test_a_submission_is_done_and_signed(autojump_clock: MockClock, scene: Scene) -> None:
    scene.engine.proceed.set()
    far = await scene.stream()
    receipt = await far.done()
    assert await scene.earned() == PRICE
    assert scene.state() == ("done", PRICE, "")
    await far.sign(receipt)
    await far.send(Cancel(JOB))  # comes too late, and is not answered
    await far.cancelled(OTHER)
    assert await scene.earned() == PRICE
    assert scene.store.receipts.unacknowledged(CLIENT.peer_id, 9) == ()


async def test_a_job_that_takes_long_says_that_it_goes_on(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.stream()
    began = trio.current_time()
    await far.submit()
    for number in (1, 2, 3):
        (progress,) = await far.take(Progress)
        assert progress.phase is Phase.RUNNING
        assert trio.current_time() - began == pytest.approx(number * limits.PROGRESS_INTERVAL_S)
    scene.engine.proceed.set()
    await far.answered()


# --- nobody pays for an answer that he does not have ----------------------------------------------------------------


async def test_what_is_cancelled_after_the_receipt_is_taken_back(autojump_clock: MockClock, scene: Scene) -> None:
    scene.engine.proceed.set()
    far = await scene.stream()
    await far.done()
    await far.cancelled()
    assert (await scene.earned(), await scene.reserved()) == (0, 0)
    assert not scene.receipt_kept()
    assert scene.state() == ("failed", 0, CANCELLED_LATE)
    await far.cancelled()
    assert await scene.earned() == 0
    receipt = await far.done(OTHER)
    await far.sign(receipt)
    await far.cancelled(JobId(b"n" * 16))
    assert await scene.earned() == PRICE, "the credit served the next job"


async def test_what_was_cancelled_is_not_sent_again_on_a_later_stream(autojump_clock: MockClock, scene: Scene) -> None:
    scene.engine.proceed.set()
    far = await scene.stream()
    await far.done()
    await far.done(OTHER)
    await far.stream.reset()
    later = await scene.stream()
    for job_id in (JOB, OTHER):
        (again,) = await later.take(Receipt)
        assert again.job_id == job_id
    await later.cancelled()
    await later.stream.reset()
    last = await scene.stream()
    (again,) = await last.take(Receipt)
    assert again.job_id == OTHER
    assert await scene.earned() == PRICE


async def test_a_restart_changes_nothing(autojump_clock: MockClock, tmp_path: Path) -> None:
    async with open_scene(tmp_path) as scene:
        scene.engine.proceed.set()
        await (await scene.stream()).done()
    async with open_scene(tmp_path) as scene:
        assert await scene.earned() == PRICE
        far = await scene.stream()
        await far.take(Receipt)
        await far.cancelled()
        assert await scene.earned() == 0
        assert scene.state() == ("failed", 0, CANCELLED_LATE)
    async with open_scene(tmp_path) as scene:
        far = await scene.stream()
        await far.cancelled()  # the first word on this stream: no receipt came before


async def test_an_answer_on_its_way_is_stopped(autojump_clock: MockClock, scene: Scene) -> None:
    """A client that does not read, and then cancels: what still waits here is not sent."""
    scene.engine.answer = b"a" * (64 << 20)
    scene.engine.proceed.set()
    far = await scene.stream()
    await far.submit()
    await wait_all_tasks_blocked()
    await far.send(Cancel(JOB))
    await wait_all_tasks_blocked()
    assert scene.state() == ("failed", 0, CANCELLED_LATE)
    assert (await scene.earned(), await scene.reserved()) == (0, 0)
    frames, failures = 0, 0
    with trio.move_on_after(10):
        while True:
            message = decode_message(await far.stream.receive())
            failures += not isinstance(message, OutputHead) and type(message).__name__ == "Failure"
            frames += type(message).__name__ == "Output"
    assert failures == 1
    assert frames <= 16, "of 64 that the whole answer has"


async def test_a_cancellation_on_another_stream_ends_what_is_being_returned(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.engine.answer = b"a" * (64 << 20)
    scene.engine.proceed.set()
    stuck = await scene.stream()
    await stuck.submit()
    await wait_all_tasks_blocked()
    far = await scene.stream()
    await far.cancelled()
    assert (await scene.earned(), await scene.reserved()) == (0, 0)
    assert scene.state() == ("failed", 0, CANCELLED_LATE)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["refund", "finish"])
async def test_an_end_in_the_middle_of_taking_back_is_finished_at_the_next_start(
    autojump_clock: MockClock, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt goes first, so that it is never sent again for what was given back; the ledger follows."""
    async with open_scene(tmp_path) as scene:
        scene.engine.proceed.set()
        await (await scene.stream()).done()
        books = ProviderBooks(scene.store, scene.money, scene.desk, VirtualClock())

        def killed(*_: object, **__: object) -> None:
            raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            if step == "refund":
                patch.setattr(scene.money._payee, "refund", killed)
            else:
                finish = scene.store.jobs.finish

                def second(*args: object, **kwargs: object) -> bool:
                    return killed() if kwargs["finished_at_ms"] else finish(*args, **kwargs)  # type: ignore[arg-type,return-value,func-returns-value]

                patch.setattr(scene.store.jobs, "finish", second)
            await books.give_back(CLIENT.peer_id, JOB)
        assert not scene.receipt_kept()
        assert await scene.earned() == (PRICE if step == "refund" else 0)
    async with open_scene(tmp_path) as scene:
        assert await recover(scene.store, scene.money, VirtualClock()) == 1
        assert (await scene.earned(), await scene.reserved()) == (0, 0)
        assert scene.state() == ("failed", 0, CANCELLED_LATE)
        assert await recover(scene.store, scene.money, VirtualClock()) == 0
        far = await scene.stream()
        await far.cancelled()


async def test_what_is_thrown_away_again_and_again_costs_the_client_its_standing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    async with open_scene(tmp_path) as scene:
        scene.engine.proceed.set()
        far = await scene.stream()
        for number in range(limits.LATE_JOBS_FREE + 1):
            job_id = JobId(bytes([number]) * 16)
            await far.done(job_id)
            await far.cancelled(job_id)
    async with open_scene(tmp_path) as scene:
        far = await scene.stream()
        await far.submit()
        (refusal,) = await far.take(Refusal)
        body = decode_refusal_body(refusal.body)
        assert body.reason is RefusalReason.STANDING
        assert "9 were left lately after work worth" in body.detail
        await trio.sleep(limits.LATE_CANCELS_HALF_LIFE_S)
        scene.engine.proceed.set()
        await far.done(OTHER)


# --- the operator takes the machine back ----------------------------------------------------------------------------


async def test_the_work_ends_when_the_machine_is_taken_back(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.stream()
    await far.submit()
    await wait_all_tasks_blocked()
    assert scene.engine.begun == 1
    scene.desk.rests = Refused(RefusalReason.IDLE_POLICY, "mine now", 5000)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(scene.jobs.settled)
        await wait_all_tasks_blocked()
        await scene.jobs.yield_jobs("mine now")
        with trio.fail_after(5):
            await far.nothing_earned(code=FailureCode.IDLE_POLICY)
    await wait_all_tasks_blocked()
    assert scene.engine.cancelled == 1
    assert scene.desk.running == 0
    assert await scene.reserved() == 0
    assert scene.state() == ("failed", 0, "mine now")
    await far.submit(OTHER)
    (refusal,) = await far.take(Refusal)
    body = decode_refusal_body(refusal.body)
    assert (body.reason, body.needed) == (RefusalReason.IDLE_POLICY, 5000)


async def test_a_job_that_failed_before_its_input_came_may_come_again(autojump_clock: MockClock, scene: Scene) -> None:
    far = await scene.stream()
    await far.submit()
    await wait_all_tasks_blocked()
    scene.desk._done.clear()  # as if the last piece of its input had not come
    await scene.jobs.yield_jobs("mine now")
    await far.nothing_earned(code=FailureCode.IDLE_POLICY)
    await scene.client_money.end_reservation(JOB, "released")
    scene.engine.proceed.set()
    await far.done()
    assert scene.state() == ("done", PRICE, "")
    assert await scene.earned() == PRICE


async def test_a_flood_of_questions_costs_the_client_its_stream_and_standing(
    autojump_clock: MockClock, scene: Scene
) -> None:
    scene.desk.rests = Refused(RefusalReason.IDLE_POLICY, "mine now")
    far = await scene.stream()
    refused = 0
    with pytest.raises(TransportError):
        for _ in range(2 * int(limits.ANSWERS_UNPAID_BURST)):
            await far.submit()
            await far.take(Refusal)
            refused += 1
    assert refused == limits.ANSWERS_UNPAID_BURST
    assert scene.standing.of(CLIENT.peer_id).penalty > 0
