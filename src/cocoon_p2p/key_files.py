"""Ed25519 keys as PKCS8 PEM texts, plain or encrypted with a passphrase; `openssl pkey` reads both.

`cryptography` writes encrypted PKCS8 with 2048 rounds of PBKDF2 and offers nothing else, which a graphics card tries
millions of times a second. So the envelope is written here: PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC.
Reading is `cryptography`'s.
"""

from __future__ import annotations

import base64
import os
import textwrap
from collections.abc import Iterable

# OWASP's figure for scrypt in 16 MiB, which is below the 32 MiB that OpenSSL grants it: 0.1 s a guess (measured).
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5
SALT_BYTES = 16
AES_BLOCK_BYTES = 16
AES_KEY_BYTES = 32

_LABEL = "ENCRYPTED PRIVATE KEY"
_INTEGER, _OCTETS, _OID, _SEQUENCE = 0x02, 0x04, 0x06, 0x30
_PBES2 = bytes.fromhex("2a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("2b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES_256_CBC = bytes.fromhex("60864801650304012a")  # 2.16.840.1.101.3.4.1.42


class KeyUnreadable(ValueError):
    """Not the PEM of an Ed25519 key, or the passphrase is wrong; the message says which it can be."""


def is_encrypted(pem: bytes) -> bool:
    """Whether a passphrase is needed to read it."""
    return _LABEL.encode() in pem


def encode_key(seed: bytes, passphrase: bytes | None) -> bytes:
    """The PEM of an Ed25519 key (its 32-byte seed), encrypted when there is a passphrase."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    encoding = serialization.Encoding.PEM if passphrase is None else serialization.Encoding.DER
    plain = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return plain if passphrase is None else _pem(_encrypted(plain, passphrase))


def decode_key(pem: bytes, passphrase: bytes | None) -> bytes:
    """The 32-byte seed. A passphrase that is not needed is not used. Raises KeyUnreadable."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    encrypted = is_encrypted(pem)
    try:
        key = load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        what = "the passphrase is wrong, or the file is damaged" if encrypted else "the file is damaged"
        raise KeyUnreadable(what) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadable("it is of another kind than Ed25519")
    return key.private_bytes_raw()


def _encrypted(plain: bytes, passphrase: bytes) -> bytes:
    """EncryptedPrivateKeyInfo of RFC 5958 §3."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    salt, iv = os.urandom(SALT_BYTES), os.urandom(AES_BLOCK_BYTES)
    key = Scrypt(salt=salt, length=AES_KEY_BYTES, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase)
    padding = AES_BLOCK_BYTES - len(plain) % AES_BLOCK_BYTES
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    ciphertext = encryptor.update(plain + bytes([padding]) * padding) + encryptor.finalize()
    costs = [_integer(SCRYPT_N), _integer(SCRYPT_R), _integer(SCRYPT_P)]
    derivation = _sequence([_der(_OID, _SCRYPT), _sequence([_der(_OCTETS, salt), *costs])])
    cipher = _sequence([_der(_OID, _AES_256_CBC), _der(_OCTETS, iv)])
    scheme = _sequence([_der(_OID, _PBES2), _sequence([derivation, cipher])])
    return _sequence([scheme, _der(_OCTETS, ciphertext)])


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {_LABEL}-----", *lines, f"-----END {_LABEL}-----", ""]).encode()


def _integer(value: int) -> bytes:
    return _der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1))


def _sequence(parts: Iterable[bytes]) -> bytes:
    return _der(_SEQUENCE, b"".join(parts))


def _der(tag: int, content: bytes) -> bytes:
    """One element of DER; nothing here is longer than 255 bytes."""
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return bytes([tag]) + length + content
