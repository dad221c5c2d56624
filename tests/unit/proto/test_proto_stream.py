"""An answer in frames on both ends: the good path, its ends, and what it earns in each case."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest
from job_pair import JOB_ID, MODEL, UNIX_MS
from provider_scene import Scene, announce, terms_of
from stream_pair import BASE, StreamPair, make_stream_desk, make_stream_terms, price, sent, streaming

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, SettlementError
from cocoon_p2p.ids import Tier
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_states import ProviderState
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
    assert (closed.earned, closed.late) == (True, False)  # type: ignore[union-attr]
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
