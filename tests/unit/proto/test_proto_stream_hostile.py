"""What peers must not do with an answer in frames, and what comes of it, on either end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import pytest
from job_pair import JOB_ID, PAYLOAD, UNIX_MS
from provider_scene import Scene, terms_of
from stream_pair import BASE, PER_TOKEN, StreamPair, make_stream_desk, make_stream_terms, price, sent, streaming

from cocoon_p2p import limits
from cocoon_p2p.errors import PeerRefused, RefusalReason, RemoteProtocolError
from cocoon_p2p.policy.late_cancels import CANCELLED_LATE, LEFT_LATE, UNPAID_LATE
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_answers import StreamMark, check_receipt
from cocoon_p2p.proto.job_states import ClientState, ProviderState
from cocoon_p2p.sealing.frames import FrameSealer
from cocoon_p2p.wire.job import (
    Cancel,
    Failure,
    FailureCode,
    Frame,
    OutputHead,
    Pay,
    Phase,
    Progress,
    ReceiptAck,
    Stop,
    StreamHead,
    decode_receipt_body,
)

# --- hostile clients ------------------------------------------------------------------------------------------------


def held(pair: StreamPair) -> tuple[int, int, int]:
    """Of the last PAY: frames, items, paid."""
    last = sent(pair, Pay)[-1]
    return last.frames, last.items, last.paid


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda f, i, p: (f, i, p), "FLOOD"),  # the same again
        (lambda f, i, p: (f, i, p + 1), "FLOOD"),  # pays by the token
        (lambda f, i, p: (0, 0, p), "RECEIPT"),  # backwards
        (lambda f, i, p: (f, i, p - 1), "RECEIPT"),  # pays back
        (lambda f, i, p: (f + 50, i + 250, p), "RECEIPT"),  # what was not sent
        (lambda f, i, p: (f + 1, i + 1, p), "RECEIPT"),  # a count that no frame has
        (lambda f, i, p: (f + 1, i + 5, p), "FLOOD"),  # in smaller steps than half an instalment
        (lambda f, i, p: (f, i, 1001), "RECEIPT"),  # beyond the terms
    ],
)
def test_acknowledgements_that_are_wrong(change: Callable[[int, int, int], tuple[int, int, int]], code: str) -> None:
    pair = streaming(3)
    assert pair.streaming
    before = pair.kept_receipt
    message = Pay(JOB_ID, b"", *change(*held(pair)))
    if code == "FLOOD":
        with pytest.raises(RemoteProtocolError) as caught:
            pair.hear_at_provider(message)
        assert caught.value.code == code
        return
    pair.hear_at_provider(message)
    assert [each.fault.value for each in pair.of(fx.Penalise)] == ["bad receipt"]  # type: ignore[union-attr]
    assert sent(pair, Failure)[-1].code is FailureCode.PAYMENT
    assert pair.kept_receipt is before
    assert pair.earning.state == "settled", "what was acknowledged before stays owed"


def test_a_payment_that_is_none_ends_it() -> None:
    pair = streaming(1)
    session = pair.session
    pair.run_provider(session.more_bad(JOB_ID, RemoteProtocolError("forged", code="VOUCHER_SIGNATURE")))
    assert pair.of(fx.Penalise)
    assert sent(pair, Failure)[-1].code is FailureCode.PAYMENT
    assert pair.session.jobs() == {}


def test_a_second_stop_and_words_out_of_turn() -> None:
    pair = streaming(1)
    pair.hear_at_provider(Stop(JOB_ID))
    with pytest.raises(RemoteProtocolError) as caught:
        pair.hear_at_provider(Stop(JOB_ID))
    assert caught.value.code == "FLOOD"
    for early in (Stop(JOB_ID), Pay(JOB_ID, b"", 0, 0, 64)):
        scene = Scene()
        scene.executing()
        with pytest.raises(RemoteProtocolError) as caught:
            scene.hear(early)
        assert caught.value.code == "UNEXPECTED"
        late = Scene()
        late.hear(early)
        assert late.effects == [], "a job that is over: it may have been under way"


def silent_client(steps: int = 1) -> StreamPair:
    """It reads, and says nothing after the first PAY."""
    pair = streaming(steps)
    while pair.work():
        pass
    return pair


def test_a_client_that_pays_no_more_is_waited_for_a_while_and_counts_as_late() -> None:
    pair = silent_client()
    pair.now += limits.STREAM_UNPAID_S - 0.1
    pair.run_provider(pair.session.handle_timer(pair.now))
    assert pair.session.jobs() == {JOB_ID: ProviderState.STREAMING}
    pair.now = pair.session.next_deadline() or 0
    pair.run_provider(pair.session.handle_timer(pair.now))
    pair.now += 0.2
    pair.run_provider(pair.session.handle_timer(pair.now))
    (closed,) = pair.of(fx.Closed)
    assert closed == dataclasses.replace(closed, error=UNPAID_LATE, wasted=64 * PER_TOKEN, earned=True)  # type: ignore[type-var]
    assert sent(pair, Failure)[-1].code is FailureCode.PAYMENT
    assert pair.earning.state == "settled"


def test_no_payment_is_waited_for_after_stop() -> None:
    """The last words of a model may take long; a PAY may have been under way."""
    pair = silent_client()
    pair.hear_at_provider(Stop(JOB_ID))
    assert pair.model is not None
    pair.hear_at_provider(Pay(JOB_ID, b"", 13, 105, pair.model.items))
    for _ in range(20):
        pair.now += 2
        pair.run_provider(pair.session.handle_timer(pair.now))
    assert pair.session.jobs() == {JOB_ID: ProviderState.STREAMING}


@pytest.mark.parametrize("cancels", [True, False])
def test_a_client_that_leaves_with_most_of_an_instalment_counts_as_late(cancels: bool) -> None:
    pair = silent_client()
    if cancels:
        pair.hear_at_provider(Cancel(JOB_ID))
    else:
        pair.run_provider(pair.session.lost("gone"))
    (closed,) = pair.of(fx.Closed)
    error = CANCELLED_LATE if cancels else LEFT_LATE
    assert (closed.wasted, closed.error) == (64 * PER_TOKEN, error)  # type: ignore[union-attr]


def test_a_client_that_takes_a_short_answer_and_leaves_counts_as_late() -> None:
    """Less than half an instalment, and all that there is."""
    pair = StreamPair(prompt=5, answer=4)
    pair.begin()
    pair.work()
    assert pair.desk is not None
    pair.run_provider(pair.session.lost("gone"))
    (closed,) = pair.of(fx.Closed)
    assert (closed.wasted, closed.error, closed.earned) == (price(9), LEFT_LATE, False)  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["cancels", "leaves", "pays badly"])
def test_a_client_that_leaves_while_its_prompt_is_worked_on_counts_with_the_prompt(how: str) -> None:
    pair = streaming(0)
    if how == "cancels":
        pair.hear_at_provider(Cancel(JOB_ID))
    elif how == "leaves":
        pair.run_provider(pair.session.lost("gone"))
    else:
        pair.run_provider(pair.session.more_refused(JOB_ID, "no credit"))
    (closed,) = pair.of(fx.Closed)
    assert (closed.wasted, closed.earned) == (price(40), False)  # type: ignore[union-attr]
    assert pair.earning.state == "released"


def test_a_client_that_leaves_before_anything_was_worked_on_does_not() -> None:
    scene = Scene()
    scene.executing()
    scene.take(scene.session.lost("gone"))  # its input is here
    (closed,) = scene.of(fx.Closed)
    assert closed.wasted == 0
    pair = StreamPair(make_stream_terms(prepaid=64), prompt=200)
    pair.begin_unpaid()
    assert sent(pair, StreamHead)  # its prompt is counted, and not paid for
    pair.run_provider(pair.session.lost("gone"))
    (closed,) = pair.of(fx.Closed)
    assert closed.wasted == 0  # type: ignore[union-attr]


def test_the_time_that_a_client_gives_counts_once_something_was_sent() -> None:
    """Before, nobody knows whose fault it is that it took so long; after, the client had it."""
    for steps, wasted in ((0, 0), (1, price(64))):
        pair = StreamPair(make_stream_terms(items=64), prompt=40)
        pair.begin()
        for _ in range(100 * steps):
            pair.work()
        pair.now += 601
        pair.run_provider(pair.session.handle_timer(pair.now))
        (closed,) = pair.of(fx.Closed)
        assert closed.wasted == wasted  # type: ignore[union-attr]


def test_a_first_payment_must_reach_one_instalment_and_an_ordinary_job_has_none() -> None:
    for paid, instalment, right in ((64, 64, True), (100, 64, True), (63, 64, False), (101, 64, False), (0, 64, False)):
        scene = Scene(make_stream_desk())
        terms = terms_of(base=BASE, per_item=PER_TOKEN, items=100, instalment=instalment, max_total=price(100))
        scene.hear(dataclasses.replace(scene.submission(terms), paid=paid))
        assert bool(scene.of(fx.TakePayment)) is right, paid
        assert bool(scene.of(fx.Penalise)) is not right
    scene = Scene()
    scene.hear(dataclasses.replace(scene.submission(terms_of()), paid=3))
    assert scene.of(fx.Penalise)


def test_a_model_is_asked_for_as_it_answers() -> None:
    for desk, terms, needed in (
        (make_stream_desk(), make_stream_terms(instalment=0), 16),
        (make_stream_desk(), make_stream_terms(instalment=2000), 1024),
        (make_stream_desk(items_max=999), make_stream_terms(items=1000), 999),
    ):
        pair = StreamPair(terms, desk)
        pair.run_client(pair.client.start(pair.now))
        pair.pump()
        assert isinstance(pair.error, PeerRefused)
        assert (pair.error.reason, pair.error.needed) == (RefusalReason.LIMITS, needed)


# --- hostile providers ----------------------------------------------------------------------------------------------


def tokens(count: int, finish: str | None = None) -> bytes:
    return json.dumps({"t": [7] * count, "s": "", **({"f": finish} if finish else {})}).encode()


@pytest.mark.parametrize(
    ("piece", "items", "final", "fault"),
    [
        (tokens(1), 42, False, "bad receipt"),  # counts more than it has
        (tokens(2), 41, False, "bad receipt"),
        (tokens(0), 40, False, "bad receipt"),  # without a token
        (tokens(1), 39, False, "bad receipt"),  # backwards
        (tokens(65), 105, False, "bad receipt"),  # more than was paid
        (tokens(1, "stop"), 41, False, "bad receipt"),  # an end that is none
        (tokens(1), 41, True, "bad receipt"),  # none that is one
        (b"not JSON", 41, False, "malformed"),
    ],
)
def test_frames_that_are_wrong(piece: bytes, items: int, final: bool, fault: str) -> None:
    pair = streaming(0)
    assert pair.client.stream is not None
    pair.client.stream.paid = 104
    message = Frame(JOB_ID, FrameSealer(None).seal(piece, final), items, final)
    pair.run_client(pair.client.handle_message(message, unix_ms=UNIX_MS))
    assert isinstance(pair.error, RemoteProtocolError)
    assert pair.of(fx.Penalise)
    assert not pair.of(fx.Received), "nothing of it is handed on"
    assert not sent(pair, Pay)
    assert isinstance(pair.client_log[-2], fx.EndReservation)
    assert sent(pair, Cancel), "and the provider is asked what it thinks is owed"


def test_more_text_than_its_tokens_can_have() -> None:
    """A frame may hold 256 KiB, and would be paid as one token."""
    token, more = limits.ANSWER_BYTES_PER_TOKEN, limits.ANSWER_BYTES_MORE
    for texts, right in (
        (["€" * (more // 3)], True),  # what another provider held back, and then token by token the longest there are
        (["x" * (more + token)], True),
        (["x" * (more + token + 1)], False),
        (["é" * ((more + token) // 2 + 1)], False),  # counted in bytes
        (["x" * (more + token), *["x" * token] * 20], True),
        (["x" * (more + token), *["x" * token] * 20, "x" * (token + 1)], False),
        (["", "", "", "x" * (more + 4 * token)], True),  # that waited
    ):
        pair = streaming(0)
        assert pair.client.stream is not None
        sealer = FrameSealer(None)
        for number, text in enumerate(texts, 1):
            piece = json.dumps({"t": [7], "s": text}, ensure_ascii=False).encode()
            message = Frame(JOB_ID, sealer.seal(piece, False), 40 + number, False)
            if not pair.finished:
                pair.run_client(pair.client.handle_message(message, unix_ms=UNIX_MS))
        assert pair.finished is not right, texts[-1][:3]
        if not right:
            assert isinstance(pair.error, RemoteProtocolError)
            assert pair.error.code == "PAYLOAD"
            assert pair.of(fx.Penalise)
            assert len(pair.of(fx.Received)) == len(texts) - 1


def test_a_prompt_longer_than_its_bytes() -> None:
    most = len(PAYLOAD) + limits.PROMPT_TOKENS_SLACK
    for prompt, right in ((most, True), (most + 1, False)):
        pair = StreamPair(make_stream_terms(items=5000), prompt=prompt)
        pair.begin()
        assert pair.streaming is right


def test_the_other_head() -> None:
    pair = streaming(0)
    pair.client._machine.state = ClientState.WAITING
    head = OutputHead(JOB_ID, b"", 64, 0, 0)
    with pytest.raises(RemoteProtocolError) as caught:
        pair.client.handle_message(head, unix_ms=UNIX_MS)
    assert caught.value.code == "UNEXPECTED"


def test_a_provider_that_only_says_progress_is_given_up() -> None:
    pair = streaming(2)
    given_up = pair.now + limits.STREAM_STALL_S
    while not pair.finished:
        pair.now += limits.PROGRESS_INTERVAL_S
        pair.run_client(pair.client.handle_timer(pair.now))
        if not pair.finished:
            pair.client.heard(pair.now)
            pair.run_client(pair.client.handle_message(Progress(JOB_ID, Phase.RUNNING, None), unix_ms=UNIX_MS))
    assert given_up <= pair.now <= given_up + limits.PROGRESS_INTERVAL_S
    assert pair.error is not None
    assert pair.error.code == "SILENT"
    assert "no more of the answer" in pair.error.message
    assert pair.paying.state == "unknown"
    pair.pump()
    assert pair.paying.booked == pair.earning.booked


def test_a_provider_that_does_not_end_after_stop_is_given_up() -> None:
    pair = streaming(1)
    pair.run_client(pair.client.stop())
    assert pair.client.next_deadline() == pair.now + limits.GENERATION_STOP_GRACE_S
    pair.run_client(pair.client.handle_timer(pair.now + limits.GENERATION_STOP_GRACE_S))
    assert pair.finished


@pytest.mark.parametrize(
    "change",
    [
        {"items": 46, "price": price(46)},
        {"frames": 2},
        {"output_hash": b"\7" * 32},
        {"price": price(300) - 1},
        {"input_hash": b"\7" * 32},
    ],
)
def test_receipts_about_what_was_not_acknowledged(change: dict[str, object]) -> None:
    pair = streaming(6)
    owed = pair.client.owed
    assert owed is not None
    assert pair.kept_receipt is not None
    body = decode_receipt_body(pair.kept_receipt.body)
    check_receipt(body, owed)
    with pytest.raises(RemoteProtocolError):
        check_receipt(dataclasses.replace(body, **change), owed)  # type: ignore[arg-type]


def test_marks_are_bounded_and_any_of_them_will_do() -> None:
    pair = StreamPair(make_stream_terms(items=1000), answer=900)
    pair.whole()
    assert pair.client.owed is not None
    marks = pair.client.owed.marks
    assert len(marks) == limits.STREAM_MARKS_KEPT
    assert marks[-1].items == 940
    (paid,) = pair.of(fx.MarkPaid)
    for mark in marks:
        earlier = dataclasses.replace(
            paid.body,  # type: ignore[union-attr]
            items=mark.items, frames=mark.frames, output_hash=mark.output_hash, price=price(mark.items),
        )  # fmt: skip
        check_receipt(earlier, pair.client.owed)
    assert isinstance(marks[0], StreamMark)


def test_a_receipt_of_a_job_that_acknowledged_nothing_is_not_paid() -> None:
    pair = streaming(0)
    pair.run_client(pair.client.cancel())
    assert pair.client.owed is None
    assert not sent(pair, ReceiptAck)
