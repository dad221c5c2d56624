"""X-Wing and HPKE's base mode by the letter of their documents, so that a box is the same every time and no library's HPKE
checks itself: draft-connolly-cfrg-xwing-kem, RFC 9180 §5.1 and §6.1. ML-KEM, X25519 and AES-GCM come from `cryptography`."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUITE_ID = b"HPKE" + (0x647A).to_bytes(2, "big") + (0x0001).to_bytes(2, "big") + (0x0002).to_bytes(2, "big")


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()


def expand(key: bytes, info: bytes, size: int) -> bytes:
    out, block = b"", b""
    while len(out) < size:
        block = hmac.new(key, block + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += block
    return out[:size]


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    return expand(extract(salt, ikm), info, 32)


def labeled_extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + SUITE_ID + label + ikm)


def labeled_expand(key: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return expand(key, size.to_bytes(2, "big") + b"HPKE-v1" + SUITE_ID + label + info, size)


def private_keys(seed: bytes) -> tuple[MLKEM768PrivateKey, X25519PrivateKey]:
    expanded = hashlib.shake_256(seed).digest(96)
    return MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), X25519PrivateKey.from_private_bytes(expanded[64:])


def public_key(seed: bytes) -> bytes:
    lattice, curve = private_keys(seed)
    return lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()


def shared_secret(seed: bytes, encapsulated: bytes) -> bytes:
    lattice, curve = private_keys(seed)
    lattice_secret = lattice.decapsulate(encapsulated[:1088])
    curve_secret = curve.exchange(X25519PublicKey.from_public_bytes(encapsulated[1088:]))
    combined = lattice_secret + curve_secret + encapsulated[1088:] + curve.public_key().public_bytes_raw() + b"\\.//^\\"
    return hashlib.sha3_256(combined).digest()


def seal(seed: bytes, encapsulated: bytes, info: bytes, plaintext: bytes) -> bytes:
    """What HPKE's single-shot Seal gives to the owner of `seed` when its encapsulation drew `encapsulated`."""
    context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
    secret = labeled_extract(shared_secret(seed, encapsulated), b"secret", b"")
    key = labeled_expand(secret, b"key", context, 32)
    nonce = labeled_expand(secret, b"base_nonce", context, 12)
    return encapsulated + AESGCM(key).encrypt(nonce, plaintext, b"")
