"""From a relayed connection to a direct one: DCUtR (libp2p specs, relay/DCUtR.md).

Whoever was dialled through the relay (B) begins: it dials the other (A) at its public addresses; when that fails it opens a
stream to A over the relay, both name the outer addresses of a port of theirs, B takes the round-trip time, says SYNC, and
both dial at the same moment. The connection that comes about is neither's: by the specification A is its client and B its
server. (go-libp2p has the roles the other way round unless told otherwise, its issue 3171; with it we stay relayed.)
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace

import trio

from cocoon_p2p import limits
from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes, parse_address
from cocoon_p2p.net.identify.identify import Identification
from cocoon_p2p.net.multistream import ExactReader
from cocoon_p2p.net.pb.hole_punch_pb2 import HolePunch
from cocoon_p2p.net.protobuf import prefixed, read_into
from cocoon_p2p.net.reach.hole_punch_dial import Endpoint, dial_until_open, lend_port, tcp_pipe_of
from cocoon_p2p.net.supervisor import Counters
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch, deadline
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

DCUTR = "/libp2p/dcutr"
_MESSAGE_BYTES_MAX = 4096
"""go-libp2p's bound."""
_PUNCHES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class OwnPort:
    """A port to dial from, and the address under which others see it."""

    local: Endpoint
    observed: Address


class HolePunching:
    """Makes direct connections of relayed ones, in the background of each."""

    def __init__(self, switch: Switch, streams: Streams, identification: Identification, counters: Counters) -> None:
        self._switch = switch
        self._streams = streams
        self._counters = counters
        self._at_once = trio.Semaphore(_PUNCHES_AT_ONCE)
        self._answered: Counter[PeerId] = Counter()
        self._observed: dict[Link, Address] = {}
        """Where the peer of a link sees that link come from."""
        identification.on_observed.append(self._note_observed)
        streams.set_internal(DCUTR, self._answer)
        switch.on_link.append(self._improve)
        switch.on_peer_gone.append(self._forget)

    def _note_observed(self, link: Link, observed: Address) -> None:
        for gone in [known for known in self._observed if known.ended.is_set()]:
            del self._observed[gone]
        if link.connection.is_outbound and not link.ended.is_set():
            self._observed[link] = replace(observed, websocket=False)

    def _forget(self, peer: PeerId) -> None:
        self._answered.pop(peer, None)

    # --- B: who was dialled ------------------------------------------------------------------------------------------

    async def _improve(self, link: Link) -> None:
        """A new connection; one that came in through a relay is to become a direct one."""
        if not link.relayed or link.connection.is_outbound:
            return
        await link.identified.wait()
        if link.ended.is_set():
            return
        async with self._at_once:
            if not (self._has_direct(link.peer) or await self._dial_back(link) or await self._punch(link)):
                self._counters["hole_punch_gave_up"] += 1
                return
        await self._retire(link)

    async def _dial_back(self, link: Link) -> bool:
        """It may be reachable, and only we are not."""
        addresses = [address for address in self._switch.book.get(link.peer) if address.relay is None]
        if not any(address.is_public for address in addresses):
            return False
        try:
            await self._switch.dial_direct(link.peer, addresses)
        except TransportError as error:
            logger.debug("dialling %s back: %s", link.peer, error)
            return False
        self._counters["relayed_dialled_back"] += 1
        return True

    async def _punch(self, link: Link) -> bool:
        """Up to HOLE_PUNCH_TRIES rounds, as long as there is only the relayed connection."""
        if DCUTR not in link.protocols:
            return False
        for _ in range(limits.HOLE_PUNCH_TRIES):
            if link.ended.is_set():
                return False
            try:
                if await self._punch_once(link):
                    self._counters["hole_punched"] += 1
                    return True
            except CocoonError as error:
                logger.debug("hole punching with %s: %s", link.peer, error)
                if error.code == "UNKNOWN_PROTOCOL":
                    return False
            if self._has_direct(link.peer):
                return True
            self._counters["hole_punch_failed"] += 1
        return False

    async def _punch_once(self, link: Link) -> bool:
        own = self._own_port(link)
        if own is None:
            return False
        stream = await self._streams.open_raw(link.peer, DCUTR, link=link)
        try:
            with deadline(limits.HOLE_PUNCH_RTT_MAX_S, "hole punching"):
                began = trio.current_time()
                await stream.write(_connect([own.observed]))
                targets = dialled_targets(await read_message(stream, HolePunch.CONNECT), own)
                round_trip_s = trio.current_time() - began
                await stream.write(prefixed(HolePunch(type=HolePunch.SYNC)))
        finally:
            stream.close_soon()
        await trio.sleep(round_trip_s / 2)
        pipe = await _meet(own, targets)
        if pipe is None:
            return False
        await self._switch.take_punched_pipe(pipe, link.peer, as_listener=True)
        return True

    async def _retire(self, link: Link) -> None:
        """Close the relayed connection when what was begun on it has ended. New streams take the direct one."""
        with trio.move_on_after(limits.RELAYED_LINK_GRACE_S):
            await link.ended.wait()
        while not link.ended.is_set() and self._has_direct(link.peer):
            if not link.application_streams:
                await link.connection.abort()
                return
            with trio.move_on_after(limits.RELAYED_LINK_GRACE_S):
                await link.ended.wait()

    # --- A: who dialled ----------------------------------------------------------------------------------------------

    async def _answer(self, stream: MuxStream) -> None:
        """The other end of `_punch_once`. Only over a relayed connection that we made: nobody else can have us dial."""
        if not stream.connection.relayed or not stream.connection.is_outbound:
            raise RemoteProtocolError("hole punching on a connection that is not for it", code="UNEXPECTED")
        peer = stream.peer
        self._answered[peer] += 1
        if self._answered[peer] > 2 * limits.HOLE_PUNCH_TRIES:
            raise RemoteProtocolError("hole punching without end", code="BOUND")
        own = self._own_port(None)
        with deadline(2 * limits.HOLE_PUNCH_RTT_MAX_S, "hole punching"):
            theirs = await read_message(stream, HolePunch.CONNECT)
            await stream.write(_connect([own.observed] if own is not None else []))
            await read_message(stream, HolePunch.SYNC)
        if own is None or self._has_direct(peer):
            return
        pipe = await _meet(own, dialled_targets(theirs, own))
        if pipe is not None:
            await self._switch.take_punched_pipe(pipe, peer, as_listener=False)

    # --- both --------------------------------------------------------------------------------------------------------

    def _has_direct(self, peer: PeerId) -> bool:
        link = self._switch.link(peer)
        return link is not None and not link.relayed

    def _own_port(self, relayed: Link | None) -> OwnPort | None:
        """That of an outgoing connection: to the relay of `relayed` if there is one, else to whoever sees us at a public
        address."""
        relay = parse_address(relayed.connection.address).relay if relayed is not None else None
        found: list[tuple[bool, bool, OwnPort]] = []
        for link, observed in self._observed.items():
            pipe = tcp_pipe_of(link.connection.pipe)
            if link.connection.is_over or pipe is None:
                continue
            try:
                local = lend_port(pipe)
            except OSError:
                continue  # it has just been closed
            found.append((observed.is_public, link.peer == relay, OwnPort(local, observed)))
        return max(found, key=lambda one: one[:2])[2] if found else None


