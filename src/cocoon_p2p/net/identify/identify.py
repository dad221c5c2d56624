"""identify 1.0, identify/push 1.0 and ping 1.0: who the other end is, what it speaks, where it says it can be reached, and
where it sees us.

Each new connection is asked once. Whoever changes its protocols or addresses afterwards pushes the news to those connected
that speak identify/push.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from functools import partial

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    DEATH_NOTICE_S,
    IDENTIFY_MESSAGE_BYTES_MAX,
    IDENTIFY_MESSAGES_MAX,
    IDENTIFY_PUSH_BURST,
    IDENTIFY_PUSH_GATHER_S,
    IDENTIFY_PUSH_INTERVAL_S,
    IDENTIFY_PUSHES_AT_ONCE_MAX,
    IDENTIFY_PUSHES_PER_PEER_BURST,
    IDENTIFY_PUSHES_PER_PEER_S,
    IDENTIFY_TIMEOUT_S,
    PING_TIMEOUT_S,
)
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable
from cocoon_p2p.net.identify.messages import Description, decode_description, encode_description
from cocoon_p2p.net.identify.peer_record import PeerRecord, RecordNumbers, seal_peer_record
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.net.port import Misbehaviour
from cocoon_p2p.net.rates import Buckets, Pace, Rate
from cocoon_p2p.net.supervisor import call_guarded, deadline, run_guarded
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.yamux.stream import MuxStream

IDENTIFY = "/ipfs/id/1.0.0"
IDENTIFY_PUSH = "/ipfs/id/push/1.0.0"
PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32
_PING_DELAY_S = 0.1


class Identification:
    """Answers identify and ping, asks each new connection who it is, and keeps both sides told. `run` it in a task."""

    def __init__(self, switch: Switch, streams: Streams, agent: str, sign: Callable[[bytes], bytes]) -> None:
        """`sign` makes plain Ed25519 signatures with this node's identity key."""
        self._switch = switch
        self._streams = streams
        self._self = SelfDescription(switch, streams, agent, sign)
        self._told: dict[PeerId, int] = {}
        """Which version of our description each connected peer has."""
        self._sequences: dict[PeerId, int] = {}
        """Of the newest record of each connected peer. A peer that comes back begins anew: its clock may have been set."""
        self._pushes: Buckets[PeerId] = Buckets(Rate(IDENTIFY_PUSHES_PER_PEER_S, IDENTIFY_PUSHES_PER_PEER_BURST))
        self._changed = trio.Event()
        self.on_described: list[Callable[[Link], object]] = []
        """Called, guarded, whenever a peer has said who it is, or something new about itself."""
        self.on_observed: list[Callable[[Link, Address], object]] = []
        """Called, guarded, with the address at which the peer of a direct connection sees us."""
        streams.set_internal(IDENTIFY, self._answer)
        streams.set_internal(IDENTIFY_PUSH, self._take_push)
        streams.set_internal(PING, self._echo)
        switch.on_link.append(self._ask)
        switch.on_addresses_changed.append(self.changed)
        switch.on_peer_gone.append(self._forget)

    # --- what we say -------------------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Our protocols or addresses may have changed: peers hear of it soon."""
        self._changed.set()

    async def run(self) -> None:
        """Tell connected peers what is new, each time something is. Runs as long as the node."""
        pace = Pace(1 / IDENTIFY_PUSH_INTERVAL_S, IDENTIFY_PUSH_BURST, trio.current_time())
        while True:
            await self._changed.wait()
            await trio.sleep(IDENTIFY_PUSH_GATHER_S)  # a node that starts sets a dozen handlers
            self._changed = trio.Event()
            await self._push_to_all()
            pace.spend(trio.current_time())
            await trio.sleep(pace.wait_s(trio.current_time()))

    async def _push_to_all(self) -> None:
        version = self._self.version()
        at_once = trio.CapacityLimiter(IDENTIFY_PUSHES_AT_ONCE_MAX)

        async def push(link: Link) -> None:
            async with at_once:
                await run_guarded("identify_push", partial(self._push, link, version), self._switch.counters)

        async with trio.open_nursery() as nursery:
            for link in self._switch.links():
                if IDENTIFY_PUSH in link.protocols and self._told.get(link.peer) != version:
                    nursery.start_soon(push, link)

    async def _push(self, link: Link, version: int) -> None:
        """Raises TransportError."""
        with deadline(IDENTIFY_TIMEOUT_S, f"identify push to {link.peer}"):
            stream = await self._streams.open_raw(link.peer, IDENTIFY_PUSH, link=link)
            try:
                await self._send(stream)
            finally:
                stream.close_soon()
        self._told[link.peer] = version

    async def _answer(self, stream: MuxStream) -> None:
        self._told[stream.connection.peer] = self._self.version()
        await self._send(stream)

    async def _send(self, stream: MuxStream) -> None:
        await stream.write(encode_prefixed(self._self.message(stream.connection.address)))

    # --- what they say -----------------------------------------------------------------------------------------------

    async def _ask(self, link: Link) -> None:
        """Fill in the link's agent and protocols, and the address book. Raises CocoonError, unless the connection has
        ended meanwhile: one that dials us back to see whether it can is dropped at once."""
        try:
            with deadline(IDENTIFY_TIMEOUT_S, f"identify of {link.peer}"):
                stream = await self._streams.open_raw(link.peer, IDENTIFY, link=link)
                try:
                    await self._read_all(stream, link)
                finally:
                    stream.close_soon()
        except TransportError:
            with trio.move_on_after(DEATH_NOTICE_S):
                await link.ended.wait()
            if not link.ended.is_set():
                raise

    async def _take_push(self, stream: MuxStream) -> None:
        """Raises CocoonError."""
        peer = stream.connection.peer
        link = self._switch.link(peer)
        if not self._pushes.take(peer, trio.current_time()):
            self._switch.counters["identify_push_refused"] += 1
            self._switch.report(peer, "flood")
            raise TransportError(f"too many pushes of {peer}", outcome_known=True, code="RATE")
        if link is not None:
            with deadline(IDENTIFY_TIMEOUT_S, f"identify push of {peer}"):
                await self._read_all(stream, link)

    async def _read_all(self, stream: MuxStream, link: Link) -> None:
        """One message, and more that add to it: go-libp2p sends a signed record that makes it long in a second one. What
        is wrong with a message is the peer's fault. Raises CocoonError."""
        try:
            for number in range(IDENTIFY_MESSAGES_MAX):
                first = await stream.read(1)
                if not first and number:
                    return
                raw = await read_prefixed(_Behind(first, stream), IDENTIFY_MESSAGE_BYTES_MAX)
                self._take(link, decode_description(raw, link.peer))
            raise RemoteProtocolError(f"more than {IDENTIFY_MESSAGES_MAX} messages of identify", code="BOUND")
        except RemoteProtocolError as error:
            kind: Misbehaviour = "bad_signature" if error.code == "SIGNATURE" else "malformed"
            self._switch.report(link.peer, kind)
            raise

    def _take(self, link: Link, said: Description) -> None:
        if said.agent is not None:
            link.agent = said.agent
        link.protocols = said.protocols or link.protocols
        seen_at = parse_address(link.connection.address)
        addresses = [address for address in self._newest_addresses(link.peer, said) if _may_name(seen_at, address)]
        if addresses:
            self._switch.book.add(link.peer, addresses)
        link.identified.set()
        for described in self.on_described:
            call_guarded("described", partial(described, link), None, self._switch.counters)
        if said.observed is not None and seen_at.relay is None:
            for observed in self.on_observed:
                call_guarded("observed", partial(observed, link, said.observed), None, self._switch.counters)

    def _newest_addresses(self, peer: PeerId, said: Description) -> tuple[Address, ...]:
        # SPEC identity §4.3
        if said.record is None:
            return said.addresses
        if said.record.sequence < self._sequences.get(peer, 0):
            self._switch.counters["identify_record_stale"] += 1
            return ()
        self._sequences[peer] = said.record.sequence
        return said.record.addresses

    def _forget(self, peer: PeerId) -> None:
        self._told.pop(peer, None)
        self._sequences.pop(peer, None)

    # --- ping --------------------------------------------------------------------------------------------------------

    async def ping(self, peer: PeerId) -> float:
        """Seconds of one round trip, the opening of the stream not counted. Raises TransportError."""
        stream = await self._streams.open_raw(peer, PING)
        try:
            with deadline(PING_TIMEOUT_S, f"ping of {peer}"):
                sent = secrets.token_bytes(_PING_BYTES)
                started = trio.current_time()
                await stream.write(sent)
                answer = await stream.read_exactly(_PING_BYTES)
                took = trio.current_time() - started
        finally:
            stream.close_soon()
        if answer != sent:
            raise TransportError(f"{peer} answered a ping with other bytes", outcome_known=True, code="PING")
        return took

    async def _echo(self, stream: MuxStream) -> None:
        """SPEC libp2p ping: 32 bytes back, as often as they come; whoever sends too many waits."""
        while data := await stream.read(_PING_BYTES):
            while not self._switch.gate.allows_ping(stream.connection.peer, trio.current_time()):
                self._switch.counters["pings_delayed"] += 1
                await trio.sleep(_PING_DELAY_S)
            await stream.write(data)


