"""Signed envelopes (libp2p RFC 0002): a message under its author's signature, so that others can pass it on. No IO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes, public_key_of
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.envelope_pb2 import Envelope
from cocoon_p2p.net.protobuf import parsed
from cocoon_p2p.sealing.signing import verify_bytes

_MULTIHASH_HEAD_BYTES = 2
"""Code (identity) and length."""


@dataclass(frozen=True, slots=True)
class EnvelopeKind:
    """What an envelope is for: one kind's signature is worth nothing in another."""

    what: str
    """For error texts: "a peer record"."""
    domain: bytes
    payload_type: bytes

    def signed(self, payload: bytes) -> bytes:
        """RFC 0002, "Signature Production / Verification"."""
        return b"".join(map(encode_prefixed, (self.domain, self.payload_type, payload)))


def public_key_message(peer: PeerId) -> bytes:
    """The protobuf PublicKey of a peer: the bytes that its id is made of (libp2p specs, peer-ids)."""
    return peer_id_to_bytes(peer)[_MULTIHASH_HEAD_BYTES:]


def seal_envelope(kind: EnvelopeKind, signer: PeerId, payload: bytes, sign: Callable[[bytes], bytes]) -> bytes:
    """`sign` makes plain Ed25519 signatures with the key of `signer`."""
    return Envelope(
        public_key=public_key_message(signer),
        payload_type=kind.payload_type,
        payload=payload,
        signature=sign(kind.signed(payload)),
    ).SerializeToString()


def open_envelope(kind: EnvelopeKind, raw: bytes, signer: PeerId) -> bytes:
    """The payload. Raises RemoteProtocolError: MALFORMED, or SIGNATURE when it is not signed by `signer`."""
    envelope = parsed(Envelope(), raw, kind.what)
    if envelope.payload_type != kind.payload_type:
        raise RemoteProtocolError(f"an envelope with something other than {kind.what}", code="MALFORMED")
    if envelope.public_key != public_key_message(signer):
        raise RemoteProtocolError(f"{kind.what} of another peer than {signer}", code="SIGNATURE")
    if not verify_bytes(public_key_of(signer), kind.signed(envelope.payload), envelope.signature):
        raise RemoteProtocolError(f"{kind.what} of {signer} with a wrong signature", code="SIGNATURE")
    return bytes(envelope.payload)