async def _meet(own: OwnPort, targets: list[Address]) -> TcpPipe | None:
    """Both ends do this at the same moment."""
    pipe = None
    if targets:
        with trio.move_on_after(limits.HOLE_PUNCH_TIMEOUT_S):
            pipe = await dial_until_open(own.local, targets)
    return pipe


def dialled_targets(message: HolePunch, own: OwnPort) -> list[Address]:
    """What the peer may have us dial: a few addresses, public ones unless we are seen at a private one ourselves."""
    found = [address_from_bytes(raw) for raw in message.ObsAddrs]
    targets = [
        address
        for address in found
        if address is not None
        and address.relay is None
        and not address.websocket
        and address.kind == own.observed.kind
        and address.port
        and not address.is_wildcard
        and address.is_loopback == own.observed.is_loopback
        and (address.is_public or not own.observed.is_public)
        and address.endpoint != own.observed.endpoint
    ]
    return list(dict.fromkeys(targets))[: limits.HOLE_PUNCH_ADDRESSES_MAX]


def _connect(addresses: list[Address]) -> bytes:
    return prefixed(HolePunch(type=HolePunch.CONNECT, ObsAddrs=map(address_to_bytes, addresses)))


async def read_message(stream: ExactReader, expected: HolePunch.Type) -> HolePunch:
    """Raises RemoteProtocolError for anything but a message of the type `expected`."""
    message = await read_into(HolePunch(), stream, _MESSAGE_BYTES_MAX, "hole punching")
    if message.type != expected:
        raise RemoteProtocolError("hole punching: another message was due", code="UNEXPECTED")
    return message
