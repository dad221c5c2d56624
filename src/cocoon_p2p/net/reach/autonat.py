"""AutoNAT 1.0 (libp2p specs, autonat/autonat-v1.md): asking a peer to dial us back, and dialling back for others.

A server that dials whatever it is told would be a weapon. So it dials only the very IP address that the asker's connection
comes from, no names, nothing for those behind a relay, no system ports of a private network, and seldom: the rates are per
asker and in all. What it dials must prove to be the asker, and is dropped at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    ADDRESSES_PER_ANNOUNCEMENT_MAX,
    AUTONAT_ADDRESSES_MAX,
    AUTONAT_ANSWER_TIMEOUT_S,
    AUTONAT_BURST,
    AUTONAT_DIAL_BACK_TIMEOUT_S,
    AUTONAT_DIALS_AT_ONCE_MAX,
    AUTONAT_MESSAGE_BYTES_MAX,
    AUTONAT_PER_ASKER_BURST,
    AUTONAT_PER_ASKER_S,
    AUTONAT_PER_S,
    AUTONAT_REQUEST_TIMEOUT_S,
    DETAIL_CHARS_MAX,
)
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes, parse_address
from cocoon_p2p.net.multistream import read_prefixed
from cocoon_p2p.net.pb.autonat_pb2 import Message
from cocoon_p2p.net.protobuf import parsed, prefixed, read_into
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.supervisor import Counters
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.origins import Origin, origin_of
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import deadline
from cocoon_p2p.net.yamux.stream import MuxStream

AUTONAT = "/libp2p/autonat/1.0.0"
_SYSTEM_PORTS = 1024
Asker = tuple[Origin, PeerId | None]

DialBack = Callable[[Address, PeerId], Awaitable[None]]
"""Makes a new connection to this peer at this address and drops it. Raises TransportError when that fails."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer found out. "refused": it did not try, and nothing is known."""

    outcome: Literal["reached", "not reached", "refused"]
    address: Address | None = None
    """Where it reached us."""
    detail: str = ""


# --- asking ----------------------------------------------------------------------------------------------------------


async def ask(streams: Streams, link: Link, own_id: PeerId, addresses: Sequence[Address]) -> Answer:
    """Let the peer of `link` dial us at `addresses`. Raises TransportError, and RemoteProtocolError for nonsense."""
    wanted = tuple(addresses)[:AUTONAT_ADDRESSES_MAX]
    message = Message(type=Message.DIAL)
    message.dial.peer.id = peer_id_to_bytes(own_id)
    message.dial.peer.addrs.extend(map(address_to_bytes, wanted))
    with deadline(AUTONAT_ANSWER_TIMEOUT_S, f"AutoNAT of {link.peer}"):
        stream = await streams.open_raw(link.peer, AUTONAT, link=link)
        try:
            await stream.write(prefixed(message))
            raw = await read_prefixed(stream, AUTONAT_MESSAGE_BYTES_MAX)
        finally:
            stream.close_soon()
    return read_answer(raw, wanted)


def read_answer(raw: bytes, asked: Sequence[Address]) -> Answer:
    """Raises RemoteProtocolError: not an answer, or an address that was not asked about."""
    message = parsed(Message(), raw, "AutoNAT")
    if message.type != Message.DIAL_RESPONSE or not message.HasField("dialResponse"):
        raise RemoteProtocolError("AutoNAT: not an answer", code="MALFORMED")
    response = message.dialResponse
    detail = "".join(char for char in str(response.statusText)[:DETAIL_CHARS_MAX] if char.isprintable())
    if response.status == Message.OK:
        reached = address_from_bytes(response.addr)
        if reached not in asked:
            raise RemoteProtocolError("AutoNAT: reached at an address that was not asked about", code="MALFORMED")
        return Answer("reached", reached)
    if response.status == Message.E_DIAL_ERROR:
        return Answer("not reached", detail=detail)
    return Answer("refused", detail=detail)


# --- answering -------------------------------------------------------------------------------------------------------


