"""job/1 on both ends, without IO: the good path, every refusal, every fault, and the order of things."""

from __future__ import annotations

import dataclasses

import pytest
from job_pair import ANSWER, CLIENT, MODEL, PAYLOAD, PROVIDER, UNIX_MS, Pair, make_desk, make_terms

from cocoon_p2p import limits
from cocoon_p2p.errors import ExecutionError, PeerRefused, RefusalReason, RemoteProtocolError, TransportError
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.job_client import ClientJob, check_stray_receipt
from cocoon_p2p.proto.job_states import CLIENT_TRANSITIONS, PROVIDER_TRANSITIONS, ClientState, ProviderState
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.job import (
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    Accept,
    Ask,
    Cancel,
    Failure,
    FailureCode,
    Input,
    OutputHead,
    Quote,
    Receipt,
    ReceiptAck,
    Refusal,
    decode_message,
    decode_quote_body,
    decode_receipt_body,
)
from cocoon_p2p.wire.seal import ResponseHeader, decode_envelope_header


def error_of(pair: Pair) -> object:
    finished = pair.effects_of(fx.Finished)
    assert len(finished) == 1, "every job ends with exactly one Finished"
    return finished[0].error  # type: ignore[attr-defined]


@pytest.mark.parametrize("tier", [Tier.SEALED, Tier.OPEN])
def test_a_job_passes_from_end_to_end(tier: Tier) -> None:
    pair = Pair(make_terms(tier=tier))
    pair.whole_job()
    assert error_of(pair) is None
    assert bytes(pair.received) == PAYLOAD
    assert bytes(pair.output) == ANSWER
    (paid,) = pair.effects_of(fx.MarkPaid)
    body = paid.body  # type: ignore[attr-defined]
    assert (body.price, body.items, body.queue_us, body.execute_us) == (1030, 3, 5, 70)
    (kept,) = pair.effects_of(fx.KeepSignature)
    assert verify_signature(CLIENT.peer_id, RECEIPT_DOMAIN, paid.receipt.body, kept.client_signature)  # type: ignore[attr-defined]
    assert pair.desk.running == 0
    assert pair.desk.bytes_in_flight == 0
    assert pair.provider.jobs() == {}


def test_the_earning_is_on_disk_before_the_receipt_goes_out() -> None:
    pair = Pair()
    pair.whole_job()
    kinds = [type(e.message) if isinstance(e, fx.Send) else type(e) for e in pair.provider_log]
    assert kinds.index(fx.Earn) < kinds.index(Receipt)
    assert kinds.index(fx.TakePayment) < kinds.index(fx.Execute)
    client = [type(e.message) if isinstance(e, fx.Send) else type(e) for e in pair.client_log]
    assert client.index(fx.MarkPaid) < client.index(ReceiptAck)


def test_fewer_items_than_quoted_cost_less() -> None:
    pair = Pair(items_done=1)
    pair.whole_job()
    (paid,) = pair.effects_of(fx.MarkPaid)
    assert paid.body.price == 1010  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("terms", "change", "reason", "needed"),
    [
        ({"max_total": 1029}, {}, RefusalReason.PRICE, 1030),
        ({"items": 101}, {}, RefusalReason.LIMITS, 100),
        ({}, {"models": {}}, RefusalReason.NO_MODEL, None),
        ({}, {"tiers": frozenset({Tier.OPEN})}, RefusalReason.TIER, None),
        ({}, {"slots": 0}, RefusalReason.BUSY, 1),
        ({}, {"open_to_jobs": False}, RefusalReason.SHUTTING_DOWN, None),
        ({}, {"settlement_network": -3}, RefusalReason.PAYMENT, None),
        ({}, {"input_bytes_max": 100}, RefusalReason.LIMITS, 100),
        ({}, {"bytes_in_flight": 19_999}, RefusalReason.BUSY, 1),
    ],
)
def test_refusals_say_what_would_make_it_a_yes(
    terms: dict[str, int], change: dict[str, object], reason: RefusalReason, needed: int | None
) -> None:
    desk = make_desk()
    for name, value in change.items():
        setattr(desk, name, value)
    pair = Pair(make_terms(**terms), desk)  # type: ignore[arg-type]
    pair.start()
    pair.pump()
    error = error_of(pair)
    assert isinstance(error, PeerRefused)
    assert (error.reason, error.needed) == (reason, needed)
    assert not pair.effects_of(fx.Penalise)
    assert pair.provider.jobs() == {}


