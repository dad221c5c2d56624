"""Whom a quorum asks, and what it makes of answers; whole nodes are in tests/sim/test_sim_wrong_answers.py."""

from __future__ import annotations

from cocoon_p2p.drivers.quorum import spread
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.policy.selection import Candidate


def candidate(name: str, subnet: str = "") -> Candidate:
    return Candidate(PeerId(name), {Tier.SEALED: (1, 1)}, items_max=1, input_bytes_max=1, subnet=subnet)


def test_one_of_each_subnet_before_a_second_of_any() -> None:
    ranked = [
        candidate("a1", "a"),
        candidate("a2", "a"),
        candidate("b1", "b"),
        candidate("a3", "a"),
        candidate("b2", "b"),
    ]
    assert spread([*ranked, candidate("c1", "c")]) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_without_a_known_subnet_everybody_stands_alone() -> None:
    assert spread([candidate("x"), candidate("y"), candidate("z")]) == ["x", "y", "z"]
