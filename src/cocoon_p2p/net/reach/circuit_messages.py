"""The messages of circuit relay v2, and reservation vouchers.

libp2p specs, relay/circuit-v2.md ("Protobuf", "Reservation Vouchers") and RFC 0002 (signed envelopes).
"""

from __future__ import annotations

from collections.abc import Callable

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.net.identify.envelope import EnvelopeKind, seal_envelope
from cocoon_p2p.net.multistream import ExactReader
from cocoon_p2p.net.pb import circuit_pb2
from cocoon_p2p.net.pb.circuit_pb2 import HopMessage, Limit, Peer, Reservation, Status, StopMessage, Voucher
from cocoon_p2p.net.protobuf import prefixed, read_into

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
MESSAGE_BYTES_MAX = 4096
"""go-libp2p's bound."""

_VOUCHER = EnvelopeKind("a reservation voucher", b"libp2p-relay-rsvp", b"\x03\x02")
"""Multicodec 0x0302, as two plain bytes: go-libp2p, p2p/protocol/circuitv2/proto/voucher.go."""

_REASONS = {
    circuit_pb2.RESERVATION_REFUSED: "the relay gives us no reservation",
    circuit_pb2.RESOURCE_LIMIT_EXCEEDED: "the relay is full",
    circuit_pb2.PERMISSION_DENIED: "the relay does not serve us",
    circuit_pb2.CONNECTION_FAILED: "the relay could not reach the peer",
    circuit_pb2.NO_RESERVATION: "the peer holds no reservation at that relay",
    circuit_pb2.MALFORMED_MESSAGE: "the relay did not understand us",
    circuit_pb2.UNEXPECTED_MESSAGE: "the relay expected another message",
}


async def read_hop(stream: ExactReader) -> HopMessage:
    """Raises RemoteProtocolError, and TransportError when the stream ends."""
    return await read_into(HopMessage(), stream, MESSAGE_BYTES_MAX, "circuit")


async def read_stop(stream: ExactReader) -> StopMessage:
    """Raises RemoteProtocolError, and TransportError when the stream ends."""
    return await read_into(StopMessage(), stream, MESSAGE_BYTES_MAX, "circuit")


def encode(message: HopMessage | StopMessage) -> bytes:
    return prefixed(message)


def hop_status(status: Status, *, reservation: Reservation | None = None, limit: Limit | None = None) -> bytes:
    return encode(HopMessage(type=HopMessage.STATUS, status=status, reservation=reservation, limit=limit))


def stop_status(status: Status) -> bytes:
    return encode(StopMessage(type=StopMessage.STATUS, status=status))


def hop_connect(peer: PeerId) -> bytes:
    return encode(HopMessage(type=HopMessage.CONNECT, peer=Peer(id=peer_id_to_bytes(peer))))


def stop_connect(source: PeerId, limit: Limit) -> bytes:
    return encode(StopMessage(type=StopMessage.CONNECT, peer=Peer(id=peer_id_to_bytes(source)), limit=limit))


def named_peer(message: HopMessage | StopMessage) -> PeerId:
    """Raises RemoteProtocolError when it names none, or one of another kind than Ed25519."""
    try:
        return peer_id_from_bytes(message.peer.id)
    except ValueError as error:
        raise RemoteProtocolError(f"circuit: {error}", code="MALFORMED") from error


def require_ok(answer: HopMessage) -> None:
    """Raises TransportError with the status as its code, RemoteProtocolError for an answer that is no status."""
    if answer.type != HopMessage.STATUS:
        raise RemoteProtocolError("circuit: the relay answered with something other than a status", code="MALFORMED")
    if answer.status != circuit_pb2.OK:
        named = answer.status in Status.values()
        raise TransportError(
            _REASONS.get(answer.status, f"the relay refused, status {int(answer.status)}"),
            outcome_known=True,
            code=Status.Name(answer.status) if named else "RELAY_REFUSED",
        )


def seal_voucher(sign: Callable[[bytes], bytes], relay: PeerId, peer: PeerId, expires_unix_s: int) -> bytes:
    """The relay's word that `peer` holds a reservation, in a signed envelope. `sign` makes plain Ed25519 signatures with
    the key of `relay`."""
    voucher = Voucher(relay=peer_id_to_bytes(relay), peer=peer_id_to_bytes(peer), expiration=expires_unix_s)
    return seal_envelope(_VOUCHER, relay, voucher.SerializeToString(), sign)