def test_a_payment_without_credit_is_refused_and_the_reservation_released() -> None:
    pair = Pair(credit=False)
    pair.whole_job()
    error = error_of(pair)
    assert isinstance(error, PeerRefused)
    assert (error.reason, error.needed) == (RefusalReason.PAYMENT, 1030)
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True, payment_refused=True)]
    assert pair.desk.running == 0


def test_a_quote_expires_and_a_late_accept_is_told_so() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.now += limits.QUOTE_LIFETIME_S
    pair.run_provider(pair.provider.handle_timer(pair.now))
    assert pair.provider.jobs() == {}
    pair.accept()
    pair.pump()
    error = error_of(pair)
    assert isinstance(error, PeerRefused)
    assert error.reason is RefusalReason.QUOTE_EXPIRED
    assert not pair.effects_of(fx.Penalise)


def test_cancelling_before_the_work_is_done_costs_nothing() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.deliver_to_provider(pair.to_provider.popleft())  # ACCEPT; INPUT is still on its way
    pair.run_client(pair.client.cancel())
    pair.deliver_to_provider(pair.to_provider.pop())  # CANCEL overtakes
    assert pair.effects_of(fx.ReleasePayment) == [fx.ReleasePayment(pair.job_id)]
    (answer,) = pair.messages_to_client()
    assert isinstance(answer, Failure)
    assert answer.code is FailureCode.CANCELLED
    pair.pump()  # the INPUT that was under way is ignored
    assert not pair.effects_of(fx.Execute)
    assert pair.desk.running == 0


def test_cancelling_after_the_receipt_was_sent_takes_the_earning_back() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.deliver_to_provider(pair.to_provider.popleft())
    pair.deliver_to_provider(pair.to_provider.popleft())
    assert pair.effects_of(fx.Earn)
    pair.deliver_to_provider(Cancel(pair.job_id).encode())
    assert not pair.effects_of(fx.ReleasePayment)
    assert pair.effects_of(fx.GiveBack) == [fx.GiveBack(pair.job_id)]


def test_who_asks_about_a_job_of_an_earlier_stream_is_told() -> None:
    pair = Pair()
    pair.deliver_to_provider(Cancel(pair.job_id).encode())
    assert pair.effects_of(fx.GiveBack) == [fx.GiveBack(pair.job_id)]
    (answer,) = pair.provider.not_earned(pair.job_id)
    assert isinstance(answer, fx.Send)
    assert isinstance(answer.message, Failure)
    assert (answer.message.job_id, answer.message.code) == (pair.job_id, FailureCode.CANCELLED)


def test_a_deadline_ends_the_job_at_both_ends() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.deliver_to_provider(pair.to_provider.popleft())
    assert pair.provider.next_deadline() == pair.now + limits.PROGRESS_INTERVAL_S
    pair.now += limits.JOB_INPUT_IDLE_TIMEOUT_S
    pair.run_provider(pair.provider.handle_timer(pair.now))
    (message,) = pair.messages_to_client()
    assert isinstance(message, Failure)
    assert message.code is FailureCode.DEADLINE
    assert pair.effects_of(fx.ReleasePayment)
    pair.client.heard(159.0)
    assert pair.client.next_deadline() == 160.0
    assert pair.client.handle_timer(159.9) == []
    pair.run_client(pair.client.handle_timer(160.0))
    error = error_of(pair)
    assert isinstance(error, TransportError)
    assert error.code == "TIMEOUT"
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]


def test_a_lost_connection_leaves_the_outcome_open_once_paid() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    lost = TransportError("gone", outcome_known=False)
    pair.run_client(pair.client.lost(lost))
    assert not pair.effects_of(fx.EndReservation), "nothing was paid before the accept"
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.run_client(pair.client.lost(lost))
    assert error_of(pair) is lost
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]
    pair.deliver_to_provider(pair.to_provider.popleft())
    pair.run_provider(pair.provider.lost("gone"))
    assert pair.effects_of(fx.ReleasePayment)
    assert pair.desk.running == 0


