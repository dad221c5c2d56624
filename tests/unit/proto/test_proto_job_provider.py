"""job/1 at the provider's end, against a client that is written out by hand: signs of life, taking an earning back, resting,
floods."""

from __future__ import annotations

import random

import pytest
from job_pair import ANSWER, CLIENT, MODEL, PAYLOAD, PROVIDER, UNIX_MS
from provider_scene import JOB_ID, NOW, Scene, terms_of

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.late_cancels import EndedJob
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_provider import ProviderSession
from cocoon_p2p.wire.job import (
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Output,
    Phase,
    Progress,
    Quote,
    Receipt,
    ReceiptAck,
    Refusal,
    decode_quote_body,
    quote_hash,
)

# --- PROGRESS -------------------------------------------------------------------------------------------------------


def progress_of(scene: Scene, after_s: float) -> list[tuple[Phase, int | None]]:
    scene.effects.clear()
    scene.now += after_s
    scene.take(scene.session.handle_timer(scene.now))
    return [(m.phase, m.left_ms) for m in scene.sent(Progress) if isinstance(m, Progress)]


def test_a_long_job_says_that_it_goes_on_until_its_output_begins() -> None:
    scene = Scene()
    scene.desk.item_s = {MODEL: 2.0}
    scene.submit()
    assert scene.session.next_deadline() == NOW + limits.PROGRESS_INTERVAL_S
    assert progress_of(scene, 1.9) == []
    assert progress_of(scene, 0.1) == [(Phase.QUEUED, None)], "its payment is being taken"
    scene.pay()
    assert progress_of(scene, 2) == [(Phase.QUEUED, None)], "its input is on its way"
    scene.give_input()
    assert progress_of(scene, 2) == [(Phase.RUNNING, 6000)]
    assert scene.session.next_deadline() == scene.now + limits.PROGRESS_INTERVAL_S
    assert progress_of(scene, 3) == [(Phase.RUNNING, 6000)]
    scene.execute()
    assert scene.session.next_deadline() == float("inf")
    assert progress_of(scene, 100) == []


def test_a_job_behind_another_is_queued() -> None:
    scene = Scene()
    scene.desk.item_s = {MODEL: 2.0}
    other = ProviderSession(scene.desk, PROVIDER.peer_id, entropy=random.Random(1).randbytes)
    scene.desk.work_begins(other.client, JOB_ID, MODEL, 5)
    scene.executing()
    assert progress_of(scene, 2) == [(Phase.QUEUED, 16_000)]
    scene.desk.work_ended(other.client, JOB_ID, MODEL)
    assert progress_of(scene, 2) == [(Phase.RUNNING, 6000)]
    scene.desk.item_s = {}
    assert progress_of(scene, 2) == [(Phase.RUNNING, None)]


def test_a_quote_says_nothing_and_a_deadline_is_kept() -> None:
    scene = Scene()
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert scene.session.next_deadline() == NOW + limits.QUOTE_LIFETIME_S
    assert progress_of(scene, 5) == []
    assert progress_of(scene, 5) == []
    assert scene.session.jobs() == {}
    scene.executing()
    assert progress_of(scene, 61) == []
    (failure,) = scene.sent(Failure)
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.DEADLINE


# --- nobody pays for an answer that he does not have ----------------------------------------------------------------


def test_a_cancellation_while_the_answer_is_on_its_way_costs_nothing() -> None:
    scene = Scene()
    scene.executing()
    scene.execute()
    scene.hear(Cancel(JOB_ID))
    (failure,) = scene.sent(Failure)
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.CANCELLED
    assert scene.of(fx.ReleasePayment)
    (closed,) = scene.of(fx.Closed)
    assert closed.wasted == 1030
    scene.return_output()
    assert not scene.of(fx.Earn), "the last piece came too late"
    assert not scene.sent(Receipt)


def test_a_cancellation_during_the_work_is_not_late() -> None:
    scene = Scene()
    scene.executing()
    scene.hear(Cancel(JOB_ID))
    (closed,) = scene.of(fx.Closed)
    assert not closed.wasted


def test_a_cancellation_after_the_receipt_takes_the_earning_back() -> None:
    scene = Scene()
    scene.done()
    scene.effects.clear()
    scene.hear(Cancel(JOB_ID))
    assert scene.effects == [fx.GiveBack(JOB_ID)]
    scene.take(scene.session.not_earned(JOB_ID))
    (failure,) = scene.sent(Failure)
    assert isinstance(failure, Failure)
    assert failure.code is FailureCode.CANCELLED
    with pytest.raises(RemoteProtocolError):
        scene.hear(ReceiptAck(JOB_ID, bytes(64)))


def test_a_receipt_of_an_earlier_stream_is_taken_back_just_the_same() -> None:
    """Whether there is one, and whether it is signed, the driver looks up."""
    scene = Scene()
    scene.done()
    (earned,) = scene.of(fx.Earn)
    later = Scene()
    later.take(later.session.resend_receipts([earned.receipt]))
    later.effects.clear()
    for job_id in (JOB_ID, JobId(b"never was there.")):
        later.hear(Cancel(job_id))
    assert later.effects == [fx.GiveBack(JOB_ID), fx.GiveBack(JobId(b"never was there."))]


# --- resting, and taking the machine back ---------------------------------------------------------------------------


