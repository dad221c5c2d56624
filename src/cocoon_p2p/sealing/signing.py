"""Ed25519 signatures of peers, each within a domain so that none can pass for another (protocols/identity/spec.md §3)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cocoon_p2p.ids import PeerId, peer_id_from_public_key, public_key_of

Bytes = bytes | bytearray | memoryview

SEED_BYTES = 32
_KEYS_REMEMBERED_MAX = 4096


class IdentityKey:
    """An Ed25519 key pair and the peer id it makes. Its text forms show the peer id and nothing secret."""

    __slots__ = ("_key", "peer_id", "public_key")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        """32 bytes."""
        self.peer_id = peer_id_from_public_key(self.public_key)

    @classmethod
    def generate(cls) -> IdentityKey:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> IdentityKey:
        """The key of RFC 8032's 32-byte private key. Raises ValueError for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"an Ed25519 seed has {SEED_BYTES} bytes, not {len(seed)}")
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The secret, 32 bytes: for the key file and the network's handshake, for nothing else."""
        return self._key.private_bytes_raw()

    def sign(self, domain: bytes, body: Bytes) -> bytes:
        """64 bytes: the signature of `domain ‖ 0x00 ‖ body`."""
        # SPEC identity §3.1
        return self._key.sign(_message(domain, body))

    def __repr__(self) -> str:
        return f"IdentityKey({self.peer_id})"


def verify_signature(peer_id: PeerId, domain: bytes, body: Bytes, signature: bytes) -> bool:
    """Whether `peer_id` signed these very bytes in this domain. False, too, for what is no peer id or no signature."""
    # SPEC identity §3.2
    try:
        public_key = _public_key(peer_id)
    except ValueError:
        return False
    return verify_with_key(public_key, domain, body, signature)


def verify_with_key(public_key: bytes, domain: bytes, body: Bytes, signature: bytes) -> bool:
    """The same with a raw 32-byte Ed25519 public key."""
    return verify_bytes(public_key, _message(domain, body), signature)


def verify_bytes(public_key: bytes, message: Bytes, signature: bytes) -> bool:
    """A plain Ed25519 signature, without a domain: what a TON contract checks of a voucher (voucher/1 §5)."""
    try:
        _verifier(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


_public_key = lru_cache(_KEYS_REMEMBERED_MAX)(public_key_of)
"""Reading base58 takes 10 µs. Raises ValueError."""


@lru_cache(_KEYS_REMEMBERED_MAX)
def _verifier(public_key: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(public_key)


def _message(domain: bytes, body: Bytes) -> bytes:
    return b"".join((domain, b"\0", body))
