"""How long a provider has before a second one gets the job."""

from __future__ import annotations

import pytest

from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.backup import backup_delay_s
from cocoon_p2p.policy.selection import Candidate, Wanted

WANTED = Wanted(Tier.SEALED, items=10, input_bytes=0)


def candidate(**known: object) -> Candidate:
    return Candidate(PeerId("p"), {Tier.SEALED: (1, 1)}, 100, 1000, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "delay_s"),
    [
        ({}, 1.0),
        ({"queue_ms": 300}, 1.3),
        ({"item_us": 40_000, "latency_ms": 100.0}, 1.0),
        ({"item_us": 40_000}, 1.0),
        ({"item_us": 40_000, "latency_ms": 100.0, "expected_ms": 200.0}, 0.3),
        ({"item_us": 40_000, "expected_ms": 200.0, "queue_ms": 500, "in_flight": 2}, 0.3 + 0.5 + 0.8),
        ({"expected_ms": 0.5}, 0.02),
        ({"expected_ms": 0.5, "queue_ms": 100}, 0.12),
    ],
)
def test_the_delay(known: dict[str, object], delay_s: float) -> None:
    assert backup_delay_s(WANTED, candidate(**known)) == pytest.approx(delay_s)


def test_a_large_input_needs_its_time_on_the_line() -> None:
    large = Wanted(Tier.SEALED, items=1, input_bytes=125_000_000)
    assert backup_delay_s(large, candidate(expected_ms=20.0)) == pytest.approx(10.03)
