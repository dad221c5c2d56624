"""Noise_XX_25519_ChaChaPoly_SHA256 as a machine without IO or randomness.

    -> e
    <- e, ee, s, es
    -> s, se

The Noise Protocol Framework, revision 34 (https://noiseprotocol.org/noise.html), sections 5 and 7. Every error of the
other end is a HandshakeError; what raised one is of no use any more.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

PROTOCOL_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
KEY_BYTES = 32
TAG_BYTES = 16
NONCE_MAX = 2**64 - 2
"""2^64 - 1 is reserved (Noise §5.1)."""
_PATTERN = (("e",), ("e", "ee", "s", "es"), ("s", "se"))


class HandshakeError(ValueError):
    """The other end broke the rules, or somebody in between did."""


def nonce_of(number: int) -> bytes:
    """Four zero bytes and the number, little-endian (Noise §12.3)."""
    return (number << 32).to_bytes(12, "little")


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """What the handshake yields (Noise's Split): one key for each direction."""

    send: bytes
    receive: bytes
    handshake_hash: bytes

    def __repr__(self) -> str:
        return "TransportKeys(…)"


class SymmetricState:
    """Noise §5.2, the cipher of §5.1 with it: a key that is replaced with every secret that comes in, and a running hash."""

    def __init__(self, prologue: bytes) -> None:
        self._hash = PROTOCOL_NAME  # 32 bytes: a name of the hash's length stands for itself
        self._chaining_key = PROTOCOL_NAME
        self._cipher: ChaCha20Poly1305 | None = None
        self._nonce = 0
        self.mix_hash(prologue)

    @property
    def handshake_hash(self) -> bytes:
        return self._hash

    def mix_hash(self, data: bytes) -> None:
        self._hash = hashlib.sha256(self._hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chaining_key, key = _hkdf(self._chaining_key, secret)
        self._cipher, self._nonce = ChaCha20Poly1305(key), 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        sealed = plaintext
        if self._cipher is not None:
            sealed = self._cipher.encrypt(self._next_nonce(), plaintext, self._hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        plaintext = sealed
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(self._next_nonce(), sealed, self._hash)
            except InvalidTag as error:
                raise HandshakeError("a handshake message does not authenticate") from error
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        return _hkdf(self._chaining_key, b"")

    def _next_nonce(self) -> bytes:
        self._nonce += 1
        return nonce_of(self._nonce - 1)


class XXHandshake:
    """One end. The messages are written and read in turn, the initiator first; after the third, `keys()`.

    `static` and `ephemeral` are our private keys; an ephemeral one must never be used twice.
    """

    def __init__(
        self, *, initiator: bool, static: X25519PrivateKey, ephemeral: X25519PrivateKey, prologue: bytes = b""
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._state = SymmetricState(prologue)
        self._messages = 0
        self._remote_static: X25519PublicKey | None = None
        self._remote_ephemeral: X25519PublicKey | None = None

    @property
    def remote_static(self) -> bytes:
        """The other end's static public key; known after its message 2 or 3."""
        assert self._remote_static is not None
        return self._remote_static.public_bytes_raw()

    def write(self, payload: bytes = b"") -> bytes:
        """Our next message. The payload of message 1 is readable to everybody."""
        message = b"".join(map(self._write_token, self._next_tokens(ours=True)))
        return message + self._state.encrypt_and_hash(payload)

    def read(self, message: bytes) -> bytes:
        """The payload of the other end's next message. Raises HandshakeError."""
        rest = message
        for token in self._next_tokens(ours=False):
            rest = self._read_token(token, rest)
        return self._state.decrypt_and_hash(rest)

    def keys(self) -> TransportKeys:
        assert self._messages == len(_PATTERN), "the handshake is not over"
        first, second = self._state.split()
        send, receive = (first, second) if self._initiator else (second, first)
        return TransportKeys(send, receive, self._state.handshake_hash)

    def _next_tokens(self, *, ours: bool) -> tuple[str, ...]:
        assert ((self._messages % 2 == 0) == self._initiator) == ours, "not this end's turn"
        self._messages += 1
        return _PATTERN[self._messages - 1]

    def _write_token(self, token: str) -> bytes:
        if token == "e":
            public = self._ephemeral.public_key().public_bytes_raw()
            self._state.mix_hash(public)
            return public
        if token == "s":
            return self._state.encrypt_and_hash(self._static.public_key().public_bytes_raw())
        self._mix_secret(token)
        return b""

    def _read_token(self, token: str, rest: bytes) -> bytes:
        if token == "e":
            public, rest = _taken(rest, KEY_BYTES)
            self._remote_ephemeral = X25519PublicKey.from_public_bytes(public)
            self._state.mix_hash(public)
        elif token == "s":
            sealed, rest = _taken(rest, KEY_BYTES + TAG_BYTES)
            self._remote_static = X25519PublicKey.from_public_bytes(self._state.decrypt_and_hash(sealed))
        else:
            self._mix_secret(token)
        return rest

    def _mix_secret(self, token: str) -> None:
        """ee, es or se: the initiator's key comes first."""
        ours, theirs = (token[0], token[1]) if self._initiator else (token[1], token[0])
        private = self._ephemeral if ours == "e" else self._static
        public = self._remote_ephemeral if theirs == "e" else self._remote_static
        assert public is not None
        try:
            self._state.mix_key(private.exchange(public))
        except ValueError as error:  # of low order: the secret would be the same for everybody
            raise HandshakeError("a public key of low order") from error


def _taken(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise HandshakeError("a handshake message is too short")
    return data[:size], data[size:]


def _hkdf(chaining_key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Noise §4.3, two outputs."""
    temporary = hmac.digest(chaining_key, material, "sha256")
    first = hmac.digest(temporary, b"\x01", "sha256")
    return first, hmac.digest(temporary, first + b"\x02", "sha256")
