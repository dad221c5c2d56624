"""Being a relay: circuit relay v2's hop protocol (libp2p specs, relay/circuit-v2.md), for peers that cannot be reached.

A peer that is connected to us directly reserves a place; others may then ask us for a circuit to it. We join two streams
and count: so many bytes in each direction, for so long (the Limit message). What passes is Noise of the two ends, which we
cannot read. Nobody is connected who did not reserve, and nothing is dialled for anybody.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.net.addresses import Address, address_to_bytes, parse_dialable
from cocoon_p2p.net.multistream import encode_varint
from cocoon_p2p.net.pb import circuit_pb2
from cocoon_p2p.net.pb.circuit_pb2 import HopMessage, Limit, Reservation, Status, StopMessage
from cocoon_p2p.net.reach.circuit_forwarding import Circuit, CircuitEnd
from cocoon_p2p.net.reach.circuit_messages import (
    HOP,
    STOP,
    hop_status,
    named_peer,
    read_hop,
    read_stop,
    seal_voucher,
    stop_connect,
)
from cocoon_p2p.net.supervisor import Counters
from cocoon_p2p.net.switch.origins import Origin, origin_of
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch, deadline
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

_ADDRESSES_TOLD_MAX = 8
_P2P = b"\xa5\x03"  # multiaddr code 421 as varint


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """limits/, in a form that one relay can have otherwise."""

    reservations: int = limits.RELAY_RESERVATIONS_MAX
    reservations_per_subnet: int = limits.RELAY_RESERVATIONS_PER_SUBNET_MAX
    reservation_s: float = limits.RELAY_RESERVATION_S
    circuits: int = limits.RELAY_CIRCUITS_MAX
    circuits_per_peer: int = limits.RELAY_CIRCUITS_PER_PEER_MAX
    circuits_per_subnet: int = limits.RELAY_CIRCUITS_PER_SUBNET_MAX
    circuit_s: float = limits.RELAY_CIRCUIT_S
    circuit_bytes: int = limits.RELAY_CIRCUIT_BYTES_MAX
    """In each direction."""

    def message(self) -> Limit:
        return Limit(duration=max(1, int(self.circuit_s)), data=self.circuit_bytes)


@dataclass(slots=True)
class _Place:
    """A reservation."""

    origin: Origin
    until: float
    """trio.current_time()."""


class RelayServer:
    """The relay of one node; it gives places between `set_enabled(True)` and `set_enabled(False)`, and keeps them."""

    def __init__(
        self,
        switch: Switch,
        streams: Streams,
        counters: Counters,
        sign: Callable[[bytes], bytes],
        *,
        relay_limits: RelayLimits | None = None,
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        """`sign` makes plain Ed25519 signatures with this node's identity key."""
        self._switch = switch
        self._streams = streams
        self._counters = counters
        self._sign = sign
        self._unix_s = unix_s
        self.limits = relay_limits or RelayLimits()
        self.enabled = False
        self._places: dict[PeerId, _Place] = {}
        self._circuits: Counter[PeerId | Origin] = Counter()
        """By peer, at whichever end of them, and by where they were asked from."""
        self.circuits = 0
        """Open now."""
        switch.on_peer_gone.append(self._release)

    def set_enabled(self, enabled: bool) -> None:
        """Give places, or no more of them. Those that were given are kept until they run out: their holders have told the
        world, and hear of nothing. With the last of them the hop protocol goes."""
        if enabled == self.enabled:
            return
        self.enabled = enabled
        if enabled:
            self._streams.set_internal(HOP, self._serve)
        else:
            self._stop_when_empty()

    def _stop_when_empty(self) -> None:
        if not self.enabled and not self._places:
            self._streams.remove_internal(HOP)

    def reservations(self) -> tuple[PeerId, ...]:
        """Peers that hold one."""
        now = trio.current_time()
        return tuple(peer for peer, place in self._places.items() if place.until > now)

    async def _serve(self, stream: MuxStream) -> None:
        """One stream of the hop protocol."""
        with deadline(limits.STREAM_OPEN_TIMEOUT_S, "relay request"):
            try:
                request = await read_hop(stream)
            except RemoteProtocolError:
                await self._refuse(stream, circuit_pb2.MALFORMED_MESSAGE)
                return
        if stream.connection.relayed or (request.type == HopMessage.RESERVE and not self.enabled):
            await self._refuse(stream, circuit_pb2.PERMISSION_DENIED)
        elif request.type == HopMessage.RESERVE:
            await self._reserve(stream)
        elif request.type == HopMessage.CONNECT:
            await self._connect(stream, request)
        else:
            await self._refuse(stream, circuit_pb2.UNEXPECTED_MESSAGE)

    async def _refuse(self, stream: MuxStream, status: Status) -> None:
        self._counters[f"relay_refused_{Status.Name(status).lower()}"] += 1
        with deadline(limits.STREAM_OPEN_TIMEOUT_S, "relay answer"):
            await stream.write(hop_status(status))

    # --- reservations ------------------------------------------------------------------------------------------------

    async def _reserve(self, stream: MuxStream) -> None:
        peer = stream.peer
        origin = origin_of(stream.connection.address)
        if not self._has_room(peer, origin):
            await self._refuse(stream, circuit_pb2.RESERVATION_REFUSED)
            return
        self._places[peer] = _Place(origin, trio.current_time() + self.limits.reservation_s)
        self._switch.protect(peer, "relay")
        self._counters["relay_reservations"] += 1
        expires = int(self._unix_s() + self.limits.reservation_s)
        reservation = Reservation(
            expire=expires,
            addrs=[self._address_bytes(address) for address in self._own_addresses()],
            voucher=seal_voucher(self._sign, self._switch.peer_id, peer, expires),
        )
        with deadline(limits.STREAM_OPEN_TIMEOUT_S, "relay answer"):
            await stream.write(hop_status(circuit_pb2.OK, reservation=reservation, limit=self.limits.message()))

    def _has_room(self, peer: PeerId, origin: Origin) -> bool:
        """For a renewal always. One subnet gets few; loopback is many nodes of one testnet."""
        self._forget_expired()
        if peer in self._places:
            return True
        if len(self._places) >= self.limits.reservations:
            return False
        of_origin = sum(place.origin == origin for place in self._places.values())
        return origin.kind == "loopback" or of_origin < self.limits.reservations_per_subnet

    def _forget_expired(self) -> None:
        now = trio.current_time()
        for peer in [peer for peer, place in self._places.items() if place.until <= now]:
            self._release(peer)

    def _release(self, peer: PeerId) -> None:
        if self._places.pop(peer, None) is not None:
            self._switch.unprotect(peer, "relay")
            self._stop_when_empty()

    def _own_addresses(self) -> list[Address]:
        """Public ones first: those are what a peer elsewhere can use."""
        own = [each for each in parse_dialable(self._switch.announced_addresses()) if each.relay is None]
        return sorted(own, key=lambda address: (not address.is_public, address.is_loopback))[:_ADDRESSES_TOLD_MAX]

    def _address_bytes(self, address: Address) -> bytes:
        """With our peer id at its end, as the specification wants it."""
        peer = peer_id_to_bytes(self._switch.peer_id)
        return address_to_bytes(address) + _P2P + encode_varint(len(peer)) + peer

    # --- circuits ----------------------------------------------------------------------------------------------------

    async def _connect(self, stream: MuxStream, request: HopMessage) -> None:
        try:
            target = named_peer(request)
        except RemoteProtocolError:
            await self._refuse(stream, circuit_pb2.MALFORMED_MESSAGE)
            return
        self._forget_expired()
        if target not in self._places or target == stream.peer:
            await self._refuse(stream, circuit_pb2.NO_RESERVATION)
        elif not self._has_circuits_left(origin_of(stream.connection.address), stream.peer, target):
            await self._refuse(stream, circuit_pb2.RESOURCE_LIMIT_EXCEEDED)
        else:
            with self._counted(origin_of(stream.connection.address), stream.peer, target):
                await self._join(stream, target)

    def _has_circuits_left(self, origin: Origin, *ends: PeerId) -> bool:
        if origin.kind != "loopback" and self._circuits[origin] >= self.limits.circuits_per_subnet:
            return False  # identities cost nothing
        most = max(self._circuits[peer] for peer in ends)
        return self.circuits < self.limits.circuits and most < self.limits.circuits_per_peer

    @contextmanager
    def _counted(self, *ends: PeerId | Origin) -> Iterator[None]:
        self.circuits += 1
        self._circuits.update(ends)
        try:
            yield
        finally:
            self.circuits -= 1
            for end in ends:
                self._circuits[end] -= 1
                if not self._circuits[end]:
                    del self._circuits[end]

    async def _join(self, stream: MuxStream, target: PeerId) -> None:
        try:
            other = await self._open_stop(stream.peer, target)
        except CocoonError as error:
            logger.debug("circuit to %s: %s", target, error)
            await self._refuse(stream, circuit_pb2.CONNECTION_FAILED)
            return
        circuit = Circuit(stream, other, bytes_max=self.limits.circuit_bytes)
        end: CircuitEnd = "cut_off"
        try:
            with deadline(limits.STREAM_OPEN_TIMEOUT_S, "relay answer"):
                await stream.write(hop_status(circuit_pb2.OK, limit=self.limits.message()))
            self._counters["relay_circuits"] += 1
            end = await circuit.run(self.limits.circuit_s)
            self._counters[f"relay_circuit_{end}"] += 1
            if end == "closed":  # what was written before still arrives
                other.close_soon()
                stream.close_soon()
        finally:
            self._counters["relay_bytes"] += circuit.bytes_forwarded
            if end != "closed":
                other.reset_soon()
                stream.reset_soon()

    async def _open_stop(self, source: PeerId, target: PeerId) -> MuxStream:
        """The target's end of a circuit, accepted by it. Raises CocoonError."""
        link = self._switch.link(target)
        if link is None or link.relayed:
            raise RemoteProtocolError("no direct connection", code="NOT_CONNECTED")
        stream = await self._streams.open_raw(target, STOP, link=link)
        accepted = False
        try:
            with deadline(limits.STREAM_OPEN_TIMEOUT_S, f"circuit to {target}"):
                await stream.write(stop_connect(source, self.limits.message()))
                answer = await read_stop(stream)
            if answer.type != StopMessage.STATUS or answer.status != circuit_pb2.OK:
                raise RemoteProtocolError(f"refused with status {int(answer.status)}", code="REFUSED")
            accepted = True
            return stream
        finally:
            if not accepted:
                stream.reset_soon()
