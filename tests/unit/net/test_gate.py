"""The gate, the rates and the bans: what may come in, whatever the order in which it comes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.switch.bans import Bans
from cocoon_p2p.net.switch.gate import Gate, GateLimits, OriginLimits, Refusal
from cocoon_p2p.net.switch.origins import Origin, origin_of, origin_of_host

ALICE, BOB = PeerId("alice"), PeerId("bob")
HERE, THERE = Origin("public", "192.0.2.0/24"), Origin("public", "203.0.113.0/24")
ENDLESS = Rate(1e9, 1e9)
SMALL = GateLimits(
    of_origins={"public": OriginLimits(3, 2, ENDLESS, streams=5)},
    connections=5,
    connections_per_peer=2,
    handshakes=3,
    arrivals=ENDLESS,
    failures=Rate(1.0, 3.0),
    streams=7,
    streams_per_peer=4,
    openings=ENDLESS,
)


# --- origins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "kind", "name"),
    [
        ("8.8.4.7", "public", "8.8.4.0/24"),
        ("192.168.3.4", "private", "192.168.3.0/24"),
        ("127.0.0.1", "loopback", "127.0.0.1"),
        ("::1", "loopback", "::1"),
        ("2a01:4f8:1:2345:6789::1", "public", "2a01:4f8:1:2300::/56"),
        ("fd00::7", "private", "fd00::/56"),
        ("fe80::1%eth0", "private", "fe80::/56"),
        ("::ffff:8.8.4.7", "public", "8.8.4.0/24"),
    ],
)
def test_origins_of_hosts(host: str, kind: str, name: str) -> None:
    assert origin_of_host(host) == Origin(kind, name)  # type: ignore[arg-type]


def test_origins_of_addresses() -> None:
    relay = "12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP"
    assert origin_of("/ip4/8.8.4.4/tcp/1/ws") == Origin("public", "8.8.4.0/24")
    assert origin_of(f"/ip4/8.8.4.4/tcp/1/p2p/{relay}/p2p-circuit") == Origin("relay", relay)
    assert origin_of("/dns4/node.example/tcp/1") == Origin("public", "node.example")


# --- rates and bans --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 3), max_size=100), st.floats(0.1, 20), st.integers(1, 20))
def test_never_more_than_the_burst_and_what_has_flown_in(pauses: list[float], per_s: float, burst: int) -> None:
    buckets: Buckets[str] = Buckets(Rate(per_s, burst))
    now, taken = 100.0, 0
    for pause in pauses:
        now += pause
        taken += buckets.take("x", now)
        assert taken <= burst + (now - 100.0) * per_s + 1e-6
    assert taken >= min(len(pauses), burst)


def test_a_share_of_a_rate() -> None:
    buckets: Buckets[str] = Buckets(Rate(10.0, 8.0))
    assert sum(buckets.take("half", 0.0, share=0.5) for _ in range(20)) == 4
    assert sum(buckets.take("half", 1.0 + i / 100, share=0.5) for i in range(20)) in (4, 5)
    assert buckets.take("none", 0.0, share=0.01), "even the slowest get one"


def test_rates_forget_the_quietest() -> None:
    buckets: Buckets[int] = Buckets(Rate(0.0, 1.0), keys_max=3)
    for key in (1, 2, 3):
        assert buckets.take(key, 0.0)
    assert not buckets.take(1, 0.0)
    assert buckets.take(4, 0.0)
    assert len(buckets) == 3
    assert not buckets.take(1, 0.0), "it was heard of more recently than 2"
    assert buckets.take(2, 0.0)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    buckets: Buckets[str] = Buckets(Rate(1.0, 1.0))
    assert buckets.take("x", 10.0)
    assert not buckets.take("x", 5.0)


def test_bans_end() -> None:
    bans: Bans[str] = Bans()
    bans.ban("x", 10.0, 0.0)
    assert bans.holds("x", 9.9)
    assert bans.remaining_s("x", 4.0) == 6.0
    assert bans.current(4.0) == {"x": 6.0}
    assert not bans.holds("x", 10.0)
    assert len(bans) == 0
    bans.ban("x", 20.0, 10.0)
    bans.unban("x")
    bans.unban("nobody")
    assert not bans.holds("x", 11.0)


def test_bans_are_bounded() -> None:
    bans: Bans[int] = Bans(bans_max=3)
    for number in range(3):
        bans.ban(number, 10.0 + number, 0.0)
    bans.ban(3, 99.0, 0.0)
    assert sorted(bans.current(0.0)) == [1, 2, 3], "the one that ends first goes"
    bans.ban(4, 99.0, 11.5)
    assert sorted(bans.current(11.5)) == [2, 3, 4], "what has ended makes room"


# --- the gate --------------------------------------------------------------------------------------------------------


def test_arrivals_are_bounded_by_origin_and_in_all() -> None:
    gate = Gate(SMALL)
    assert [gate.admit_arrival(HERE, 0.0) for _ in range(3)] == [None, None, Refusal.ORIGIN_HANDSHAKES]
    gate.release_handshake(HERE)
    assert gate.admit_arrival(HERE, 0.0) is None
    gate.release_handshake(HERE)
    assert gate.admit_arrival(HERE, 0.0) is Refusal.ORIGIN_FULL
    assert gate.admit_arrival(THERE, 0.0) is None
    assert gate.admit_arrival(THERE, 0.0) is None
    assert gate.admit_arrival(Origin("public", "elsewhere"), 0.0) is Refusal.FULL
    gate.release_arrival(HERE)
    assert gate.admit_arrival(Origin("public", "elsewhere"), 0.0) is Refusal.HANDSHAKES


def test_arrivals_have_a_rate() -> None:
    few = OriginLimits(1000, 1000, Rate(1.0, 2.0))
    gate = Gate(replace(SMALL, of_origins={"public": few}, handshakes=1000, connections=1000, arrivals=Rate(1.0, 3.0)))
    assert [gate.admit_arrival(HERE, 0.0) for _ in range(3)] == [None, None, Refusal.ORIGIN_RATE]
    assert [gate.admit_arrival(THERE, 0.0) for _ in range(2)] == [None, Refusal.RATE]
    assert gate.admit_arrival(HERE, 2.0) is None


def test_peers_are_bounded_and_banned() -> None:
    gate = Gate(SMALL)
    assert [gate.admit_inbound(ALICE, 0.0) for _ in range(3)] == [None, None, Refusal.PEER_FULL]
    gate.banned_peers.ban(BOB, 10.0, 0.0)
    assert gate.admit_inbound(BOB, 9.0) is Refusal.PEER_BANNED
    assert gate.admit_outbound(BOB, 10.0) is None
    assert gate.connections == 1
    gate.release_peer(ALICE)
    assert gate.admit_outbound(ALICE, 0.0) is None
    gate.release_outbound(ALICE)
    gate.release_outbound(BOB)
    assert gate.connections == 0


def test_too_many_failures_ban_a_subnet_for_a_while() -> None:
    gate = Gate(replace(SMALL, subnet_ban_s=60.0))
    assert [gate.note_failure(HERE, 0.0) for _ in range(4)] == [False, False, False, True]
    assert gate.admit_arrival(HERE, 1.0) is Refusal.ORIGIN_BANNED
    assert gate.admit_arrival(THERE, 1.0) is None
    assert gate.admit_arrival(HERE, 61.0) is None


def test_loopback_is_never_banned() -> None:
    gate = Gate()
    here = origin_of_host("127.0.0.1")
    assert not any(gate.note_failure(here, 0.0) for _ in range(10_000))
    assert gate.admit_arrival(here, 0.0) is None


def test_a_testnet_on_one_address_has_room() -> None:
    """40 nodes that all connect to one at the same moment, and then twice more."""
    gate, here = Gate(), origin_of_host("127.0.0.1")
    for _ in range(3):
        assert [gate.admit_arrival(here, 0.0) for _ in range(40)] == [None] * 40
        for _ in range(40):
            gate.release_handshake(here)


def test_a_slowed_peer_has_less() -> None:
    gate = Gate(replace(SMALL, pings=Rate(1.0, 8.0), refusals=Rate(1.0, 8.0)))
    gate.slow(ALICE, 0.5, until=10.0)
    assert [gate.admit_stream(ALICE, HERE, 0.0) for _ in range(3)] == [None, None, Refusal.STREAMS_OF_PEER_FULL]
    assert sum(gate.allows_ping(ALICE, 0.0) for _ in range(20)) == 4
    assert sum(gate.allows_refusal(ALICE, 0.0) for _ in range(20)) == 4
    assert sum(gate.allows_ping(BOB, 0.0) for _ in range(20)) == 8
    assert gate.share(ALICE, 9.9) == 0.5
    assert gate.admit_stream(ALICE, HERE, 10.0) is None, "it ends by itself"


def test_streams_have_a_rate_and_bounds() -> None:
    gate = Gate(SMALL)
    assert [gate.admit_stream(ALICE, HERE, 0.0) for _ in range(5)] == [None] * 4 + [Refusal.STREAMS_OF_PEER_FULL]
    assert gate.admit_stream(BOB, HERE, 0.0) is None
    assert gate.admit_stream(BOB, HERE, 0.0) is Refusal.STREAMS_OF_ORIGIN_FULL
    assert [gate.admit_stream(BOB, THERE, 0.0) for _ in range(3)] == [None, None, Refusal.STREAMS_FULL]
    quick = Gate(replace(SMALL, openings=Rate(1.0, 2.0)))
    assert [quick.admit_stream(ALICE, HERE, 0.0) for _ in range(3)] == [None, None, Refusal.STREAM_RATE]


def test_reports_of_one_peer_are_thinned_out() -> None:
    gate = Gate()
    passed = sum(gate.allows_report(ALICE, 0.0) for _ in range(1000))
    assert passed == limits.MISBEHAVIOURS_PER_PEER_BURST
    assert gate.allows_report(BOB, 0.0)


class GateMachine(RuleBasedStateMachine):
    """Connections and streams come and go in any order: no bound is passed, nothing is refused without a reason, and
    when all have gone nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate(SMALL)
        self.shaking: list[Origin] = []
        self.sockets: list[Origin] = []
        self.inbound: list[PeerId] = []
        self.outbound: list[PeerId] = []
        self.streams: list[tuple[PeerId, Origin]] = []

    @rule(origin=st.sampled_from([HERE, THERE]))
    def arrive(self, origin: Origin) -> None:
        full = (
            self.sockets.count(origin) >= 3
            or self.shaking.count(origin) >= 2
            or len(self.sockets) + len(self.outbound) >= 5
            or len(self.shaking) >= 3
        )
        refused = self.gate.admit_arrival(origin, 0.0) is not None
        assert refused == full
        if not refused:
            self.sockets.append(origin)
            self.shaking.append(origin)

    @precondition(lambda self: self.shaking)
    @rule(peer=st.sampled_from([ALICE, BOB]), leaves=st.booleans())
    def finish_handshake(self, peer: PeerId, leaves: bool) -> None:
        origin = self.shaking.pop()
        self.gate.release_handshake(origin)
        full = (self.inbound + self.outbound).count(peer) >= 2
        if not leaves:
            refused = self.gate.admit_inbound(peer, 0.0) is not None
            assert refused == full
            if not refused:
                self.inbound.append(peer)
                self.gate.release_peer(self.inbound.pop(0)) if len(self.inbound) > 2 else None
        self.sockets.remove(origin)
        self.gate.release_arrival(origin)

    @rule(peer=st.sampled_from([ALICE, BOB]))
    def dial(self, peer: PeerId) -> None:
        full = (self.inbound + self.outbound).count(peer) >= 2 or len(self.sockets) + len(self.outbound) >= 5
        refused = self.gate.admit_outbound(peer, 0.0) is not None
        assert refused == full
        if not refused:
            self.outbound.append(peer)

    @precondition(lambda self: self.outbound)
    @rule()
    def hang_up(self) -> None:
        self.gate.release_outbound(self.outbound.pop())

    @rule(peer=st.sampled_from([ALICE, BOB]), origin=st.sampled_from([HERE, THERE]))
    def open(self, peer: PeerId, origin: Origin) -> None:
        peers, origins = Counter(p for p, _ in self.streams), Counter(o for _, o in self.streams)
        full = peers[peer] >= 4 or origins[origin] >= 5 or len(self.streams) >= 7
        refused = self.gate.admit_stream(peer, origin, 0.0) is not None
        assert refused == full
        if not refused:
            self.streams.append((peer, origin))

    @precondition(lambda self: self.streams)
    @rule()
    def close(self) -> None:
        self.gate.release_stream(*self.streams.pop(0))

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.gate.connections == len(self.sockets) + len(self.outbound)
        assert self.gate.streams == len(self.streams)
        assert not any(count < 0 for count in self.gate.places().values())

    def teardown(self) -> None:
        for origin in self.shaking:
            self.gate.release_handshake(origin)
        for origin in self.sockets:
            self.gate.release_arrival(origin)
        for peer in self.inbound:
            self.gate.release_peer(peer)
        for peer in self.outbound:
            self.gate.release_outbound(peer)
        for stream in self.streams:
            self.gate.release_stream(*stream)
        assert not any(self.gate.places().values())


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
