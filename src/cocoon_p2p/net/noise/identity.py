"""How a peer proves in the Noise handshake who it is: the payload of messages 2 and 3.

https://github.com/libp2p/specs/blob/master/noise/README.md#the-libp2p-handshake-payload, and for `stream_muxers`
https://github.com/libp2p/specs/blob/master/connections/inlined-muxer-negotiation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from google.protobuf.message import DecodeError

from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.noise.handshake import HandshakeError
from cocoon_p2p.net.pb import noise_pb2

_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_ED25519_PREFIX = bytes.fromhex("08011220")
"""libp2p's PublicKey message of an Ed25519 key: field 1 = 1 (the type), field 2 = the 32 bytes."""
MUXERS_MAX = 16


@dataclass(frozen=True, slots=True)
class NoiseIdentity:
    """What one node handshakes with. The static key lives as long as the process, so it is signed but once."""

    peer: PeerId
    static: X25519PrivateKey = field(repr=False)
    payload: bytes = field(repr=False)
    muxers: tuple[str, ...]

    @classmethod
    def from_seed(cls, seed: bytes, muxers: Sequence[str]) -> NoiseIdentity:
        """`seed` is the Ed25519 identity's; `muxers` are offered in the handshake, the best first."""
        identity = Ed25519PrivateKey.from_private_bytes(seed)
        public = identity.public_key().public_bytes_raw()
        static = X25519PrivateKey.generate()
        signature = identity.sign(_SIGNED_PREFIX + static.public_key().public_bytes_raw())
        return cls(peer_id_from_public_key(public), static, _payload(public, signature, muxers), tuple(muxers))


@dataclass(frozen=True, slots=True)
class RemoteIdentity:
    peer: PeerId
    muxers: tuple[str, ...]
    """Those it offers in the handshake, the best first."""


def check_payload(payload: bytes, static_key: bytes) -> RemoteIdentity:
    """Who the other end has proven to be. Raises HandshakeError."""
    message = noise_pb2.NoiseHandshakePayload()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise HandshakeError("the handshake's payload cannot be read") from error
    if len(message.identity_key) != len(_ED25519_PREFIX) + 32 or not message.identity_key.startswith(_ED25519_PREFIX):
        raise HandshakeError("an identity of another kind than Ed25519, which this network does not use")
    public = message.identity_key[len(_ED25519_PREFIX) :]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(message.identity_sig, _SIGNED_PREFIX + static_key)
    except InvalidSignature as error:
        raise HandshakeError("the identity has not signed the handshake's key") from error
    return RemoteIdentity(peer_id_from_public_key(public), tuple(message.extensions.stream_muxers[:MUXERS_MAX]))


def agreed_muxer(initiators: Sequence[str], responders: Sequence[str]) -> str | None:
    """The initiator's first choice that the responder has; None: they must negotiate by multistream."""
    return next((muxer for muxer in initiators if muxer in responders), None)


def _payload(public: bytes, signature: bytes, muxers: Sequence[str]) -> bytes:
    message = noise_pb2.NoiseHandshakePayload(identity_key=_ED25519_PREFIX + public, identity_sig=signature)
    message.extensions.stream_muxers.extend(muxers)
    return message.SerializeToString()
