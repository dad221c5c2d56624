"""job/1 at the provider's end: submissions at announced prices, and prices by tier."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

import pytest
from job_pair import CLIENT, MODEL, PAYLOAD, PROVIDER, UNIX_MS, make_desk
from provider_scene import JOB_ID, Scene, announce, terms_of

from cocoon_p2p import limits
from cocoon_p2p.errors import RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto import job_effects as fx
from cocoon_p2p.wire.capacity import Unit
from cocoon_p2p.wire.job import (
    Ask,
    Failure,
    FailureCode,
    OutputHead,
    Quote,
    Receipt,
    Submit,
    decode_quote_body,
    decode_receipt_body,
    quote_hash,
)

# --- SUBMIT ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", [Tier.SEALED, Tier.OPEN])
def test_a_submission_passes_to_the_receipt_in_one_go(tier: Tier) -> None:
    scene = Scene()
    terms = terms_of(tier)
    scene.submit(terms)
    assert scene.effects == [fx.TakePayment(JOB_ID, b"payment", 1030)]
    assert scene.desk.running == 1
    scene.pay()
    (begun,) = scene.of(fx.BeginInput)
    assert begun.header == scene.header
    scene.give_input()
    scene.execute()
    (output,) = scene.of(fx.SendOutput)
    (head,) = scene.sent(OutputHead)
    assert output.header == head.response_header
    scene.return_output()
    (receipt,) = scene.sent(Receipt)
    body = decode_receipt_body(receipt.body)
    assert body.quote_hash == quote_hash(terms.encode())
    assert (body.price, body.items, body.tier) == (1030, 3, tier)
    assert body.input_hash == hashlib.sha256(scene.header + scene.ciphertext).digest()
    assert scene.desk.running == 0
    assert scene.session.jobs() == {}


@pytest.mark.parametrize(
    ("base", "per_item", "taken"),
    [
        (1000, 10, True),
        (1000, 11, True),
        (1001, 9, False),  # 1010 for one item, but 1028 for three
        (999, 12, True),  # 1011 for one item, 1035 for three
        (990, 15, False),  # 1035 for three items, but 1005 for one
        (0, 0, False),
    ],
)
def test_present_prices_are_taken_and_lower_ones_countered(base: int, per_item: int, taken: bool) -> None:
    scene = Scene()
    scene.submit(terms_of(base=base, per_item=per_item))
    if taken:
        assert scene.of(fx.TakePayment)
        return
    refusal = scene.refusal()
    assert (refusal.reason, refusal.needed, refusal.model_id) == (RefusalReason.PRICE, 1030, MODEL)
    assert not scene.of(fx.Penalise)
    assert scene.session.jobs() == {}
    scene.hear(Ask(JOB_ID, MODEL, Tier.SEALED, 3, len(PAYLOAD), 1030, 1000, 0))
    assert scene.sent(Quote), "the same id may be asked for after a refusal"


def test_an_announced_price_is_firm_until_it_has_expired_and_a_while_longer() -> None:
    grace_ms = int(limits.FIRM_GRACE_S * 1000)
    for at_ms, taken in ((0, True), (60_000, True), (60_000 + grace_ms, True), (60_001 + grace_ms, False)):
        scene = Scene(unix_ms=UNIX_MS + at_ms)
        announce(scene.desk, 500, 5, expires_at_ms=UNIX_MS + 60_000)
        announce(scene.desk, 700, 7, expires_at_ms=UNIX_MS + 1)
        scene.submit(terms_of(base=500, per_item=5))
        assert bool(scene.of(fx.TakePayment)) is taken, at_ms


def test_the_same_price_announced_again_holds_longer_and_never_shorter() -> None:
    scene = Scene(unix_ms=UNIX_MS + 100_000)
    announce(scene.desk, 500, 5, expires_at_ms=UNIX_MS + 100_000)
    announce(scene.desk, 500, 5, expires_at_ms=UNIX_MS + 1)
    scene.submit(terms_of(base=500, per_item=5))
    assert scene.of(fx.TakePayment)


def test_a_price_that_binds_nobody() -> None:
    """Another model's, another tier's, another unit's, and one below all that was promised."""
    for terms in (
        terms_of(Tier.OPEN, base=500, per_item=5),
        terms_of(base=500, per_item=4),
        terms_of(base=300, per_item=3),
    ):
        scene = Scene()
        announce(scene.desk, 500, 5, expires_at_ms=UNIX_MS + 60_000)
        announce(scene.desk, 300, 3, expires_at_ms=UNIX_MS + 60_000, unit=Unit.TOKEN)
        scene.submit(terms)
        assert scene.refusal().reason is RefusalReason.PRICE


