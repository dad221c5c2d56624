"""job/1, the client's end: firm offers, silence, signed refusals, and what is owed when a job ends early."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from job_pair import ANSWER, CLIENT, MODEL, PAYLOAD, PROVIDER, UNIX_MS, Pair, make_desk, make_terms

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, PeerRefused, RefusalReason, RemoteProtocolError, TransportError
from cocoon_p2p.ids import Tier
from cocoon_p2p.policy.pricing_fixed import FixedPricing
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.proto.announced_price import AnnouncedPrice, why_not_firm
from cocoon_p2p.proto.job_answers import verified_seal_key
from cocoon_p2p.proto.job_client import ClientJob
from cocoon_p2p.proto.job_states import ClientState
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.wire.job import (
    RECEIPT_DOMAIN,
    REFUSAL_DOMAIN,
    Cancel,
    Failure,
    FailureCode,
    Input,
    Output,
    OutputHead,
    Phase,
    Progress,
    Receipt,
    Refusal,
    RefusalBody,
    Submit,
    decode_message,
    decode_quote_body,
    decode_receipt_body,
    decode_refusal_body,
)
from cocoon_p2p.wire.seal import SealKeyRecord, decode_envelope_header

ANNOUNCED = AnnouncedPrice(1000, 10, UNIX_MS + 60_000)


def seal_key_of(pair: Pair) -> SealKeyRecord | None:
    if pair.terms.tier is Tier.OPEN:
        return None
    return verified_seal_key(PROVIDER.peer_id, pair.desk.seal_keys.current()[1])


def submitted(pair: Pair, announced: AnnouncedPrice = ANNOUNCED) -> Submit:
    pair.client.offer(announced, seal_key_of(pair))
    assert not pair.to_provider, "nothing is sent before there is a payment"
    pair.accept()
    message = decode_message(pair.to_provider[0])
    assert isinstance(message, Submit)
    return message


def waiting(pair: Pair) -> None:
    """The whole input is sent; the provider has not read it yet."""
    pair.start()
    pair.pump()
    pair.accept()
    assert pair.client.state is ClientState.WAITING


def receiving(pair: Pair) -> tuple[bytes, bytes]:
    """OUTPUT_HEAD is read; OUTPUT and RECEIPT are on their way."""
    waiting(pair)
    while pair.to_provider:
        pair.deliver_to_provider(pair.to_provider.popleft())
    head, output, receipt = (pair.to_client.popleft() for _ in range(3))
    pair.deliver_to_client(head)
    assert pair.client.state is ClientState.RECEIVING
    return output, receipt


def received(pair: Pair) -> bytes:
    """The whole output is here; the RECEIPT is on its way."""
    output, receipt = receiving(pair)
    pair.deliver_to_client(output)
    assert pair.client.state is ClientState.RECEIVED
    return receipt


def error_of(pair: Pair) -> CocoonError | None:
    (finished,) = pair.effects_of(fx.Finished)
    return finished.error  # type: ignore[attr-defined,no-any-return]


def cancels(pair: Pair) -> int:
    sent = [e.message for e in pair.effects_of(fx.Send)]  # type: ignore[attr-defined]
    return sum(isinstance(message, Cancel) for message in sent)


# --- firm offers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [Tier.SEALED, Tier.OPEN])
def test_an_announced_price_is_taken_unasked(tier: Tier) -> None:
    pair = Pair(make_terms(tier=tier))
    message = submitted(pair)
    terms = decode_quote_body(message.terms)
    assert (terms.price_base, terms.price_per_item, terms.max_total) == (1000, 10, 1030)
    assert (terms.queue_ms, terms.payee_key, terms.seal_key_record) == (0, b"", b"")
    assert message.timeout_ms == 60_000
    pair.pump()
    assert error_of(pair) is None
    assert bytes(pair.output) == ANSWER
    (paid,) = pair.effects_of(fx.MarkPaid)
    assert paid.body.quote_hash == hashlib.sha256(message.terms).digest()  # type: ignore[attr-defined]
    assert len(pair.effects_of(fx.KeepSignature)) == 1


def test_a_price_that_does_not_hold_any_more_is_answered_with_the_new_one() -> None:
    desk = make_desk()
    desk.models = {MODEL: dataclasses.replace(desk.models[MODEL], pricing=FixedPricing(2000, 10))}
    pair = Pair(desk=desk)
    submitted(pair)
    pair.pump()
    error = error_of(pair)
    assert isinstance(error, PeerRefused)
    assert (error.reason, error.needed) == (RefusalReason.PRICE, 2030)
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True)]
    assert not pair.effects_of(fx.Penalise)


def test_an_offer_that_is_not_taken_up_is_never_heard_of() -> None:
    pair = Pair()
    pair.client.offer(ANNOUNCED, seal_key_of(pair))
    pair.run_client(pair.client.cancel())
    assert not pair.to_provider
    assert error_of(pair) is not None
    assert not pair.effects_of(fx.EndReservation)


def test_a_payment_for_a_job_that_ended_meanwhile_comes_back() -> None:
    pair = Pair()
    pair.start()
    pair.pump()
    pair.run_client(pair.client.lost(TransportError("gone", outcome_known=False)))
    pair.accept()
    assert not pair.to_provider
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True)]


def test_a_seal_key_that_is_none_ends_the_job_and_frees_its_payment() -> None:
    pair = Pair()
    key = seal_key_of(pair)
    assert key is not None
    pair.client.offer(ANNOUNCED, dataclasses.replace(key, public_key=b"short"))
    pair.accept()
    error = error_of(pair)
    assert isinstance(error, RemoteProtocolError)
    assert error.code == "ENVELOPE"
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True)]


def test_every_submission_has_an_envelope_of_its_own() -> None:
    one, two = submitted(Pair()), submitted(Pair())
    assert one.job_id == two.job_id
    assert one.box != two.box
    commitments = {decode_envelope_header(m.envelope_header).commitment for m in (one, two)}
    assert len(commitments) == 2


@pytest.mark.parametrize(
    ("terms", "announced", "why"),
    [
        ({}, {}, None),
        ({"max_total": None}, {}, None),
        ({"max_total": 1029}, {}, "above the limit"),
        ({"max_total": None}, {"base": limits.AMOUNT_NANOGRAM_MAX}, "above the limit"),
        ({}, {"expires_at_ms": UNIX_MS + 1000}, None),
        ({}, {"expires_at_ms": UNIX_MS + 999}, "expires"),
        ({"payload_bytes": limits.FIRM_INPUT_BYTES_MAX}, {}, None),
        ({"payload_bytes": limits.FIRM_INPUT_BYTES_MAX + 64}, {}, "said yes"),
    ],
)
def test_what_has_to_be_asked_for(terms: dict[str, int], announced: dict[str, int], why: str | None) -> None:
    wanted = dataclasses.replace(make_terms(), **terms)  # type: ignore[arg-type]
    price = dataclasses.replace(ANNOUNCED, **announced)
    reason = why_not_firm(wanted, price, unix_ms=UNIX_MS)
    assert reason is None if why is None else why in (reason or "")


# --- refusals -------------------------------------------------------------------------------------------------------


def refusal(pair: Pair, **changes: object) -> RefusalBody:
    body = RefusalBody(PROVIDER.peer_id, CLIENT.peer_id, pair.job_id, MODEL, RefusalReason.BUSY, "no slot", 5, UNIX_MS)
    return dataclasses.replace(body, **changes)  # type: ignore[arg-type]


def test_a_refusal_can_be_shown() -> None:
    pair = Pair(desk=make_desk(slots=0))
    pair.start()
    pair.pump()
    error = error_of(pair)
    assert isinstance(error, PeerRefused)
    assert error.signed is not None
    body, signature = error.signed
    assert verify_signature(PROVIDER.peer_id, REFUSAL_DOMAIN, body, signature)
    assert decode_refusal_body(body).reason is RefusalReason.BUSY


def test_a_refusal_that_the_provider_did_not_sign_is_none() -> None:
    pair = Pair()
    pair.start()
    body = refusal(pair).encode()
    pair.deliver_to_client(Refusal(pair.job_id, body, CLIENT.sign(REFUSAL_DOMAIN, body)).encode())
    assert isinstance(error_of(pair), RemoteProtocolError)
    assert pair.effects_of(fx.Penalise) == [fx.Penalise(Fault.BAD_SIGNATURE)]


@pytest.mark.parametrize("changes", [{"client": PROVIDER.peer_id}, {"job_id": bytes(16)}, {"provider": CLIENT.peer_id}])
def test_a_refusal_of_another_job_is_not_taken(changes: dict[str, object]) -> None:
    pair = Pair()
    pair.start()
    body = refusal(pair, **changes).encode()
    pair.deliver_to_client(Refusal(pair.job_id, body, PROVIDER.sign(REFUSAL_DOMAIN, body)).encode())
    assert isinstance(error_of(pair), RemoteProtocolError)


# --- silence --------------------------------------------------------------------------------------------------------


def progress(pair: Pair) -> bytes:
    return Progress(pair.job_id, Phase.RUNNING, None).encode()


def hear(pair: Pair, frame: bytes) -> None:
    """As the driver does."""
    pair.client.heard(pair.now)
    pair.deliver_to_client(frame)


def test_a_provider_that_goes_silent_is_given_up() -> None:
    pair = Pair()
    waiting(pair)
    assert pair.client.next_deadline() == pair.now + limits.PROGRESS_SILENCE_S
    pair.now += 5
    hear(pair, progress(pair))
    due = pair.now + limits.PROGRESS_SILENCE_S
    assert pair.client.next_deadline() == due
    assert pair.client.handle_timer(due - 0.1) == []
    pair.run_client(pair.client.handle_timer(due))
    error = error_of(pair)
    assert isinstance(error, TransportError)
    assert (error.code, error.outcome_known, error.retryable) == ("SILENT", False, True)
    assert error.hint
    assert cancels(pair) == 1
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]


def test_a_line_that_others_fill_is_given_more_time() -> None:
    pair = Pair()
    waiting(pair)
    began = pair.now
    due = began + limits.PROGRESS_SILENCE_S
    assert pair.client.handle_timer(due, line_busy=True) == []
    assert pair.client.next_deadline() == began + limits.OUTPUT_SILENCE_S
    assert pair.client.handle_timer(began + limits.OUTPUT_SILENCE_S, line_busy=True) != []


def test_who_slept_itself_listens_first() -> None:
    pair = Pair()
    waiting(pair)
    woke = pair.now + limits.PROGRESS_SILENCE_S + 20
    assert pair.client.handle_timer(woke) == []
    assert pair.client.next_deadline() == woke + limits.PROGRESS_SILENCE_S


def test_an_output_may_pause_for_longer() -> None:
    pair = Pair()
    receiving(pair)
    due = pair.now + limits.OUTPUT_SILENCE_S
    assert pair.client.next_deadline() == due
    pair.run_client(pair.client.handle_timer(due))
    error = error_of(pair)
    assert error is not None
    assert error.code == "SILENT"
    assert cancels(pair) == 1


def test_nobody_has_to_speak_before_there_is_work() -> None:
    pair = Pair()
    pair.start()
    assert pair.client.next_deadline() == pair.now + 60
    pair.pump()
    assert pair.client.state is ClientState.QUOTED
    assert pair.client.next_deadline() == pair.now + 60


@pytest.mark.parametrize("begin", [Pair.start, receiving])
def test_progress_out_of_turn_ends_the_stream(begin: object) -> None:
    pair = Pair()
    begin(pair)  # type: ignore[operator]
    with pytest.raises(RemoteProtocolError) as caught:
        pair.deliver_to_client(progress(pair))
    assert caught.value.code == "UNEXPECTED"


def test_what_moves_bulk() -> None:
    pair = Pair()
    waiting(pair)
    pair.deliver_to_provider(pair.to_provider.popleft())
    assert not pair.client.moves_bulk
    pair.deliver_to_provider(pair.to_provider.popleft())
    head = decode_message(pair.to_client.popleft())
    assert isinstance(head, OutputHead)
    large = dataclasses.replace(head, payload_bytes=limits.FIRM_INPUT_BYTES_MAX + 64)
    pair.client.handle_message(large, unix_ms=UNIX_MS)
    assert pair.client.moves_bulk


# --- what is owed ---------------------------------------------------------------------------------------------------


def cancel(job: ClientJob) -> list[fx.ClientEffect]:
    return job.cancel()


def lose(job: ClientJob) -> list[fx.ClientEffect]:
    return job.lost(TransportError("gone", outcome_known=False))


def expire(job: ClientJob) -> list[fx.ClientEffect]:
    return job.handle_timer(160.0)


@pytest.mark.parametrize(("end", "told"), [(cancel, 1), (lose, 0), (expire, 1)])
def test_half_an_answer_is_not_owed(end: object, told: int) -> None:
    pair = Pair()
    receiving(pair)
    pair.run_client(end(pair.client))  # type: ignore[operator]
    assert cancels(pair) == told
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]
    assert pair.client.owed is None


@pytest.mark.parametrize("end", [cancel, lose, expire])
def test_a_whole_answer_is_owed_however_its_job_ends(end: object) -> None:
    pair = Pair()
    receipt = received(pair)
    pair.run_client(end(pair.client))  # type: ignore[operator]
    assert cancels(pair) == 0
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=False)]
    message = decode_message(receipt)
    assert isinstance(message, Receipt)
    owed = pair.client.owed
    assert owed is not None
    assert owed.output_hash == decode_receipt_body(message.body).output_hash


def test_a_receipt_that_cannot_be_signed_leaves_nothing_owed() -> None:
    pair = Pair()
    message = decode_message(received(pair))
    assert isinstance(message, Receipt)
    body = dataclasses.replace(decode_receipt_body(message.body), price=1031).encode()
    pair.deliver_to_client(Receipt(pair.job_id, body, PROVIDER.sign(RECEIPT_DOMAIN, body), b"").encode())
    assert cancels(pair) == 1
    assert pair.client.owed is None
    assert not pair.effects_of(fx.MarkPaid)


def test_a_failure_after_the_work_began_costs_nothing() -> None:
    pair = Pair()
    receiving(pair)
    pair.deliver_to_client(Failure(pair.job_id, FailureCode.IDLE_POLICY, "the operator is back").encode())
    error = error_of(pair)
    assert error is not None
    assert (error.code, error.retryable) == ("IDLE_POLICY", True)
    assert pair.effects_of(fx.EndReservation) == [fx.EndReservation(outcome_known=True, job_failed=True)]


# --- what can be shown ----------------------------------------------------------------------------------------------


def test_input_and_output_of_a_finished_job_can_be_shown() -> None:
    pair = Pair()
    output, receipt = receiving(pair)
    sent = decode_message(pair.sent_input)
    assert isinstance(sent, Input)
    assert pair.client.transcript() is None
    pair.deliver_to_client(output)
    assert pair.client.transcript() is None, "complete jobs only"
    pair.deliver_to_client(receipt)
    shown = pair.client.transcript()
    assert shown is not None
    assert shown.secrets is not None
    body = decode_receipt_body(shown.receipt.body)
    header, response = shown.envelope_header, shown.response_header
    assert decode_envelope_header(header).commitment == shown.secrets.commitment
    sealed = shown.secrets.payload_sealer(header).seal(PAYLOAD, True)
    assert sealed == sent.ciphertext
    assert body.input_hash == hashlib.sha256(header + sealed).digest()
    answer = shown.secrets.response_sealer(header, response).seal(ANSWER, True)
    message = decode_message(output)
    assert isinstance(message, Output)
    assert answer == message.ciphertext
    assert body.output_hash == hashlib.sha256(response + answer).digest()


def test_a_transcript_shows_no_secret_in_its_text() -> None:
    pair = Pair()
    pair.whole_job()
    shown = pair.client.transcript()
    assert shown is not None
    assert shown.secrets is not None
    text = repr(shown) + repr(shown.secrets)
    for secret in (shown.secrets.payload, shown.secrets.response):
        assert repr(secret)[2:-1] not in text
        assert secret.hex() not in text
    assert "secrets=" not in repr(shown)