def test_failed_execution_reaches_the_client_with_its_code_and_costs_nothing() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.deliver_to_provider(pair.to_provider.popleft())
    message = decode_message(pair.to_provider.popleft())
    effects = pair.provider.handle_message(message, now=pair.now, unix_ms=UNIX_MS)
    assert isinstance(effects[0], fx.WriteInput)
    effects = pair.provider.input_complete(pair.job_id, bytes(32), unix_ms=UNIX_MS)
    assert isinstance(effects[0], fx.Execute)
    pair.run_provider(pair.provider.execution_failed(pair.job_id, ExecutionError("input 'x' …", code="INPUT")))
    pair.pump()
    error = error_of(pair)
    assert isinstance(error, ExecutionError)
    assert (error.code, error.retryable) == ("INPUT", False)
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True, job_failed=True)]


# --- a provider that cheats -----------------------------------------------------------------------------------------


def resigned_quote(pair: Pair, **changes: object) -> bytes:
    """The quote on its way to the client, with another content and a good signature."""
    quote = decode_message(pair.to_client.popleft())
    assert isinstance(quote, Quote)
    body = dataclasses.replace(decode_quote_body(quote.body), **changes).encode()  # type: ignore[arg-type]
    return Quote(pair.job_id, body, PROVIDER.sign(QUOTE_DOMAIN, body)).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"max_total": 5001, "price_base": 4971},
        {"max_total": 1031},
        {"items": 4, "max_total": 1040},
        {"model_id": "cd" * 32},
        {"client": PROVIDER.peer_id},
        {"provider": CLIENT.peer_id},
        {"tier": Tier.OPEN, "seal_key_record": b""},
        {"input_bytes": 64},
        {"settlement_network": -239},
    ],
)
def test_a_quote_for_something_else_is_not_taken(changes: dict[str, object]) -> None:
    pair = Pair()
    pair.start()
    pair.deliver_to_provider(pair.to_provider.popleft())
    pair.deliver_to_client(resigned_quote(pair, **changes))
    assert isinstance(error_of(pair), RemoteProtocolError)
    assert len(pair.effects_of(fx.Penalise)) == 1
    assert not pair.effects_of(fx.Quoted)


def test_a_quote_without_a_seal_key_ends_the_stream() -> None:
    pair = Pair()
    pair.start()
    pair.deliver_to_provider(pair.to_provider.popleft())
    with pytest.raises(RemoteProtocolError) as caught:
        pair.deliver_to_client(resigned_quote(pair, seal_key_record=b""))
    assert caught.value.code == "MALFORMED"
    assert not pair.effects_of(fx.Quoted)


def test_a_quote_or_seal_key_signed_by_somebody_else_is_not_taken() -> None:
    pair = Pair()
    pair.start()
    pair.deliver_to_provider(pair.to_provider.popleft())
    quote = decode_message(pair.to_client.popleft())
    assert isinstance(quote, Quote)
    pair.deliver_to_client(Quote(pair.job_id, quote.body, CLIENT.sign(QUOTE_DOMAIN, quote.body)).encode())
    assert pair.effects_of(fx.Penalise) == [fx.Penalise(Fault.BAD_SIGNATURE)]


@pytest.mark.parametrize(
    "changes",
    [
        {"price": 1031},
        {"items": 4, "price": 1040},
        {"quote_hash": bytes(32)},
        {"input_hash": bytes(32)},
        {"output_hash": bytes(32)},
        {"client": PROVIDER.peer_id},
        {"job_id": JobId(bytes(16))},
    ],
)
def test_a_receipt_that_does_not_say_what_was_done_is_not_signed(changes: dict[str, object]) -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.accept()
    pair.deliver_to_provider(pair.to_provider.popleft())
    pair.deliver_to_provider(pair.to_provider.popleft())
    head, output, receipt = (pair.to_client.popleft() for _ in range(3))
    pair.deliver_to_client(head)
    pair.deliver_to_client(output)
    message = decode_message(receipt)
    assert isinstance(message, Receipt)
    body = dataclasses.replace(decode_receipt_body(message.body), **changes).encode()  # type: ignore[arg-type]
    pair.deliver_to_client(Receipt(pair.job_id, body, PROVIDER.sign(RECEIPT_DOMAIN, body), b"").encode())
    assert isinstance(error_of(pair), RemoteProtocolError)
    assert not pair.effects_of(fx.MarkPaid)