class SelfDescription:
    """What this node says of itself, with a version that grows when it changes."""

    def __init__(self, switch: Switch, streams: Streams, agent: str, sign: Callable[[bytes], bytes]) -> None:
        self._switch = switch
        self._streams = streams
        self._agent = agent
        self._sign = sign
        self._sequence = RecordNumbers(time.time_ns)
        self._version = 0
        self._protocols: list[str] = []
        self._announced: tuple[str, ...] = ()
        self._addresses: list[Address] = []
        self._record = b""

    def version(self) -> int:
        """Of what is true now."""
        protocols, announced = self._streams.protocols(), self._switch.announced_addresses()
        if announced != self._announced or not self._version:
            self._addresses = parse_dialable(announced)
            wide = [address for address in self._addresses if not address.is_loopback] or self._addresses
            record = PeerRecord(self._switch.peer_id, self._sequence.next(), tuple(wide))
            self._record = seal_peer_record(record, self._sign)
            self._version += 1
        elif protocols != self._protocols:
            self._version += 1
        self._protocols, self._announced = protocols, announced
        return self._version

    def message(self, reader: str) -> bytes:
        """For the peer at the other end of a connection to the address `reader`."""
        self.version()
        there = parse_address(reader)
        near = there.is_loopback
        return encode_description(
            self._switch.peer_id,
            agent=self._agent,
            protocols=self._protocols,
            addresses=[address for address in self._addresses if near or not address.is_loopback],
            observed=there if there.relay is None else None,  # through a relay nobody sees where the other is
            record=self._record,
        )


def _may_name(seen_at: Address, named: Address) -> bool:
    """Whether a peer whom we see at `seen_at` may tell us to dial `named`: a stranger must not send us knocking at the doors
    of our own machine or office. (go-libp2p does the same.)"""
    if seen_at.is_loopback:
        return True
    return not named.is_loopback and (named.is_public or not seen_at.is_public)


class _Behind:
    """A stream of which the first byte was read already."""

    def __init__(self, first: bytes, stream: MuxStream) -> None:
        self._first = first
        self._stream = stream

    async def read_exactly(self, size: int) -> bytes:
        if not self._first or size == 0:
            return await self._stream.read_exactly(size)
        first, self._first = self._first, b""
        return first + (await self._stream.read_exactly(size - 1) if size > 1 else b"")