class AutonatServer:
    """Dials back for others, within bounds."""

    def __init__(self, streams: Streams, counters: Counters, dial_back: DialBack) -> None:
        self._dial_back = dial_back
        self._counters = counters
        self._per_asker: Buckets[Asker] = Buckets(Rate(AUTONAT_PER_ASKER_S, AUTONAT_PER_ASKER_BURST))
        self._in_all: Buckets[None] = Buckets(Rate(AUTONAT_PER_S, AUTONAT_BURST))
        self._busy_with: set[PeerId] = set()
        streams.set_internal(AUTONAT, self._serve)

    async def _serve(self, stream: MuxStream) -> None:
        """Raises RemoteProtocolError for what is no question, TransportError."""
        peer, seen_at = stream.connection.peer, parse_address(stream.connection.address)
        with deadline(AUTONAT_REQUEST_TIMEOUT_S, f"AutoNAT question of {peer}"):
            message = await read_into(Message(), stream, AUTONAT_MESSAGE_BYTES_MAX, "AutoNAT")
        if message.type != Message.DIAL or not message.HasField("dial"):
            raise RemoteProtocolError("AutoNAT: not a question", code="MALFORMED")
        answer = Message(type=Message.DIAL_RESPONSE)
        about = message.dial.peer
        if about.id and about.id != peer_id_to_bytes(peer):
            _say(answer, Message.E_BAD_REQUEST, "a question about another peer")
        elif (refusal := self._refusal(peer, seen_at, origin_of(stream.connection.address))) is not None:
            self._counters["autonat_refused"] += 1
            _say(answer, Message.E_DIAL_REFUSED, refusal)
        else:
            await self._try(answer, peer, dialable_for(seen_at, about.addrs))
        await stream.write(prefixed(answer))

    def _refusal(self, peer: PeerId, seen_at: Address, origin: Origin) -> str | None:
        if seen_at.relay is not None:
            return "not through a relay"
        if peer in self._busy_with or len(self._busy_with) >= AUTONAT_DIALS_AT_ONCE_MAX:
            return "busy"
        # All of a LAN, and all of this machine, are one origin: there the identity has to do.
        asker: Asker = (origin, None if origin.kind == "public" else peer)
        now = trio.current_time()
        if not self._per_asker.take(asker, now) or not self._in_all.take(None, now):
            return "too often"
        return None

    async def _try(self, answer: Message, peer: PeerId, targets: Sequence[Address]) -> None:
        if not targets:
            self._counters["autonat_refused"] += 1
            _say(answer, Message.E_DIAL_REFUSED, "no address that this node may dial for you")
            return
        self._busy_with.add(peer)
        try:
            reached = await self._first_reached(peer, targets)
        finally:
            self._busy_with.discard(peer)
        if reached is None:
            _say(answer, Message.E_DIAL_ERROR, "nobody answered as you")
        else:
            _say(answer, Message.OK, "")
            answer.dialResponse.addr = address_to_bytes(reached)

    async def _first_reached(self, peer: PeerId, targets: Sequence[Address]) -> Address | None:
        reached: list[Address] = []

        async def attempt(target: Address) -> None:
            try:
                await self._dial_back(target, peer)
            except (TransportError, RemoteProtocolError):
                return
            reached.append(target)
            nursery.cancel_scope.cancel()

        with trio.move_on_after(AUTONAT_DIAL_BACK_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for target in targets:
                    nursery.start_soon(attempt, target)
        return reached[0] if reached else None


def dialable_for(seen_at: Address, raw: Sequence[bytes]) -> list[Address]:
    """Those of an asker's addresses that may be dialled for it, when its connection comes from `seen_at`.

    autonat-v1.md, "Security Considerations": only the observed IP address. That rule lets the machines of a LAN ask each
    other, and nobody else ask about them.
    """
    found: list[Address] = []
    for each in raw[: 4 * ADDRESSES_PER_ANNOUNCEMENT_MAX]:
        address = address_from_bytes(each)
        if (
            address is not None
            and address.relay is None
            and (address.kind, address.host) == (seen_at.kind, seen_at.host)
            and address.port >= (1 if address.is_public else _SYSTEM_PORTS)
            and address not in found
        ):
            found.append(address)
    return found[:AUTONAT_ADDRESSES_MAX]


def _say(answer: Message, status: Message.ResponseStatus, text: str) -> None:
    answer.dialResponse.status = status
    answer.dialResponse.statusText = text
