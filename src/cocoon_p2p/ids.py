"""Identifiers: peer ids, model ids, job ids, and the texts people read and type for them.

A peer id is libp2p's: the identity multihash of the protobuf-encoded Ed25519 public key, in base58btc
(libp2p specs, peer-ids/peer-ids.md). The public key can therefore be read from the id itself, and every signature of
this package is checked against the id alone. protocols/identity/spec.md has the rules and the vectors.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from functools import lru_cache
from typing import NewType

PeerId = NewType("PeerId", str)
"""Base58btc text of a libp2p peer id of an Ed25519 key, "12D3KooW…", 52 characters."""

ModelId = NewType("ModelId", str)
"""SHA-256 of a model's canonical manifest, 64 lower-case hexadecimal digits."""

JobId = NewType("JobId", bytes)
"""16 random bytes, drawn by the client."""


class Tier(IntEnum):
    """Who can see a job's input. The numbers are on the wire and never change."""

    OPEN = 1
    """Encrypted between neighbours only: relays that terminate, gateways and the provider see it."""
    SEALED = 2
    """Nobody but the chosen provider's process; its operator could."""
    ATTESTED = 3
    """Not the provider's operator either: proven by attested hardware."""


PUBLIC_KEY_BYTES = 32
MODEL_ID_BYTES = 32
JOB_ID_BYTES = 16
# identity multihash (0x00), 36 bytes (0x24), protobuf field 1 = key type Ed25519 (0x08 0x01), field 2 = 32 bytes (0x12 0x20)
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
PEER_ID_BYTES = len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES

_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_INDEX = {char: i for i, char in enumerate(_BASE58)}


def peer_id_from_public_key(public_key: bytes) -> PeerId:
    """The peer id of a raw 32-byte Ed25519 public key. Raises ValueError for another length."""
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"an Ed25519 public key has {PUBLIC_KEY_BYTES} bytes, not {len(public_key)}")
    return PeerId(_base58_encode(_PEER_ID_PREFIX + public_key))


def public_key_of(peer_id: PeerId) -> bytes:
    """The raw 32-byte Ed25519 public key within a peer id. Raises ValueError if it holds none."""
    return peer_id_to_bytes(peer_id)[len(_PEER_ID_PREFIX) :]


def peer_id_to_bytes(peer_id: PeerId) -> bytes:
    """The 38 bytes of the multihash, the form peer ids have on the wire. Raises ValueError."""
    raw = _base58_decode(peer_id)
    if len(raw) != PEER_ID_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError(f"{peer_id[:64]!r} is no peer id of an Ed25519 key (they begin with 12D3KooW)")
    return raw


def peer_id_from_bytes(raw: bytes) -> PeerId:
    """The peer id of its 38-byte multihash. Raises ValueError for anything but an Ed25519 identity multihash."""
    if len(raw) != PEER_ID_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError("not the multihash of an Ed25519 peer id")
    return PeerId(_base58_encode(bytes(raw)))


def parse_peer_id(text: str) -> PeerId:
    """A peer id that a person typed. Raises ValueError."""
    peer_id = PeerId(text.strip())
    peer_id_to_bytes(peer_id)
    return peer_id


def model_id_of(canonical_manifest: bytes) -> ModelId:
    """The id of a model: SHA-256 of its canonical manifest."""
    return ModelId(hashlib.sha256(canonical_manifest).hexdigest())


def model_id_to_bytes(model_id: ModelId) -> bytes:
    """32 bytes. Raises ValueError."""
    if not is_model_id(model_id):
        raise ValueError(f"{model_id[:80]!r} is no model id: 64 lower-case hexadecimal digits are needed")
    return bytes.fromhex(model_id)


def model_id_from_bytes(raw: bytes) -> ModelId:
    """Raises ValueError for another length than 32."""
    if len(raw) != MODEL_ID_BYTES:
        raise ValueError(f"a model id has {MODEL_ID_BYTES} bytes, not {len(raw)}")
    return ModelId(raw.hex())


def is_model_id(text: str) -> bool:
    """Whether `text` has the form of a model id (as opposed to a model's name)."""
    return len(text) == 2 * MODEL_ID_BYTES and all(c in "0123456789abcdef" for c in text)


@lru_cache(maxsize=16_384)  # a lookup reads and writes the same hundred ids a thousand times
def _base58_encode(raw: bytes) -> str:
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    number = int.from_bytes(raw)
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    return "1" * zeros + "".join(reversed(digits))


@lru_cache(maxsize=16_384)
def _base58_decode(text: str) -> bytes:
    if len(text) > 2 * PEER_ID_BYTES:  # quadratic work: never on more than a peer id can have
        raise ValueError("too long for a peer id")
    number = 0
    for char in text:
        if char not in _BASE58_INDEX:
            raise ValueError(f"{char!r} is no base58 digit")
        number = number * 58 + _BASE58_INDEX[char]
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8)
