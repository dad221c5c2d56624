from __future__ import annotations

from dataclasses import replace

import pytest

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import Tier
from cocoon_p2p.policy.admission import Admitted, JobFacts, ModelFacts, PeerFacts, ProviderFacts, Refused, admit

JOB = JobFacts(Tier.SEALED, items=8, input_bytes=1000, max_total=500, price_total=500, settlement_network=0)
MODEL = ModelFacts("minilm", frozenset({Tier.SEALED}), items_max=8, input_bytes_max=1000)
NODE = ProviderFacts(
    shutting_down=False,
    rests=None,
    networks=frozenset({0}),
    jobs=9,
    jobs_max=10,
    bytes_in_flight=9000,
    bytes_in_flight_max=10_000,
    queue_ms=40,
)
RESTS = Refused(RefusalReason.IDLE_POLICY, "mine now", 7)
LOST = Refused(RefusalReason.STANDING, "threw too much away", 8)
PEER = PeerFacts(jobs=3, jobs_max=4, banned=False)


def test_what_just_fits() -> None:
    assert admit(JOB, MODEL, NODE, PEER) == Admitted()
    assert admit(replace(JOB, max_total=0), MODEL, NODE, PEER) == Admitted(), "0 means no limit"
    for instalment in (16, 1024):
        assert admit(replace(JOB, instalment=instalment), replace(MODEL, streams=True), NODE, PEER) == Admitted()


@pytest.mark.parametrize(
    ("facts", "reason", "needed"),
    [
        ((JOB, MODEL, replace(NODE, shutting_down=True), PEER), RefusalReason.SHUTTING_DOWN, None),
        ((JOB, MODEL, NODE, replace(PEER, banned=True)), RefusalReason.STANDING, None),
        ((JOB, MODEL, replace(NODE, rests=RESTS), PEER), RefusalReason.IDLE_POLICY, 7),
        ((JOB, MODEL, NODE, replace(PEER, lost_standing=LOST)), RefusalReason.STANDING, 8),
        ((JOB, MODEL, replace(NODE, rests=RESTS), replace(PEER, lost_standing=LOST)), RefusalReason.STANDING, 8),
        ((JOB, None, replace(NODE, rests=RESTS), PEER), RefusalReason.NO_MODEL, None),
        ((JOB, None, NODE, PEER), RefusalReason.NO_MODEL, None),
        ((replace(JOB, tier=Tier.OPEN), MODEL, NODE, PEER), RefusalReason.TIER, None),
        ((replace(JOB, tier=77), MODEL, NODE, PEER), RefusalReason.TIER, None),
        ((replace(JOB, items=9), MODEL, NODE, PEER), RefusalReason.LIMITS, 8),
        ((replace(JOB, items=0), MODEL, NODE, PEER), RefusalReason.LIMITS, 8),
        ((replace(JOB, input_bytes=1001), MODEL, NODE, PEER), RefusalReason.LIMITS, 1000),
        ((JOB, MODEL, replace(NODE, bytes_in_flight=0, bytes_in_flight_max=999), PEER), RefusalReason.LIMITS, 999),
        ((replace(JOB, instalment=64), MODEL, NODE, PEER), RefusalReason.LIMITS, 0),
        ((JOB, replace(MODEL, streams=True), NODE, PEER), RefusalReason.LIMITS, 16),
        ((replace(JOB, instalment=15), replace(MODEL, streams=True), NODE, PEER), RefusalReason.LIMITS, 16),
        ((replace(JOB, instalment=1025), replace(MODEL, streams=True), NODE, PEER), RefusalReason.LIMITS, 1024),
        ((replace(JOB, max_total=0, price_total=2**63), MODEL, NODE, PEER), RefusalReason.LIMITS, None),
        ((replace(JOB, settlement_network=-3), MODEL, NODE, PEER), RefusalReason.PAYMENT, None),
        ((replace(JOB, price_total=501), MODEL, NODE, PEER), RefusalReason.PRICE, 501),
        ((JOB, MODEL, NODE, replace(PEER, jobs=4)), RefusalReason.BUSY, 40),
        ((JOB, MODEL, replace(NODE, jobs=10), PEER), RefusalReason.BUSY, 40),
        ((JOB, MODEL, replace(NODE, bytes_in_flight=9001), PEER), RefusalReason.BUSY, 40),
        ((JOB, MODEL, replace(NODE, jobs=10, queue_ms=0), PEER), RefusalReason.BUSY, 1),
    ],
)
def test_refusals_say_what_would_do(
    facts: tuple[JobFacts, ModelFacts | None, ProviderFacts, PeerFacts], reason: RefusalReason, needed: int | None
) -> None:
    decision = admit(*facts)
    assert isinstance(decision, Refused)
    assert (decision.reason, decision.needed) == (reason, needed)
    assert decision.detail


def test_what_waiting_would_not_mend_is_said_first() -> None:
    decision = admit(replace(JOB, items=9), MODEL, replace(NODE, jobs=10), PEER)
    assert isinstance(decision, Refused)
    assert decision.reason is RefusalReason.LIMITS