def test_a_provider_that_rests_refuses_questions_and_acceptances() -> None:
    scene = Scene()
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    (quote,) = scene.sent(Quote)
    body = quote.body
    scene.desk.rests = Refused(RefusalReason.IDLE_POLICY, "somebody is at the keyboard", 5000)
    scene.effects.clear()
    scene.hear(Accept(JOB_ID, quote_hash(body), b"payment", *scene.sealed(decode_quote_body(body))))
    assert (scene.refusal().reason, scene.refusal().needed) == (RefusalReason.IDLE_POLICY, 5000)
    assert not scene.of(fx.TakePayment)
    assert scene.session.jobs() == {}
    scene.effects.clear()
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert scene.refusal().reason is RefusalReason.IDLE_POLICY
    scene.effects.clear()
    scene.hear(Ask(JOB_ID, ModelId("cd" * 32), Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert scene.refusal().reason is RefusalReason.NO_MODEL, "what waiting does not mend is said first"


def test_a_machine_that_is_taken_back_gives_up_what_it_works_on_and_not_what_it_returns() -> None:
    scene = Scene()
    scene.done()
    ids = [JobId(bytes([n]) * 16) for n in range(4)]
    for number, job_id in enumerate(ids):
        scene.submit(terms_of(job_id=job_id))
        if number >= 1:
            scene.pay(job_id)
        if number >= 2:
            scene.give_input(job_id)
        if number >= 3:
            scene.execute(job_id)
    scene.effects.clear()
    scene.take(scene.session.yield_jobs("somebody is at the keyboard"))
    failures = [m for m in scene.sent(Failure) if isinstance(m, Failure)]
    assert [failure.job_id for failure in failures] == ids[:3]
    assert {failure.code for failure in failures} == {FailureCode.IDLE_POLICY}
    assert scene.of(fx.ReleasePayment) == [fx.ReleasePayment(job_id) for job_id in ids[:3]]
    assert list(scene.session.jobs()) == ids[3:]
    assert scene.desk.running == 1
    scene.return_output(ids[3])
    assert len(scene.sent(Receipt)) == 1


# --- standing -------------------------------------------------------------------------------------------------------


def test_a_client_that_throws_more_work_away_than_it_pays_for_is_refused_for_a_while() -> None:
    scene = Scene()
    for number in range(16):
        job = EndedJob(JobId(bytes([number]) * 16), UNIX_MS, paid=1000 * (number < 4), wasted=300 * (number >= 4))
        scene.desk.late_cancels.note(CLIENT.peer_id, job)
    scene.submit()
    assert not scene.sent(Refusal), "it pays as much as it throws away"
    for number in range(16, 20):
        scene.desk.late_cancels.note(CLIENT.peer_id, EndedJob(JobId(bytes([number]) * 16), UNIX_MS, wasted=101))
    scene.take(scene.session.lost("before any work was done"))
    scene = Scene(scene.desk)
    scene.submit()
    refusal = scene.refusal()
    assert (refusal.reason, refusal.needed) == (RefusalReason.STANDING, int(limits.LATE_CANCELS_HALF_LIFE_S * 1000))
    assert "16 were left lately after work worth 4,004 nanogram" in refusal.detail
    scene.effects.clear()
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert scene.refusal().reason is RefusalReason.STANDING
    assert not scene.of(fx.Penalise)
    scene.effects.clear()
    scene.unix_ms += int(limits.LATE_CANCELS_HALF_LIFE_S * 1000)
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert scene.sent(Quote)


def test_a_flood_of_questions_ends_the_stream_before_it_costs_much() -> None:
    scene = Scene()
    scene.desk.models = {}
    ask = Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0)
    for _ in range(int(limits.ANSWERS_UNPAID_BURST)):
        scene.hear(ask)
    with pytest.raises(RemoteProtocolError) as caught:
        scene.hear(ask)
    assert caught.value.code == "FLOOD"
    assert len(scene.sent(Refusal)) == limits.ANSWERS_UNPAID_BURST


def test_who_asks_at_a_pace_that_can_be_kept_is_no_flood() -> None:
    scene = Scene()
    scene.desk.models = {}
    for _ in range(3 * int(limits.ANSWERS_UNPAID_BURST)):
        scene.now += 1 / limits.ANSWERS_UNPAID_PER_S
        scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 0, 1000, 0))
    assert len(scene.sent(Refusal)) == 3 * limits.ANSWERS_UNPAID_BURST


@pytest.mark.parametrize("paid", [True, False])
def test_jobs_that_are_given_are_no_flood(paid: bool) -> None:
    scene = Scene()
    jobs = 2 * int(limits.ANSWERS_UNPAID_BURST)
    for number in range(jobs):
        job_id = JobId(number.to_bytes(16))
        try:
            scene.submit(terms_of(Tier.OPEN, job_id=job_id))
        except RemoteProtocolError as error:
            assert error.code == "FLOOD"
            break
        if paid:
            scene.pay(job_id)
            scene.give_input(job_id)
            scene.hear(Cancel(job_id))
        else:
            scene.take(scene.session.payment_refused(job_id, "no credit", 1030, unix_ms=UNIX_MS))
    assert len(scene.of(fx.TakePayment)) == (jobs if paid else limits.ANSWERS_UNPAID_BURST)


def test_an_output_is_sent_as_it_was_hashed() -> None:
    """The hash of the receipt begins with the response header: what the driver is given to hash is what it sends."""
    scene = Scene()
    scene.executing()
    scene.execute()
    (effect,) = scene.of(fx.SendOutput)
    sealed = bytes(effect.sealer.seal(ANSWER, True))
    assert Output(JOB_ID, sealed, True).encode()
    assert effect.header