def test_remembered_prices_are_bounded() -> None:
    desk = make_desk()
    for base in range(limits.FIRM_PRICES_MAX + 3):
        announce(desk, base, 0, expires_at_ms=UNIX_MS + 60_000)
    assert len(desk._firm) == limits.FIRM_PRICES_MAX
    assert not desk._firm.covers(terms_of(base=2, per_item=0), UNIX_MS)
    assert desk._firm.covers(terms_of(base=3, per_item=0), UNIX_MS)
    assert not desk._firm.covers(terms_of(base=3, per_item=0), UNIX_MS + 70_001)
    assert len(desk._firm) == 0


@pytest.mark.parametrize(
    ("change", "terms", "reason", "needed"),
    [
        ({"open_to_jobs": False}, {}, RefusalReason.SHUTTING_DOWN, None),
        ({"models": {}}, {}, RefusalReason.NO_MODEL, None),
        ({"tiers": frozenset({Tier.OPEN})}, {}, RefusalReason.TIER, None),
        ({}, {"items": 101, "max_total": 2010}, RefusalReason.LIMITS, 100),
        ({}, {"input_bytes": 10_001}, RefusalReason.LIMITS, 10_000),
        ({}, {"input_bytes": limits.FIRM_INPUT_BYTES_MAX + 1}, RefusalReason.LIMITS, limits.FIRM_INPUT_BYTES_MAX),
        ({}, {"input_bytes": 63}, RefusalReason.LIMITS, 64),
        ({}, {"settlement_network": -3}, RefusalReason.PAYMENT, None),
        ({"slots": 0}, {}, RefusalReason.BUSY, 1),
        ({"rests": Refused(RefusalReason.IDLE_POLICY, "mine now", 77)}, {}, RefusalReason.IDLE_POLICY, 77),
    ],
)
def test_a_submission_is_admitted_as_a_question_is(
    change: dict[str, object], terms: dict[str, object], reason: RefusalReason, needed: int | None
) -> None:
    scene = Scene()
    for name, value in change.items():
        setattr(scene.desk, name, value)
    scene.submit(terms_of(**terms))  # type: ignore[arg-type]
    refusal = scene.refusal()
    assert (refusal.reason, refusal.needed) == (reason, needed)
    assert not scene.of(fx.Penalise)
    assert scene.desk.running == 0


def test_a_price_that_is_too_low_is_said_before_that_no_slot_is_free() -> None:
    scene = Scene(make_desk(slots=0))
    scene.submit(terms_of(base=1))
    assert scene.refusal().reason is RefusalReason.PRICE


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": CLIENT.peer_id},
        {"client": PROVIDER.peer_id},
        {"job_id": JobId(b"k" * 16)},
        {"max_total": 1031},
        {"queue_ms": 1},
        {"payee_key": bytes(32)},
        {"seal_key_record": b"x"},
    ],
)
def test_terms_that_no_client_may_write_end_the_job(changes: dict[str, object]) -> None:
    scene = Scene()
    message = scene.submission(terms_of(**changes))  # type: ignore[arg-type]
    scene.hear(dataclasses.replace(message, job_id=JOB_ID))
    assert scene.of(fx.Penalise) == [fx.Penalise(Fault.BAD_QUOTE)]
    (failure,) = scene.sent(Failure)
    assert isinstance(failure, Failure)
    assert (failure.job_id, failure.code) == (JOB_ID, FailureCode.ENVELOPE)
    assert scene.session.jobs() == {}
    assert not scene.of(fx.TakePayment)


