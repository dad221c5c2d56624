from __future__ import annotations

import pytest

from cocoon_p2p.errors import (
    CocoonError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    RemoteProtocolError,
    SettlementError,
    TransportError,
)
from cocoon_p2p.limits import JOB_ATTEMPTS_MAX, QUESTION_ROUNDS_MAX
from cocoon_p2p.policy.retry import AttemptFacts, counter_offer, is_retryable, may_retry


@pytest.mark.parametrize(
    ("facts", "retry"),
    [
        (AttemptFacts(1, True), True),
        (AttemptFacts(JOB_ATTEMPTS_MAX - 1, True), True),
        (AttemptFacts(JOB_ATTEMPTS_MAX, True), False),
        (AttemptFacts(1, False), False),
        (AttemptFacts(1, True, in_time=False), False),
        (AttemptFacts(0, True, questions=JOB_ATTEMPTS_MAX), True),
        (AttemptFacts(0, True, questions=QUESTION_ROUNDS_MAX - 1), True),
        (AttemptFacts(0, True, questions=QUESTION_ROUNDS_MAX), False),
    ],
)
def test_whether_to_go_on(facts: AttemptFacts, retry: bool) -> None:
    assert may_retry(facts) is retry


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (TransportError("gone", outcome_known=False), True),
        (PeerRefused(RefusalReason.BUSY, "full"), True),
        (RemoteProtocolError("nonsense", code="MALFORMED"), True),
        (ExecutionError("x must be float32", code="INPUT"), False),
        (ExecutionError("killed", code="WORKER", retryable=True), True),
        (SettlementError("nothing left", code="BALANCE"), False),
        (CocoonError("cancelled", code="CANCELLED"), False),
    ],
)
def test_what_another_provider_may_do_better(error: CocoonError, retryable: bool) -> None:
    assert is_retryable(error) is retryable


@pytest.mark.parametrize(
    ("error", "limit", "refused", "price"),
    [
        (PeerRefused(RefusalReason.PRICE, "dearer now", needed=120), 200, None, 120),
        (PeerRefused(RefusalReason.PRICE, "dearer now", needed=120), None, None, 120),
        (PeerRefused(RefusalReason.PRICE, "dearer now", needed=120), 119, None, None),
        (PeerRefused(RefusalReason.PRICE, "dearer now", needed=120), 200, 120, None),
        (PeerRefused(RefusalReason.PRICE, "and dearer", needed=150), 200, 120, 150),
        (PeerRefused(RefusalReason.PRICE, "no number"), 200, None, None),
        (PeerRefused(RefusalReason.BUSY, "full", needed=120), 200, None, None),
        (TransportError("gone", outcome_known=True), 200, None, None),
    ],
)
def test_counter_offers(error: CocoonError, limit: int | None, refused: int | None, price: int | None) -> None:
    assert counter_offer(error, limit, refused) == price
