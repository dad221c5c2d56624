"""identify 1.0 and ping 1.0: who the other end is, what it speaks, and where it says it can be reached."""

from __future__ import annotations

import secrets

import trio
from google.protobuf.message import DecodeError

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, public_key_of
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX, AGENT_CHARS_MAX, PING_TIMEOUT_S
from cocoon_p2p.net.addresses import address_from_bytes, address_to_bytes, parse_address
from cocoon_p2p.net.multistream import encode_prefixed, read_prefixed
from cocoon_p2p.net.pb.identify_pb2 import Identify
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link, Switch, deadline
from cocoon_p2p.net.yamux.muxer import MuxStream

IDENTIFY = "/ipfs/id/1.0.0"
PING = "/ipfs/ping/1.0.0"
_PROTOCOL_VERSION = "ipfs/0.1.0"
_MESSAGE_BYTES_MAX = 8 * 1024
"""go-libp2p's bound."""
_PROTOCOLS_MAX = 128
_PING_BYTES = 32
_ED25519_KEY_PREFIX = bytes.fromhex("08011220")  # protobuf PublicKey: type Ed25519, 32 bytes


class Identification:
    """Answers identify and ping, and asks each new connection who it is."""

    def __init__(self, switch: Switch, streams: Streams, agent: str) -> None:
        self._switch = switch
        self._streams = streams
        self._agent = agent
        streams.set_internal(IDENTIFY, self._answer)
        streams.set_internal(PING, _echo)
        switch.on_link.append(self._ask)

    async def _answer(self, stream: MuxStream) -> None:
        message = Identify(
            protocol_version=_PROTOCOL_VERSION,
            agent_version=self._agent,
            public_key=_ED25519_KEY_PREFIX + public_key_of(self._switch.peer_id),
            listen_addrs=[address_to_bytes(parse_address(text)) for text in self._switch.announced_addresses()],
            observed_addr=address_to_bytes(parse_address(stream.connection.address)),
            protocols=self._streams.protocols(),
        )
        await stream.write(encode_prefixed(message.SerializeToString()))

    async def _ask(self, link: Link) -> None:
        """Fill in the link's agent and protocols, and the address book. Raises CocoonError."""
        stream = await self._streams.open_raw(link.peer, IDENTIFY, link=link)
        try:
            raw = await read_prefixed(stream, _MESSAGE_BYTES_MAX)
        finally:
            stream.close_soon()
        message = Identify()
        try:
            message.ParseFromString(raw)
        except DecodeError as error:
            raise RemoteProtocolError("identify: not a protobuf message", code="MALFORMED") from error
        link.agent = _printable(message.agent_version)
        link.protocols = frozenset(message.protocols[:_PROTOCOLS_MAX])
        addresses = map(address_from_bytes, message.listen_addrs[:ADDRESSES_PER_ANNOUNCEMENT_MAX])
        self._switch.book.add(link.peer, [address for address in addresses if address is not None])
        link.identified.set()

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


async def _echo(stream: MuxStream) -> None:
    """SPEC libp2p ping: 32 bytes back, as often as they come."""
    while data := await stream.read(_PING_BYTES):
        await stream.write(data)


def _printable(text: str) -> str:
    """A peer's text, safe to show on a terminal."""
    return "".join(char for char in text[:AGENT_CHARS_MAX] if char.isprintable())