def test_terms_that_are_garbage_end_the_stream() -> None:
    scene = Scene()
    with pytest.raises(RemoteProtocolError) as caught:
        scene.hear(dataclasses.replace(scene.submission(terms_of()), terms=b"\x93\x01\x02\x03"))
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize("tier", [Tier.SEALED, Tier.OPEN])
def test_a_header_that_commits_to_other_secrets_ends_the_job(tier: Tier) -> None:
    """Whoever could do that could show another input than he sent, and accuse the provider with it."""
    scene = Scene()
    terms = terms_of(tier=tier)
    header, box = scene.sealed(terms, commitment=bytes(31) + b"\1")
    scene.hear(Submit(terms.job_id, terms.encode(), 60_000, b"payment", header, box))
    scene.pay()
    assert scene.of(fx.Penalise) == [fx.Penalise(Fault.BAD_ENVELOPE)]
    (failure,) = scene.sent(Failure)
    assert failure.code is FailureCode.ENVELOPE
    assert scene.of(fx.BeginInput) == []


def test_a_header_of_other_terms_ends_the_job() -> None:
    scene = Scene()
    other = scene.submission(terms_of(base=999))
    scene.hear(dataclasses.replace(other, terms=terms_of().encode()))
    assert scene.of(fx.Penalise) == [fx.Penalise(Fault.BAD_ENVELOPE)]
    assert len(scene.sent(Failure)) == 1


def test_a_seal_key_that_is_not_in_use_any_more_is_no_fault() -> None:
    scene = Scene()
    message = scene.submission(terms_of())
    scene.desk.seal_keys = make_desk().seal_keys
    scene.hear(message)
    assert scene.refusal().reason is RefusalReason.QUOTE_EXPIRED
    assert not scene.of(fx.Penalise)
    assert not scene.of(fx.TakePayment)


@pytest.mark.parametrize("stage", [Scene.submit, Scene.executing, Scene.done])
def test_an_id_that_is_in_use_or_done_ends_the_stream(stage: Callable[[Scene], None]) -> None:
    scene = Scene()
    stage(scene)
    with pytest.raises(RemoteProtocolError) as caught:
        scene.submit()
    assert caught.value.code == "UNEXPECTED"


def test_a_submission_that_is_not_covered_by_credit_is_refused() -> None:
    scene = Scene()
    scene.submit()
    scene.take(scene.session.payment_refused(JOB_ID, "no credit", 5, unix_ms=UNIX_MS))
    assert (scene.refusal().reason, scene.refusal().needed) == (RefusalReason.PAYMENT, 5)
    assert scene.of(fx.ReleasePayment)
    assert scene.desk.running == 0


# --- prices by tier -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "base", "per_item"), [(100, 1000, 10), (55, 550, 6), (0, 0, 0), (1000, 10_000, 100)]
)
def test_open_jobs_have_their_own_price(percent: int, base: int, per_item: int) -> None:
    scene = Scene()
    scene.desk.open_percent = percent
    for tier, expected in ((Tier.OPEN, (base, per_item, base + 3 * per_item)), (Tier.SEALED, (1000, 10, 1030))):
        scene.effects.clear()
        scene.hear(Ask(JobId(bytes([tier]) * 16), MODEL, tier, 3, len(PAYLOAD), 0, 1000, 0))
        (quote,) = scene.sent(Quote)
        body = decode_quote_body(quote.body)
        assert (body.price_base, body.price_per_item, body.max_total) == expected