def test_an_output_for_another_job_is_not_taken() -> None:
    pair = Pair()
    accepted(pair)
    pair.to_provider.clear()
    header = ResponseHeader(JobId(bytes(16)), bytes(32)).encode()
    pair.deliver_to_client(OutputHead(pair.job_id, header, 64, 0, 0).encode())
    assert pair.effects_of(fx.Penalise) == [fx.Penalise(Fault.BAD_ENVELOPE)]
    assert not pair.effects_of(fx.BeginOutput)
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]


def test_answers_out_of_turn_end_the_stream() -> None:
    pair = Pair()
    pair.start()
    with pytest.raises(RemoteProtocolError) as caught:
        pair.deliver_to_client(OutputHead(pair.job_id, b"", 64, 0, 0).encode())
    assert caught.value.code == "UNEXPECTED"
    pair.run_client(pair.client.lost(caught.value))
    assert error_of(pair) is caught.value


# --- a client that cheats -------------------------------------------------------------------------------------------


def accepted(pair: Pair) -> Accept:
    pair.start()
    pair.pump()
    pair.accept()
    message = decode_message(pair.to_provider.popleft())
    assert isinstance(message, Accept)
    return message


@pytest.mark.parametrize(
    "changes",
    [
        {"max_total": 1},
        {"items": 1},
        {"payload_bytes": 64},
        {"model_id": "cd" * 32},
        {"provider": CLIENT.peer_id},
        {"job_id": JobId(bytes(16))},
        {"suite": 0},
        {"expires_at_ms": UNIX_MS - 1},
        {"expires_at_ms": UNIX_MS + 3_600_001},
    ],
)
def test_a_header_that_disagrees_with_the_quote_ends_the_job(changes: dict[str, object]) -> None:
    pair = Pair()
    accept = accepted(pair)
    header = dataclasses.replace(decode_envelope_header(accept.envelope_header), **changes)  # type: ignore[arg-type]
    forged = dataclasses.replace(accept, envelope_header=header.encode())
    pair.deliver_to_provider(forged.encode())
    assert len(pair.effects_of(fx.Penalise)) == 1
    (message,) = pair.messages_to_client()
    assert isinstance(message, Failure)
    assert not pair.effects_of(fx.TakePayment)
    assert pair.desk.running == 0
    assert pair.provider.jobs() == {}


def test_an_altered_box_costs_standing_and_only_this_job() -> None:
    pair = Pair()
    accept = accepted(pair)
    altered = dataclasses.replace(accept, box=bytes([accept.box[0] ^ 1]) + accept.box[1:])
    pair.deliver_to_provider(altered.encode())
    assert pair.effects_of(fx.Penalise) == [fx.Penalise(Fault.BAD_ENVELOPE)]
    (message,) = pair.messages_to_client()
    assert isinstance(message, Failure)
    assert message.code is FailureCode.ENVELOPE
    assert not pair.desk.is_done(CLIENT.peer_id, pair.job_id), "a failed envelope must not burn the job id"


def test_a_job_id_is_taken_once() -> None:
    pair = Pair()
    pair.whole_job()
    again = Ask(pair.job_id, MODEL, Tier.SEALED, 3, len(PAYLOAD), 5000, 1000, 0)
    with pytest.raises(RemoteProtocolError):
        pair.deliver_to_provider(again.encode())
    with pytest.raises(RemoteProtocolError):
        pair.desk.consume(CLIENT.peer_id, pair.job_id, expires_at_ms=UNIX_MS + 1, now_ms=UNIX_MS)


