"""Using relays: reservations when we cannot be reached, circuits that come in through them, and dialling through them.

libp2p specs, relay/circuit-v2.md. Relays are found among the peers that we are connected to directly: the preferred ones
(bootstrap nodes) first, then whoever names the hop protocol in identify.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.addresses import Address, address_from_bytes, parse_address, parse_dialable
from cocoon_p2p.net.identify.identify import Identification
from cocoon_p2p.net.pb import circuit_pb2
from cocoon_p2p.net.pb.circuit_pb2 import HopMessage, Reservation, StopMessage
from cocoon_p2p.net.reach.circuit_messages import (
    HOP,
    STOP,
    encode,
    hop_connect,
    named_peer,
    read_hop,
    read_stop,
    require_ok,
    stop_status,
)
from cocoon_p2p.net.reach.circuit_pipe import CircuitPipe
from cocoon_p2p.net.supervisor import Counters, call_guarded
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch, deadline
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

_RESERVE = encode(HopMessage(type=HopMessage.RESERVE))


@dataclass(slots=True)
class _Held:
    """A reservation of ours."""

    addresses: tuple[str, ...]
    renew_at: float
    """trio.current_time()."""


@dataclass(slots=True)
class _Refusal:
    """A relay that gave us nothing, for now."""

    again_at: float
    pause_s: float


class RelayClient:
    """The reservations of one node, and the circuits that use them. `run` must run as long as it is used."""

    def __init__(
        self,
        switch: Switch,
        streams: Streams,
        identification: Identification,
        counters: Counters,
        *,
        preferred: Collection[PeerId] = (),
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._switch = switch
        self._streams = streams
        self._counters = counters
        self._unix_s = unix_s
        self.preferred = frozenset(preferred)
        """Asked first, and also when they do not name the hop protocol (they may since identify)."""
        self.on_change: Callable[[], object] = _nothing
        """Called, guarded, when `addresses()` has changed."""
        self._needed = False
        self._held: dict[PeerId, _Held] = {}
        self._refused: dict[PeerId, _Refusal] = {}
        self._dialled_relays: Counter[PeerId] = Counter()
        """Being dialled now, to ask them for circuits."""
        self._asked_for: set[tuple[PeerId, PeerId]] = set()
        """Relay and peer: circuits being asked for. Of a relay's several addresses the first that is reached asks."""
        self._wake = trio.Event()
        switch.dial_relayed = self.dial
        identification.on_described.append(self._look_at)
        switch.on_peer_gone.append(self._forget)
        streams.set_internal(STOP, self._serve_stop)

    def set_needed(self, needed: bool) -> None:
        """Whether to hold reservations from now on; those held are given up when not."""
        if needed == self._needed:
            return
        self._needed = needed
        if not needed:
            for relay in list(self._held):
                self._drop(relay)
        self._wake.set()

    def addresses(self) -> tuple[str, ...]:
        """Where we can be reached through relays: "/…/p2p/<relay>/p2p-circuit"."""
        return tuple(address for held in self._held.values() for address in held.addresses)

    def relays(self) -> tuple[PeerId, ...]:
        """Those that hold a reservation for us."""
        return tuple(self._held)

    # --- reserving ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep RELAYS_HELD reservations while they are needed."""
        while True:
            self._wake = trio.Event()
            if self._needed:
                await self._renew_due()
                await self._fill()
            with trio.move_on_at(self._next_time()):
                await self._wake.wait()

    async def _renew_due(self) -> None:
        now = trio.current_time()
        for relay in [relay for relay, held in self._held.items() if held.renew_at <= now]:
            link = self._switch.link(relay)
            if link is None or link.relayed or not await self._try_to_reserve(link):
                self._drop(relay)

    async def _fill(self) -> None:
        for link in self._candidates():
            if len(self._held) >= limits.RELAYS_HELD or not self._needed:
                return
            await self._try_to_reserve(link)

    def _candidates(self) -> list[Link]:
        """Preferred relays first; the others in a random order, so that not all nodes ask the same one."""
        now = trio.current_time()
        candidates = [link for link in self._switch.links() if self._may_ask(link, now)]
        random.shuffle(candidates)
        return sorted(candidates, key=lambda link: link.peer not in self.preferred)

    def _may_ask(self, link: Link, now: float) -> bool:
        refusal = self._refused.get(link.peer)
        if link.relayed or link.peer in self._held or (refusal is not None and now < refusal.again_at):
            return False
        return HOP in link.protocols or link.peer in self.preferred

    def _next_time(self) -> float:
        if not self._needed:
            return float("inf")
        times = [held.renew_at for held in self._held.values()]
        if len(self._held) < limits.RELAYS_HELD:
            now = trio.current_time()
            times += [refusal.again_at for refusal in self._refused.values() if refusal.again_at > now]
        return min(times, default=float("inf"))

    async def _try_to_reserve(self, link: Link) -> bool:
        relay = link.peer
        try:
            held = await self._reserve(link)
        except CocoonError as error:
            self._counters["relay_reservation_failed"] += 1
            logger.debug("reservation at %s: %s", relay, error)
            previous = self._refused.get(relay)
            pause = min(2 * previous.pause_s, limits.RELAY_RETRY_MAX_S) if previous else limits.RELAY_RETRY_S
            self._refused[relay] = _Refusal(trio.current_time() + pause, pause)
            return False
        if self._switch.link(relay) is None or not self._needed:  # what was reserved is gone, or nobody wants it
            return False
        self._refused.pop(relay, None)
        before = self.addresses()
        self._held[relay] = held
        self._switch.protect(relay, "relay")
        self._report_unless(before)
        return True

    async def _reserve(self, link: Link) -> _Held:
        """Raises CocoonError."""
        stream = await self._streams.open_raw(link.peer, HOP, link=link)
        try:
            with deadline(limits.STREAM_OPEN_TIMEOUT_S, "reservation"):
                await stream.write(_RESERVE)
                answer = await read_hop(stream)
        finally:
            stream.close_soon()
        require_ok(answer)
        addresses = self._usable(link, answer.reservation)
        if not addresses:
            raise RemoteProtocolError("the relay names no address that could be dialled", code="NO_ADDRESS")
        lasts_s = answer.reservation.expire - self._unix_s()
        renew_after = min(max(lasts_s / 2, limits.RELAY_RENEWAL_MIN_S), limits.RELAY_RENEWAL_MAX_S)
        return _Held(addresses, trio.current_time() + renew_after)

    def _usable(self, link: Link, reservation: Reservation) -> tuple[str, ...]:
        """The relay's addresses as it names them, with the one that we use ourselves. Who is reached over the internet
        has no use for addresses of the relay's own house, nor anybody elsewhere for those of its own machine."""
        found = [address_from_bytes(raw) for raw in reservation.addrs[: limits.ADDRESSES_PER_ANNOUNCEMENT_MAX]]
        named = [address for address in found if address is not None and address.relay is None]
        dialled = parse_address(link.connection.address)
        if link.connection.is_outbound:
            named.insert(0, dialled)
        circuits = [
            str(replace(address, peer=None, relay=link.peer))
            for address in named
            if (address.is_public or not dialled.is_public) and (dialled.is_loopback or not address.is_loopback)
        ]
        return tuple(map(str, parse_dialable(circuits)))[: limits.RELAY_ADDRESSES_MAX]  # none that is too long

    def _look_at(self, link: Link) -> None:
        """A peer has said what it speaks; it may be a relay, or have become one, or be one no longer."""
        held = self._held.get(link.peer)
        if held is not None and HOP not in link.protocols:
            held.renew_at = trio.current_time()  # it will say whether what it gave us still holds
            self._wake.set()
        if not link.relayed and (HOP in link.protocols or link.peer in self.preferred):
            self._wake.set()

    def _forget(self, peer: PeerId) -> None:
        """Its connections are gone, and with them what it reserved for us."""
        self._refused.pop(peer, None)
        if peer in self._held:
            self._counters["relay_lost"] += 1
            self._drop(peer)
            self._wake.set()

    def _drop(self, relay: PeerId) -> None:
        before = self.addresses()
        if self._held.pop(relay, None) is not None:
            self._switch.unprotect(relay, "relay")
        self._report_unless(before)

    def _report_unless(self, before: tuple[str, ...]) -> None:
        if self.addresses() != before:
            call_guarded("relay_change", self.on_change, None, self._counters)

    # --- circuits ----------------------------------------------------------------------------------------------------

    async def dial(self, address: Address, peer: PeerId) -> CircuitPipe:
        """A pipe to `peer` through the relay of `address`. Raises TransportError, with the relay's status as its code."""
        relay = address.relay
        if relay is None or relay in (peer, self._switch.peer_id):
            raise TransportError(f"{address} leads nowhere", outcome_known=True, code="NO_ADDRESS")
        if self._dialled_relays[peer]:  # two relays that name each other would have us wait for ourselves
            raise TransportError("a relay is not dialled through another", outcome_known=True, code="RELAYED_RELAY")
        link = await self._link_to(relay, address)
        attempt = (relay, peer)
        if attempt in self._asked_for:
            raise TransportError("asked at another address of that relay", outcome_known=True, code="ASKED_ALREADY")
        self._asked_for.add(attempt)
        try:
            return await self._ask_for_circuit(link, address, peer)
        except RemoteProtocolError as error:
            raise TransportError(error.message, outcome_known=True, code="RELAY_REFUSED") from error
        finally:
            self._asked_for.discard(attempt)

    async def _link_to(self, relay: PeerId, address: Address) -> Link:
        """A direct connection. Raises TransportError."""
        self._dialled_relays[relay] += 1
        try:
            link = self._switch.link(relay) or await self._switch.connect(relay, [str(address.endpoint)])
            return await self._switch.dial_direct(relay, [address.endpoint]) if link.relayed else link
        finally:
            self._dialled_relays[relay] -= 1
            if not self._dialled_relays[relay]:
                del self._dialled_relays[relay]

    async def _ask_for_circuit(self, link: Link, address: Address, peer: PeerId) -> CircuitPipe:
        stream = await self._streams.open_raw(link.peer, HOP, link=link)
        pipe = None
        try:
            with deadline(limits.DIAL_TIMEOUT_S, f"circuit through {link.peer}"):
                await stream.write(hop_connect(peer))
                require_ok(await read_hop(stream))
            pipe = CircuitPipe(stream, str(replace(address, peer=None)))
        finally:
            if pipe is None:
                stream.reset_soon()
        return pipe

    async def _serve_stop(self, stream: MuxStream) -> None:
        """A relay brings a circuit: take it in when it is one of ours, and serve the connection that comes through it."""
        relay = stream.peer
        with deadline(limits.STREAM_OPEN_TIMEOUT_S, "circuit"):
            request = await read_stop(stream)
            if request.type != StopMessage.CONNECT:
                await stream.write(stop_status(circuit_pb2.UNEXPECTED_MESSAGE))
                return
            source = named_peer(request)
            if relay not in self._held or stream.connection.relayed or self._switch.is_banned(source):
                self._counters["relay_circuit_refused"] += 1
                await stream.write(stop_status(circuit_pb2.PERMISSION_DENIED))
                return
            await stream.write(stop_status(circuit_pb2.OK))
        self._counters["relay_circuits_in"] += 1
        through = f"{parse_address(stream.connection.address)}/p2p/{relay}/p2p-circuit"
        await self._switch.take_inbound_pipe(CircuitPipe(stream, through))


def _nothing() -> None:
    pass
