"""Which clock is wrong, as far as can be known."""

from __future__ import annotations

import hashlib

import pytest

from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.limits import CLOCKS_COMPARED_MAX
from cocoon_p2p.policy.clock_comparison import ClockComparison

PEERS = [peer_id_from_public_key(hashlib.sha256(b"clock %d" % i).digest()) for i in range(300)]


def test_each_peer_is_warned_of_once() -> None:
    clocks = ClockComparison()
    warning = clocks.differs(PEERS[0], 3600.0)
    assert warning is not None
    assert f"of this machine and of peer {PEERS[0]} differ by 3600 s (it is ahead of ours)" in warning
    assert clocks.differs(PEERS[0], 3601.0) is None
    clocks.agrees(PEERS[0])
    assert "behind" in (clocks.differs(PEERS[0], -70.0) or "")


def test_one_or_two_do_not_say_that_we_are_wrong() -> None:
    clocks = ClockComparison()
    for peer in PEERS[:2]:
        clocks.differs(peer, 100.0)
    assert clocks.own_error_s() is None
    clocks.agrees(PEERS[2])
    clocks.agrees(PEERS[3])
    assert clocks.own_error_s() is None
    assert clocks.counts() == (2, 4)
    assert clocks.advice() == ""


def test_most_others_decide() -> None:
    clocks = ClockComparison()
    for peer, offset in zip(PEERS, (99.0, 100.0, 7e9), strict=False):
        clocks.differs(peer, offset)
    clocks.agrees(PEERS[5])
    assert clocks.own_error_s() == pytest.approx(100.0)
    assert "100 s slow" in clocks.advice()


def test_memory_is_bounded() -> None:
    clocks = ClockComparison()
    for peer in PEERS:
        clocks.agrees(peer)
    assert clocks.counts() == (0, CLOCKS_COMPARED_MAX)