def test_the_memory_of_taken_jobs_is_bounded() -> None:
    desk = make_desk()
    for number in range(limits.CLOSED_JOBS_REMEMBERED_MAX + 5):
        desk.consume(CLIENT.peer_id, JobId(number.to_bytes(16)), expires_at_ms=UNIX_MS + 10_000, now_ms=UNIX_MS)
    assert not desk.is_done(CLIENT.peer_id, JobId((0).to_bytes(16)))
    assert desk.is_done(CLIENT.peer_id, JobId((limits.CLOSED_JOBS_REMEMBERED_MAX).to_bytes(16)))


@pytest.mark.parametrize(
    "frame",
    [
        Input(JobId(b"j" * 16), b"x" * 80, True).encode(),
        ReceiptAck(JobId(b"j" * 16), bytes(64)).encode(),
        Refusal(JobId(b"j" * 16), b"", bytes(64)).encode(),
        Receipt(JobId(b"j" * 16), b"", bytes(64), b"").encode(),
    ],
)
def test_messages_out_of_turn_end_the_session(frame: bytes) -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    with pytest.raises(RemoteProtocolError) as caught:
        pair.deliver_to_provider(frame)
    assert caught.value.code == "UNEXPECTED"


def test_jobs_of_one_client_are_bounded() -> None:
    pair = Pair(desk=make_desk(slots=1000))
    for number in range(limits.JOBS_PER_PEER_MAX + 1):
        pair.deliver_to_provider(Ask(JobId(number.to_bytes(16)), MODEL, Tier.SEALED, 1, 64, 0, 1000, 0).encode())
    assert isinstance(decode_message(pair.to_client.pop()), Refusal)
    assert isinstance(decode_message(pair.to_client.pop()), Quote)


# --- receipts after a break -----------------------------------------------------------------------------------------


def test_an_unsigned_receipt_is_sent_again_and_can_be_signed_then() -> None:
    pair = Pair()
    pair.whole_job()
    (earned,) = pair.effects_of(fx.Earn)
    receipt = earned.receipt  # type: ignore[attr-defined]
    fresh = Pair()
    fresh.run_provider(fresh.provider.resend_receipts([receipt]))
    message = decode_message(fresh.to_client.popleft())
    assert isinstance(message, Receipt)
    signed, body = check_stray_receipt(CLIENT, PROVIDER.peer_id, message)
    assert body.price == 1030
    fresh.deliver_to_provider(ReceiptAck(pair.job_id, signed.client_signature).encode())
    assert len(fresh.effects_of(fx.KeepSignature)) == 1


def test_a_stray_receipt_of_somebody_else_is_refused() -> None:
    pair = Pair()
    pair.whole_job()
    (earned,) = pair.effects_of(fx.Earn)
    receipt = earned.receipt  # type: ignore[attr-defined]
    with pytest.raises(RemoteProtocolError):
        check_stray_receipt(PROVIDER, PROVIDER.peer_id, receipt)
    with pytest.raises(RemoteProtocolError):
        check_stray_receipt(CLIENT, CLIENT.peer_id, receipt)


# --- the tables -----------------------------------------------------------------------------------------------------


def test_every_state_is_reached_and_left() -> None:
    for states, table, final in (
        (ClientState, CLIENT_TRANSITIONS, {ClientState.DONE, ClientState.FAILED}),
        (ProviderState, PROVIDER_TRANSITIONS, {ProviderState.CLOSED}),
    ):
        left = {state for state, _ in table}
        reached = set(table.values())
        assert left == set(states) - final  # type: ignore[arg-type]
        assert reached | {next(iter(states))} == set(states)  # type: ignore[call-overload]


def test_a_client_job_over_takes_no_more_messages() -> None:
    job = ClientJob(CLIENT, PROVIDER.peer_id, JobId(b"j" * 16), make_terms(), deadline=10.0)
    job.cancel()
    assert job.over
    assert job.handle_message(Failure(job.job_id, FailureCode.BUSY, ""), unix_ms=UNIX_MS) == []
    assert job.handle_timer(11.0) == []
    assert job.next_deadline() is None
