"""An answer in frames on both ends: the good path, its ends, and what it earns in each case."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Callable

import pytest
from job_pair import JOB_ID, MODEL, UNIX_MS
from provider_scene import Scene, announce, terms_of
from stream_pair import BASE, WHOLE, StreamPair, make_stream_desk, make_stream_terms, price, sent, streaming

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, SettlementError
from cocoon_p2p.generation import Piece, Token
from cocoon_p2p.ids import Tier
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_states import ProviderState
from cocoon_p2p.proto.stream_provider import half_of
from cocoon_p2p.wire.capacity import Unit
from cocoon_p2p.wire.job import (
    Cancel,
    Failure,
    FailureCode,
    Frame,
    Pay,
    Progress,
    Receipt,
    Stop,
    StreamHead,
)

# --- the good path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [Tier.OPEN, Tier.SEALED])
def test_an_answer_passes_from_end_to_end(tier: Tier) -> None:
    pair = StreamPair(make_stream_terms(tier=tier), answer=300)
    pair.whole()
    assert pair.error is None
    assert pair.tokens == list(range(40, 340))
    (paid,) = pair.of(fx.MarkPaid)
    body = paid.body  # type: ignore[union-attr]
    assert (body.items, body.price, body.queue_us, body.execute_us) == (340, price(340), 3, 340 * 7)
    assert body.frames == len(sent(pair, Frame)) == 60
    assert pair.paying.price == pair.earning.price == price(340)
    assert pair.signed
    assert (pair.desk.running, pair.desk.queued_items.get(MODEL, 0)) == (0, 0)
    assert pair.session.jobs() == {}
    assert [type(each) for each in pair.of(fx.Closed)] == [fx.Closed]
    assert len(sent(pair, Pay)) <= 2 * 300 // 64 + 3


def test_the_hash_is_of_the_header_and_all_frames() -> None:
    pair = StreamPair(answer=12)
    pair.whole()
    (head,), frames = sent(pair, StreamHead), sent(pair, Frame)
    hashed = hashlib.sha256(head.response_header + b"".join(frame.ciphertext for frame in frames)).digest()
    (paid,) = pair.of(fx.MarkPaid)
    assert paid.body.output_hash == hashed  # type: ignore[union-attr]


def test_what_is_owed_is_on_disk_before_it_is_said() -> None:
    pair = StreamPair(answer=100)
    pair.whole()
    client = [type(e.message) if isinstance(e, fx.Send) else type(e) for e in pair.client_log]
    for place, kind in enumerate(client):
        if kind is Pay:
            assert client[place - 1] is fx.KeepMarks
    provider = [type(e.message) if isinstance(e, fx.Send) else type(e) for e in pair.provider_log]
    assert provider.index(fx.Earn) < provider.index(Receipt)
    for place, kind in enumerate(provider):
        if kind is fx.TakeMore:
            assert provider[place - 1] is fx.KeepReceipt


def test_it_acknowledges_each_half_of_an_instalment() -> None:
    pair = StreamPair(answer=300, at_a_time=1)
    pair.whole()
    acknowledged = [pay.items for pay in sent(pair, Pay)]
    assert acknowledged[:-1] == list(range(41, 340, 32))
    assert acknowledged[-1] == 340


class SlowDisk(StreamPair):
    """Of the client: its payments wait in `waiting`."""

    waiting: list[fx.ReserveMore]

    def begin(self) -> None:
        self.waiting = []
        super().begin()

    def run_client(self, effects: list[fx.ClientEffect]) -> None:
        self.waiting += [each for each in effects if isinstance(each, fx.ReserveMore)]
        super().run_client([each for each in effects if not isinstance(each, fx.ReserveMore)])

    def disk_is_done(self) -> None:
        (payment,) = self.waiting
        self.waiting.clear()
        self.run_client(self.client.more_reserved(self._pay(payment.total)))


def test_half_of_an_odd_instalment_is_rounded_up() -> None:
    assert [half_of(each) for each in (16, 17, 64, 1023, 1024)] == [8, 9, 32, 512, 512]


@pytest.mark.parametrize("instalment", [16, 17, 64])
@pytest.mark.parametrize("prepaid", [0, 100, 170])
@pytest.mark.parametrize("at_a_time", [1, 7, 64])
def test_one_payment_at_a_time_is_made(instalment: int, prepaid: int, at_a_time: int) -> None:
    """The disk may be slow; frames come meanwhile, as far as they are paid. Neither side ever waits for the other for ever."""
    terms = make_stream_terms(instalment=instalment, prepaid=prepaid)
    pair = SlowDisk(terms, answer=300, at_a_time=at_a_time)
    pair.begin()
    while not pair.finished:
        while pair.step():
            assert len(pair.waiting) <= 1
        if pair.finished:
            break
        pair.disk_is_done()
    assert pair.tokens == list(range(40, 340))
    assert pair.paying.price == pair.earning.price == price(340)
    for before, pay in itertools.pairwise(sent(pair, Pay)):
        assert pay.paid == before.paid or pay.payment, "what it says is paid is paid"


def test_a_provider_that_waited_for_our_disk_is_not_given_up_at_once() -> None:
    pair = SlowDisk(answer=300)
    pair.begin()
    while pair.step():
        pass
    assert pair.waiting
    for _ in range(math.ceil(limits.STREAM_STALL_S / limits.PROGRESS_INTERVAL_S)):
        pair.now += limits.PROGRESS_INTERVAL_S
        pair.client.heard(pair.now)
    pair.disk_is_done()
    pair.tick()
    assert not pair.finished


def test_an_end_without_a_token_is_acknowledged_too() -> None:
    """All tokens were acknowledged before: the receipt is about one frame more."""
    pair = streaming(1)
    stream = pair.client.stream
    assert stream is not None
    assert pair.model is not None
    assert stream.acked == stream.items == 45
    pair.model.stopped = True
    pair.step()
    assert (pair.finished, pair.error) == (True, None)
    assert sent(pair, Receipt)
    assert pair.paying.price == pair.earning.price == price(45)
    assert pair.signed


def test_a_first_payment_that_was_too_small_costs_one_pay_before_the_first_frame() -> None:
    pair = StreamPair(make_stream_terms(prepaid=0), prompt=200, answer=10)
    pair.whole()
    first = sent(pair, Pay)[0]
    assert (first.frames, first.items, first.paid) == (0, 0, 264)
    assert pair.error is None
    assert pair.paying.price == price(210)
    enough = StreamPair(make_stream_terms(prepaid=264), prompt=200, answer=10)
    enough.whole()
    assert sent(enough, Pay)[0].frames == 1


def test_an_answer_that_costs_nothing() -> None:
    pair = StreamPair(desk=make_stream_desk(base=0, per_token=0))
    pair.whole()
    assert pair.error is None
    assert all(pay.payment == b"" for pay in sent(pair, Pay))
    assert not pair.of(fx.ReserveMore)
    assert pair.earning.price == pair.paying.price == 0
    assert pair.signed


def test_the_terms_bound_the_answer() -> None:
    pair = StreamPair(make_stream_terms(items=60), prompt=40, answer=20)
    pair.whole()
    assert pair.paying.reserved == price(60)
    assert pair.error is None


def test_an_announced_price_of_a_token_is_firm() -> None:
    terms = terms_of(Tier.SEALED, base=500, per_item=5, items=100, instalment=64, max_total=1000)
    for unit, taken in ((Unit.TOKEN, True), (Unit.ITEM, False)):
        scene = Scene(make_stream_desk())
        announce(scene.desk, 500, 5, expires_at_ms=UNIX_MS + 60_000, unit=unit)
        scene.hear(dataclasses.replace(scene.submission(terms), paid=64))
        assert bool(scene.of(fx.TakePayment)) is taken
        if taken:
            assert scene.of(fx.TakePayment)[0].max_total == 500 + 5 * 64


# --- the ends -------------------------------------------------------------------------------------------------------


def test_stop_ends_it_in_order() -> None:
    pair = streaming()
    pair.run_client(pair.client.stop())
    assert pair.client.stop() == [], "once"
    while pair.step():
        pass
    assert pair.error is None
    assert pair.client.stream is not None
    assert pair.client.stream.finished
    assert pair.paying.price == pair.earning.price == price(40 + len(pair.tokens))
    assert pair.of(fx.Received)[-1].piece.finish == "caller"  # type: ignore[union-attr]


def test_stop_before_anything_is_worked_on_costs_nothing() -> None:
    waiting = StreamPair()
    waiting.run_client(waiting.client.start(waiting.now))
    waiting.pump()
    waiting.run_client(waiting.client.stop())
    assert sent(waiting, Cancel)
    assert not sent(waiting, Stop)

    short = StreamPair(make_stream_terms(prepaid=0), prompt=200, wallet=price(100))
    short.begin()
    short.pump()
    assert isinstance(short.error, ExecutionError)
    assert short.error.code == "CANCELLED"
    assert short.client.stream is not None
    assert isinstance(short.client.stream.payment_error, SettlementError)
    assert (short.paying.state, short.earning.state) == ("released", "released")


def test_a_wallet_that_runs_dry_ends_it_in_order() -> None:
    pair = StreamPair(prompt=40, wallet=price(140))
    pair.begin()
    while pair.step():
        pass
    assert pair.error is None
    assert pair.of(fx.Received)[-1].piece.finish == "caller"  # type: ignore[union-attr]
    assert pair.paying.price == pair.earning.price == price(40 + len(pair.tokens)) <= price(140)


@pytest.mark.parametrize(
    ("fails", "code"),
    [
        (lambda p: p.session.execution_failed(JOB_ID, ExecutionError("died", code="WORKER")), FailureCode.WORKER),
        (lambda p: p.session.yield_jobs("mine now"), FailureCode.IDLE_POLICY),
        (lambda p: p.session.shut_down(), FailureCode.SHUTTING_DOWN),
        (lambda p: p.session.handle_timer(p.now + 3600), FailureCode.DEADLINE),
        (lambda p: p.session.more_refused(JOB_ID, "no credit"), FailureCode.PAYMENT),
    ],
)
def test_a_failure_in_the_middle_leaves_owed_what_was_acknowledged(
    fails: Callable[[StreamPair], list[fx.ProviderEffect]], code: FailureCode
) -> None:
    pair = streaming()
    assert pair.client.stream is not None
    acked = pair.client.stream.acked
    pair.run_provider(fails(pair))
    pair.pump()
    assert isinstance(pair.error, ExecutionError)
    assert pair.error.code == code.name
    assert pair.earning.price == pair.paying.price == price(acked)
    assert pair.signed
    (closed,) = pair.of(fx.Closed)
    # what was sent and not acknowledged counts where the client gave the time, or did not pay
    unpaid = price(pair.items_sent) - price(acked) if code in (FailureCode.DEADLINE, FailureCode.PAYMENT) else 0
    assert (closed.earned, closed.wasted) == (True, unpaid)  # type: ignore[union-attr]
    assert pair.client.stream.at_risk == price(acked)


def test_a_failure_before_anything_was_acknowledged_costs_nothing() -> None:
    pair = streaming(0)
    pair.run_provider(pair.session.execution_failed(JOB_ID, ExecutionError("died", code="WORKER")))
    pair.pump()
    assert (pair.paying.state, pair.earning.state) == ("released", "released")
    assert not sent(pair, Receipt)


def test_cancel_takes_nothing_back_that_was_acknowledged() -> None:
    pair = streaming()
    pair.run_client(pair.client.cancel())
    pair.pump()
    assert pair.paying.price == pair.earning.price > BASE
    assert not [each for each in sent(pair, Failure) if each.code is FailureCode.CANCELLED]
    pair.hear_at_provider(Cancel(JOB_ID))
    (signed,) = sent(pair, Receipt)
    assert pair.signed
    assert signed.job_id == JOB_ID


def test_progress_while_it_streams_and_none_after_the_end() -> None:
    pair = streaming(1)
    pair.now += limits.PROGRESS_INTERVAL_S
    pair.tick()
    (progress,) = sent(pair, Progress)
    assert progress.phase == 2
    pair.pump()
    assert pair.streaming
    pair.answer = 0
    pair.run_client(pair.client.stop())
    pair.pump()
    pair.work()
    assert pair.session.jobs() == {JOB_ID: ProviderState.ENDING}
    pair.now += limits.PROGRESS_INTERVAL_S
    pair.tick()
    assert len(sent(pair, Progress)) == 1


def test_payments_may_come_to_the_disk_in_another_order() -> None:
    class SlowDisk(StreamPair):
        def run_provider(self, effects: list[fx.ProviderEffect]) -> None:
            super().run_provider([each for each in effects if not isinstance(each, fx.TakeMore)])
            taken.extend(each for each in effects if isinstance(each, fx.TakeMore))

    taken: list[fx.TakeMore] = []
    pair = SlowDisk(make_stream_terms(prepaid=150), answer=300, at_a_time=64)
    pair.begin()
    assert pair.model is not None
    while len(taken) < 2:
        assert pair.step()
    first, second = taken
    for payment in (second, first):
        pair.run_provider(pair.session.more_taken(JOB_ID, payment.paid, now=pair.now))
    before = pair.model.allowed
    while pair.step():
        pass
    assert pair.model is None or pair.model.allowed >= before
    assert pair.tokens[-1] + 1 == second.paid


def test_an_engine_that_works_further_than_is_paid_is_not_passed_on() -> None:
    pair = streaming()
    assert pair.model is not None
    items = pair.model.allowed + 1
    data = Piece(tuple(Token(each) for each in range(items - pair.model.items)), "x").encode()
    pair.run_provider(pair.session.produced(JOB_ID, data=data, items=items, final=False, execute_us=1, now=pair.now))
    (failure,) = sent(pair, Failure)
    assert failure.code is FailureCode.WORKER
    assert pair.earning.state == "settled"
    assert pair.earning.price < price(items)


def test_a_further_payment_that_is_refused_behind_the_last_frame_changes_nothing() -> None:
    """All that was worked on was paid for before, and the last PAY is on its way."""
    pair = streaming()
    assert pair.model is not None
    pair.model.stopped = True
    pair.work()
    assert pair.session.jobs() == {JOB_ID: ProviderState.ENDING}
    pair.run_provider(pair.session.more_refused(JOB_ID, "no credit"))
    pair.pump()
    assert (pair.finished, pair.error, pair.signed) == (True, None, True)
    assert pair.paying.price == pair.earning.price == price(60)


def test_an_answer_that_was_at_its_end_before_it_began_costs_its_prompt() -> None:
    """It goes on behind tokens that end it: no model was run."""
    pair = streaming(0)
    pair.model = None
    pair.run_provider(
        pair.session.produced(JOB_ID, data=WHOLE.encode(), items=0, final=True, execute_us=0, now=pair.now)
    )
    pair.pump()
    assert (pair.finished, pair.error, pair.signed) == (True, None, True)
    assert pair.paying.price == pair.earning.price == price(40)
