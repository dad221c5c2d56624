"""Peer records: a peer's addresses under its own signature, so that others can pass them on.

A signed envelope (libp2p RFC 0002) round a routing record (RFC 0003). No IO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.limits import ADDRESSES_PER_ANNOUNCEMENT_MAX, PEER_RECORD_BYTES_MAX
from cocoon_p2p.net.addresses import Address, address_from_bytes, address_to_bytes
from cocoon_p2p.net.identify.envelope import EnvelopeKind, open_envelope, seal_envelope
from cocoon_p2p.net.pb.envelope_pb2 import PeerRecord as RecordMessage
from cocoon_p2p.net.protobuf import parsed

_KIND = EnvelopeKind("a peer record", b"libp2p-peer-record", b"\x03\x01")
"""Multicodec 0x0301, as two plain bytes: go-libp2p, core/peer/record.go."""
_SEQUENCE_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """Where a peer says it can be reached. Of two records of one peer the higher sequence number wins."""

    peer: PeerId
    sequence: int
    addresses: tuple[Address, ...]


def seal_peer_record(record: PeerRecord, sign: Callable[[bytes], bytes]) -> bytes:
    """The envelope round `record`. `sign` makes plain Ed25519 signatures with the key of `record.peer`."""
    # SPEC identity §4.3
    message = RecordMessage(peer_id=peer_id_to_bytes(record.peer), seq=record.sequence)
    for address in record.addresses:
        message.addresses.add(multiaddr=address_to_bytes(address))
    return seal_envelope(_KIND, record.peer, message.SerializeToString(), sign)


def open_peer_record(raw: bytes, peer: PeerId) -> PeerRecord:
    """The record of `peer` in this envelope; addresses of kinds that we don't dial are left out.

    Raises RemoteProtocolError: BOUND, MALFORMED, or SIGNATURE when it is not signed by `peer` or is about another.
    """
    # SPEC identity §4.3
    if len(raw) > PEER_RECORD_BYTES_MAX:
        raise RemoteProtocolError(f"a peer record of {len(raw)} bytes", code="BOUND")
    message = parsed(RecordMessage(), open_envelope(_KIND, raw, peer), _KIND.what)
    try:
        about = peer_id_from_bytes(message.peer_id)
    except ValueError as error:
        raise RemoteProtocolError(f"a peer record about nobody: {error}", code="MALFORMED") from error
    if about != peer:
        raise RemoteProtocolError(f"a peer record of {peer} about another", code="SIGNATURE")
    return PeerRecord(peer, message.seq, readable_addresses(info.multiaddr for info in message.addresses))


def readable_addresses(raw: Iterable[bytes]) -> tuple[Address, ...]:
    """Those that this network dials, each once, at most ADDRESSES_PER_ANNOUNCEMENT_MAX."""
    found = (address for each in raw if (address := address_from_bytes(each)) is not None)
    return tuple(dict.fromkeys(found))[:ADDRESSES_PER_ANNOUNCEMENT_MAX]


class RecordNumbers:
    """Sequence numbers that grow, from one start of the node to the next as well, as long as the clock does."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._last = 0

    def next(self) -> int:
        self._last = min(max(self._last + 1, self._now_ns()), _SEQUENCE_MAX)
        return self._last
