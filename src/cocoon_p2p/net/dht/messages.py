"""The messages of kad-dht 1.0 and how they travel: one request and one answer on a stream, each behind its length."""

from __future__ import annotations

from collections.abc import Iterable

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.limits import (
    ADDRESSES_PER_ANNOUNCEMENT_MAX,
    DHT_BUCKET_PEERS_MAX,
    DHT_PROVIDERS_MAX,
    DHT_VALUE_BYTES_MAX,
)
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes
from cocoon_p2p.net.multistream import ReadWriter, read_prefixed
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.protobuf import parsed, prefixed

KAD = "/cocoon/kad/1.0.0"
"""Not /ipfs/kad/1.0.0: in the library that name is a constant in six modules, and we would join the public DHT."""
MESSAGE_BYTES_MAX = DHT_VALUE_BYTES_MAX + (DHT_BUCKET_PEERS_MAX + DHT_PROVIDERS_MAX) * 1024
"""A record and, for each peer of the longest answer, an id and sixteen addresses."""
_KEY_BYTES_MAX = 512
_TYPES = frozenset(Message.MessageType.values())
_SHA2_256 = b"\x12\x20"  # multihash: sha2-256, 32 bytes
_CONTENT_ID_BYTES = 32


async def send_message(stream: ReadWriter, message: Message) -> None:
    await stream.write(prefixed(message))


async def read_message(stream: ReadWriter) -> Message:
    """Raises RemoteProtocolError for what is no message, TransportError when the stream ends."""
    return parse_message(await read_prefixed(stream, MESSAGE_BYTES_MAX))


def parse_message(raw: bytes) -> Message:
    """Raises RemoteProtocolError: MALFORMED, UNKNOWN_TAG, BOUND."""
    # SPEC kad/1 §3.2
    message = parsed(Message(), raw, "kad")
    if len(message.key) > _KEY_BYTES_MAX:
        raise RemoteProtocolError(f"kad: a key of {len(message.key)} bytes", code="BOUND")
    if message.type not in _TYPES:
        raise RemoteProtocolError(f"kad: no message of type {message.type}", code="UNKNOWN_TAG")
    return message


def provider_key(content_id: bytes) -> bytes:
    """The key under which a content id stands in ADD_PROVIDER and GET_PROVIDERS: a multihash, kad-dht 1.0. js-libp2p and
    go-libp2p refuse anything else, and it is what is hashed to the position."""
    # SPEC kad/1 §5
    return _SHA2_256 + content_id


def content_id_of(key: bytes) -> bytes:
    """The inverse of `provider_key`. Raises RemoteProtocolError for a key that is not the multihash of a SHA-256."""
    if len(key) != len(_SHA2_256) + _CONTENT_ID_BYTES or not key.startswith(_SHA2_256):
        raise RemoteProtocolError("kad: the key of a content is a sha2-256 multihash", code="MALFORMED")
    return key[len(_SHA2_256) :]


def add_peers(field: Iterable[Message.Peer], peers: Iterable[PeerId], book: AddressBook) -> None:
    """Append `peers` with the addresses we know of them to a repeated field."""
    for peer in peers:
        entry = field.add()  # type: ignore[attr-defined]
        entry.id = peer_id_to_bytes(peer)
        entry.addrs.extend(map(address_to_bytes, book.get(peer)))


def read_peers(field: Iterable[Message.Peer], count_max: int) -> list[tuple[PeerId, list[Address]]]:
    """The peers of a repeated field, each once; what is no Ed25519 peer id or no TCP address is left out."""
    peers: dict[PeerId, list[Address]] = {}
    for entry in list(field)[:count_max]:
        try:
            peer = peer_id_from_bytes(entry.id)
        except ValueError:
            continue
        found = map(address_from_bytes, entry.addrs[:ADDRESSES_PER_ANNOUNCEMENT_MAX])
        peers.setdefault(peer, [address for address in found if address is not None])
    return list(peers.items())
