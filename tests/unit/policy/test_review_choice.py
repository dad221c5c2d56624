"""A price of nothing must not buy what reliability is for."""

from __future__ import annotations

import random

import pytest

from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.preference import PREFERENCES
from cocoon_p2p.policy.selection import Candidate, Wanted, select

WANTED = Wanted(Tier.SEALED, 1, 64)


def provider(name: str, price: int, reliability: float, number: int) -> Candidate:
    return Candidate(
        PeerId(f"{name}{number}"), {Tier.SEALED: (price, 0)}, 10, 10**6,
        reliability=reliability, tries=50, subnet=f"{name}{number}", expected_ms=100.0,
    )  # fmt: skip


@pytest.mark.parametrize("prefer", PREFERENCES)
def test_who_fails_every_job_for_nothing_gets_none(prefer: str) -> None:
    honest = [provider("honest", 100_000, 0.98, number) for number in range(5)]
    free = [provider("free", 0, 0.02, number) for number in range(20)]
    rng = random.Random(prefer)
    for _ in range(200):
        chosen = select(WANTED, [*free, *honest], count=3, rng=rng, prefer=PREFERENCES[prefer]).chosen
        assert len(chosen) == 3
        assert all(candidate in honest for candidate in chosen)


def test_where_nobody_else_is_left_they_are_asked_all_the_same() -> None:
    honest, free = provider("honest", 100, 0.98, 0), [provider("free", 0, 0.02, number) for number in range(3)]
    rng = random.Random(1)
    assert len(select(WANTED, free, count=3, rng=rng).chosen) == 3
    chosen = select(WANTED, [*free, honest], count=3, rng=rng, at_least=2).chosen
    assert chosen[0] == honest
    assert len(chosen) == 2
