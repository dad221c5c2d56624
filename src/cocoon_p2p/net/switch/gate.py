"""The gate: who may come in, and how much each may have. It counts and decides; it does no IO and reads no clock.

An inbound connection takes a place of its origin (origins.py) when its socket is accepted, a place among the handshakes
until it has proven who it is, and then one of its peer. Streams take places of their peer. Whatever is taken is given back;
rates (net/rates.py) are not. A refusal is the name of the counter that tells of it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from cocoon_p2p import limits
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.switch.bans import Bans
from cocoon_p2p.net.switch.origins import Origin, OriginKind

Key = TypeVar("Key", Origin, PeerId)


class Refusal(StrEnum):
    """Why something was refused; the value is the name of its counter."""

    ORIGIN_BANNED = "inbound_refused_banned_subnet"
    ORIGIN_RATE = "inbound_refused_subnet_rate"
    ORIGIN_HANDSHAKES = "inbound_refused_subnet_handshakes"
    ORIGIN_FULL = "inbound_refused_subnet_full"
    RATE = "inbound_refused_rate"
    HANDSHAKES = "inbound_refused_handshakes"
    FULL = "inbound_refused_full"
    PEER_BANNED = "connection_refused_banned"
    PEER_FULL = "connection_refused_peer_full"
    ALL_FULL = "connection_refused_full"
    STREAM_RATE = "stream_refused_rate"
    STREAMS_FULL = "stream_refused_full"
    STREAMS_OF_PEER_FULL = "stream_refused_peer_full"
    STREAMS_OF_ORIGIN_FULL = "stream_refused_subnet_full"


@dataclass(frozen=True, slots=True)
class OriginLimits:
    """What one origin may have."""

    connections: int
    handshakes: int
    arrivals: Rate
    streams: int = limits.STREAMS_MAX
    bannable: bool = True


_OF_ORIGINS: Mapping[OriginKind, OriginLimits] = MappingProxyType(
    {
        "public": OriginLimits(
            limits.CONNECTIONS_PER_SUBNET_MAX,
            limits.HANDSHAKES_PER_SUBNET_MAX,
            Rate(limits.ARRIVALS_PER_SUBNET_S, limits.ARRIVALS_PER_SUBNET_BURST),
            limits.STREAMS_PER_SUBNET_MAX,
        ),
        "private": OriginLimits(
            limits.CONNECTIONS_PER_PRIVATE_SUBNET_MAX,
            limits.HANDSHAKES_PER_SUBNET_MAX,
            Rate(limits.ARRIVALS_PER_PRIVATE_SUBNET_S, limits.ARRIVALS_PER_PRIVATE_SUBNET_BURST),
        ),
        "loopback": OriginLimits(
            limits.CONNECTIONS_FROM_LOOPBACK_MAX,
            limits.HANDSHAKES_FROM_LOOPBACK_MAX,
            Rate(limits.ARRIVALS_FROM_LOOPBACK_S, limits.ARRIVALS_FROM_LOOPBACK_BURST),
            bannable=False,  # all nodes of a testnet come from one address
        ),
        "relay": OriginLimits(
            limits.CONNECTIONS_PER_RELAY_MAX,
            limits.HANDSHAKES_PER_ADDRESS_MAX,
            Rate(limits.ARRIVALS_PER_SUBNET_S, limits.ARRIVALS_PER_SUBNET_BURST),
            bannable=False,  # one stranger behind it would take away how all others reach us
        ),
    }
)


@dataclass(frozen=True, slots=True)
class GateLimits:
    """limits/, in a form that one node can have otherwise."""

    of_origins: Mapping[OriginKind, OriginLimits] = field(default_factory=lambda: _OF_ORIGINS)
    connections: int = limits.CONNECTIONS_MAX
    connections_per_peer: int = limits.CONNECTIONS_PER_PEER_MAX
    handshakes: int = limits.HANDSHAKES_MAX
    arrivals: Rate = field(default=Rate(limits.ARRIVALS_S, limits.ARRIVALS_BURST))
    failures: Rate = field(
        default=Rate(limits.HANDSHAKE_FAILURES_PER_SUBNET_S, limits.HANDSHAKE_FAILURES_PER_SUBNET_BURST)
    )
    subnet_ban_s: float = limits.SUBNET_BAN_S
    streams: int = limits.STREAMS_MAX
    streams_per_peer: int = limits.STREAMS_OF_PEER_MAX
    openings: Rate = field(default=Rate(limits.STREAM_OPENINGS_PER_PEER_S, limits.STREAM_OPENINGS_PER_PEER_BURST))
    refusals: Rate = field(default=Rate(limits.REFUSED_STREAMS_PER_PEER_S, limits.REFUSED_STREAMS_PER_PEER_BURST))
    pings: Rate = field(default=Rate(limits.PINGS_PER_PEER_S, limits.PINGS_PER_PEER_BURST))
    reports: Rate = field(default=Rate(limits.MISBEHAVIOURS_PER_PEER_S, limits.MISBEHAVIOURS_PER_PEER_BURST))


class Gate:
    """The places of one node. Every `admit_…` that returns None took a place, which its `release_…` gives back."""

    def __init__(self, gate_limits: GateLimits | None = None) -> None:
        self.limits = gate_limits or GateLimits()
        self.banned_peers: Bans[PeerId] = Bans()
        self.banned_origins: Bans[Origin] = Bans()
        self.connections = 0
        """Inbound ones from their arrival on, outbound ones from their handshake's end on."""
        self.streams = 0
        self._handshakes_in_all = 0
        self._sockets: Counter[Origin] = Counter()
        self._handshakes: Counter[Origin] = Counter()
        self._connections: Counter[PeerId] = Counter()
        self._streams: Counter[PeerId] = Counter()
        self._streams_of_origins: Counter[Origin] = Counter()
        self._slowed: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()
        self._forget_rates()

    def set_limits(self, gate_limits: GateLimits) -> None:
        """From now on; whoever has more keeps it."""
        self.limits = gate_limits
        self._forget_rates()

    def _forget_rates(self) -> None:
        self._arrivals: Buckets[Origin] = Buckets(self.limits.arrivals)
        self._arrivals_in_all: Buckets[None] = Buckets(self.limits.arrivals)
        self._failures: Buckets[Origin] = Buckets(self.limits.failures)
        self._openings: Buckets[PeerId] = Buckets(self.limits.openings)
        self._refusals: Buckets[PeerId] = Buckets(self.limits.refusals)
        self._pings: Buckets[PeerId] = Buckets(self.limits.pings)
        self._reports: Buckets[PeerId] = Buckets(self.limits.reports)

    def places(self) -> dict[str, int]:
        """What is taken now, for people and tests."""
        return {
            "connections": self.connections,
            "handshakes": self._handshakes_in_all,
            "sockets": self._sockets.total(),
            "handshakes_of_origins": self._handshakes.total(),
            "connections_of_peers": self._connections.total(),
            "streams": self.streams,
            "streams_of_peers": self._streams.total(),
            "streams_of_origins": self._streams_of_origins.total(),
        }

    # --- sockets and handshakes --------------------------------------------------------------------------------------

    def admit_arrival(self, origin: Origin, now: float) -> Refusal | None:
        """A socket was accepted: one place of its origin and one handshake. `release_handshake`, then `release_arrival`."""
        of_origin = self.limits.of_origins[origin.kind]
        if self.banned_origins.holds(origin, now):
            return Refusal.ORIGIN_BANNED
        if self._sockets[origin] >= of_origin.connections:
            return Refusal.ORIGIN_FULL
        if self._handshakes[origin] >= of_origin.handshakes:
            return Refusal.ORIGIN_HANDSHAKES
        if self.connections >= self.limits.connections:
            return Refusal.FULL
        if self._handshakes_in_all >= self.limits.handshakes:
            return Refusal.HANDSHAKES
        if not self._arrivals.take(origin, now, rate=of_origin.arrivals):
            return Refusal.ORIGIN_RATE
        if not self._arrivals_in_all.take(None, now):
            return Refusal.RATE
        self._sockets[origin] += 1
        self._handshakes[origin] += 1
        self._handshakes_in_all += 1
        self.connections += 1
        return None

    def release_handshake(self, origin: Origin) -> None:
        self._handshakes_in_all -= 1
        _give_back(self._handshakes, origin)

    def release_arrival(self, origin: Origin) -> None:
        self.connections -= 1
        _give_back(self._sockets, origin)

    def note_failure(self, origin: Origin, now: float) -> bool:
        """A handshake failed, or its peer was refused. True when that was one too many: its origin is banned now."""
        if self._failures.take(origin, now) or not self.limits.of_origins[origin.kind].bannable:
            return False
        self.banned_origins.ban(origin, now + self.limits.subnet_ban_s, now)
        return True

    # --- peers -------------------------------------------------------------------------------------------------------

    def admit_inbound(self, peer: PeerId, now: float) -> Refusal | None:
        """A peer that has proven who it is, on a connection that has its place already. `release_peer`."""
        if self.banned_peers.holds(peer, now):
            return Refusal.PEER_BANNED
        if self._connections[peer] >= self.limits.connections_per_peer:
            return Refusal.PEER_FULL
        self._connections[peer] += 1
        return None

    def admit_outbound(self, peer: PeerId, now: float) -> Refusal | None:
        """The same for a connection that we made, which has no place yet. `release_outbound`."""
        if self.connections >= self.limits.connections:
            return Refusal.ALL_FULL
        refusal = self.admit_inbound(peer, now)
        if refusal is None:
            self.connections += 1
        return refusal

    def release_peer(self, peer: PeerId) -> None:
        _give_back(self._connections, peer)

    def release_outbound(self, peer: PeerId) -> None:
        self.connections -= 1
        _give_back(self._connections, peer)

    def slow(self, peer: PeerId, share: float, until: float) -> None:
        """Until then the peer gets `share` (0–1] of the rates and streams that others get."""
        self._slowed[peer] = (share, until)
        self._slowed.move_to_end(peer)
        if len(self._slowed) > limits.BANS_MAX:
            self._slowed.popitem(last=False)

    def share(self, peer: PeerId, now: float) -> float:
        share, until = self._slowed.get(peer, (1.0, now))
        if now < until:
            return share
        self._slowed.pop(peer, None)
        return 1.0

    def allows_report(self, peer: PeerId, now: float) -> bool:
        return self._reports.take(peer, now)

    # --- streams -----------------------------------------------------------------------------------------------------

    def admit_stream(self, peer: PeerId, origin: Origin, now: float) -> Refusal | None:
        """An inbound stream. `release_stream`."""
        share = self.share(peer, now)
        if self._streams[peer] >= self.limits.streams_per_peer * share:
            return Refusal.STREAMS_OF_PEER_FULL
        if self._streams_of_origins[origin] >= self.limits.of_origins[origin.kind].streams:
            return Refusal.STREAMS_OF_ORIGIN_FULL
        if self.streams >= self.limits.streams:
            return Refusal.STREAMS_FULL
        if not self._openings.take(peer, now, share=share):
            return Refusal.STREAM_RATE
        self._streams[peer] += 1
        self._streams_of_origins[origin] += 1
        self.streams += 1
        return None

    def release_stream(self, peer: PeerId, origin: Origin) -> None:
        self.streams -= 1
        _give_back(self._streams, peer)
        _give_back(self._streams_of_origins, origin)

    def allows_refusal(self, peer: PeerId, now: float) -> bool:
        """Whether a stream for an unknown protocol is answered at once, or its peer has asked for too many."""
        return self._refusals.take(peer, now, share=self.share(peer, now))

    def allows_ping(self, peer: PeerId, now: float) -> bool:
        return self._pings.take(peer, now, share=self.share(peer, now))


def _give_back(places: Counter[Key], key: Key) -> None:
    places[key] -= 1
    if not places[key]:
        del places[key]
