"""Envelopes: a request sealed to a provider's key, its payload in chunks, and the response (protocols/seal/1/spec.md).

    box      = HPKE base mode (X-Wing, HKDF-SHA256, AES-256-GCM), info = "cocoon-p2p/1 request" ‖ SHA-256(header),
               of payload secret (32) ‖ response secret (32) ‖ extension
    request  = chunks under HKDF(payload secret, salt = SHA-256(header), info = "cocoon-p2p/1 req payload")
    response = chunks under HKDF(response secret, salt = SHA-256(header) ‖ SHA-256(response header),
               info = "cocoon-p2p/1 response")
    chunk i  = AES-256-GCM of up to 64 KiB, nonce = i (11 bytes, big-endian) ‖ 1 if it is the last, else 0

The headers are clear; every key depends on their exact bytes, so one altered bit makes everything unreadable. What is in
them is `wire.seal`'s to know. Secrets live in memory only and show in no text.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError
from cocoon_p2p.limits import BOX_BYTES_MAX, CHUNK_BYTES, CHUNK_OVERHEAD_BYTES, CHUNKS_PER_FRAME_MAX
from cocoon_p2p.sealing.frames import FrameOpener, FrameSealer, nonce_at

Bytes = bytes | bytearray | memoryview

SEAL_SEED_BYTES = 32
SEAL_PUBLIC_KEY_BYTES = 1216
_MLKEM_PUBLIC_KEY_BYTES = 1184
_MLKEM_SEED_BYTES = 64
_SECRET_BYTES = 32
_PUBLIC_KEYS_REMEMBERED_MAX = 64
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_REQUEST_LABEL = b"cocoon-p2p/1 request"
_PAYLOAD_LABEL = b"cocoon-p2p/1 req payload"
_RESPONSE_LABEL = b"cocoon-p2p/1 response"
_KEY_ID_LABEL = b"cocoon-p2p/key-id/1\0"
_COMMITMENT_LABEL = b"cocoon-p2p/secrets/1\0"
_BOX_OVERHEAD_BYTES = 1120 + CHUNK_OVERHEAD_BYTES  # X-Wing's encapsulated key, the tag
EXTENSION_BYTES_MAX = BOX_BYTES_MAX - _BOX_OVERHEAD_BYTES - 2 * _SECRET_BYTES


def ciphertext_bytes(payload_bytes: int, *, plain: bool = False) -> int:
    """How long the chunks of a payload are together; `plain` for tier open, whose chunks are the payload itself."""
    if plain:
        return payload_bytes
    return payload_bytes + CHUNK_OVERHEAD_BYTES * max(1, -(-payload_bytes // CHUNK_BYTES))


class ChunkSealer:
    """Seals one stream of chunks, in order, to its final chunk. Without a cipher (tier open) the bytes pass as they are."""

    __slots__ = ("_cipher", "_index", "_overhead", "finished")

    def __init__(self, cipher: AESGCM | None) -> None:
        self._cipher = cipher
        self._overhead = 0 if cipher is None else CHUNK_OVERHEAD_BYTES
        self._index = 0
        self.finished = False
        """The final chunk was sealed."""

    @property
    def encrypts(self) -> bool:
        """False for tier open."""
        return self._cipher is not None

    def seal(self, plaintext: Bytes, final: bool) -> bytearray:
        """The chunks of the next 1 to 16 × 64 KiB of the stream; a multiple of 64 KiB unless `final`. Only a stream that
        is empty altogether has an empty final piece. Raises LocalProtocolError."""
        out = bytearray(self.sealed_bytes(len(plaintext)))
        self.seal_into(plaintext, memoryview(out), final)
        return out

    def sealed_bytes(self, plaintext_bytes: int) -> int:
        return ciphertext_bytes(plaintext_bytes, plain=self._cipher is None)

    def seal_into(self, plaintext: Bytes, out: memoryview, final: bool) -> int:
        """The same into the start of `out`; the number of bytes written."""
        size = len(plaintext)
        sealed = self.sealed_bytes(size)
        if self.finished or size > CHUNKS_PER_FRAME_MAX * CHUNK_BYTES or sealed > len(out):
            raise LocalProtocolError("sealing after the final chunk, more than a frame, or into too small a buffer")
        if size % CHUNK_BYTES and not final:
            raise LocalProtocolError("only the final piece may be shorter than whole chunks")
        if not size and not (final and self._index == 0):
            raise LocalProtocolError("only an empty stream has an empty piece")
        self.finished = final
        if self._cipher is None:
            out[:size] = plaintext
            self._index += 1
            return size
        view, written = memoryview(plaintext), 0
        for start in range(0, max(size, 1), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            nonce = nonce_at(self._index, final and start + CHUNK_BYTES >= size)
            end = written + len(chunk) + CHUNK_OVERHEAD_BYTES
            self._cipher.encrypt_into(nonce, chunk, None, out[written:end])
            self._index += 1
            written = end
        return written


class ChunkOpener:
    """Opens one stream of chunks. What is altered, out of order, repeated, cut short or too long raises
    RemoteProtocolError(code="ENVELOPE"), and so does everything after that."""

    __slots__ = ("_broken", "_cipher", "_index", "finished")

    def __init__(self, cipher: AESGCM | None) -> None:
        self._cipher = cipher
        self._index = 0
        self._broken = False
        self.finished = False
        """The final chunk was opened: nothing was cut off."""

    def open_into(self, ciphertext: Bytes, out: memoryview, final: bool) -> int:
        """Open the whole chunks in `ciphertext` into the start of `out`; the number of bytes of plaintext. `final` says
        that the last of them ends the stream."""
        # SPEC seal/1 §6.2
        plaintext_bytes = self._expect(len(ciphertext), final)
        if plaintext_bytes > len(out):
            self._fail("more bytes than the header announced")
        if self._cipher is None:
            out[:plaintext_bytes] = ciphertext
            self._index += 1
        else:
            self._open_chunks(self._cipher, memoryview(ciphertext), out, final)
        self.finished = final
        return plaintext_bytes

    def _expect(self, size: int, final: bool) -> int:
        """How many bytes of plaintext a piece of `size` bytes must have; fails if no honest sender makes such a piece."""
        overhead = 0 if self._cipher is None else CHUNK_OVERHEAD_BYTES
        count, rest = divmod(size, CHUNK_BYTES + overhead)
        empty_stream = final and size == overhead and self._index == 0
        if self._broken or self.finished:
            self._fail("a piece after the stream's end")
        if count + (rest > 0) > CHUNKS_PER_FRAME_MAX:
            self._fail("a piece longer than a frame")
        if not empty_stream and (not size or (rest and (not final or rest <= overhead))):
            self._fail("a piece that is not whole chunks")
        return size - overhead * (count + (rest > 0))

    def _open_chunks(self, cipher: AESGCM, sealed: memoryview, out: memoryview, final: bool) -> None:
        size, written = len(sealed), 0
        for start in range(0, size, CHUNK_BYTES + CHUNK_OVERHEAD_BYTES):
            chunk = sealed[start : start + CHUNK_BYTES + CHUNK_OVERHEAD_BYTES]
            nonce = nonce_at(self._index, final and start + len(chunk) == size)
            end = written + len(chunk) - CHUNK_OVERHEAD_BYTES
            try:
                cipher.decrypt_into(nonce, chunk, None, out[written:end])
            except InvalidTag:
                out[:end] = bytes(end)  # of a piece that does not open whole, nothing is handed out
                self._fail(f"chunk {self._index} is altered, out of order, or not the last as it says")
            self._index += 1
            written = end

    def _fail(self, why: str) -> None:
        self._broken = True
        raise RemoteProtocolError(f"sealed stream: {why}", code="ENVELOPE")


class RequestSecrets:
    """The two secrets of one request, 32 bytes each. They are new for every request and show in no text."""

    __slots__ = ("payload", "response")

    def __init__(self, payload: bytes, response: bytes) -> None:
        self.payload = payload
        self.response = response

    @classmethod
    def draw(cls) -> RequestSecrets:
        return cls(os.urandom(_SECRET_BYTES), os.urandom(_SECRET_BYTES))

    @property
    def commitment(self) -> bytes:
        """32 bytes, for the envelope's header."""
        # SPEC seal/1 §4.5
        return hashlib.sha256(_COMMITMENT_LABEL + self.payload + self.response).digest()

    def payload_sealer(self, header: Bytes) -> ChunkSealer:
        """Seals the input's payload as it was sent: with the same secrets the same bytes come out."""
        return ChunkSealer(_payload_cipher(self.payload, hashlib.sha256(header).digest()))

    def response_sealer(self, header: Bytes, response_header: Bytes) -> ChunkSealer:
        """The same for the output's payload."""
        return ChunkSealer(_response_cipher(self.response, hashlib.sha256(header).digest(), response_header))


class SealedRequest:
    """The client's side of one envelope."""

    __slots__ = ("_header_hash", "box", "sealer", "secrets")

    def __init__(self, box: bytes, sealer: ChunkSealer, header_hash: bytes, secrets: RequestSecrets | None) -> None:
        self.secrets = secrets
        """None for tier open."""
        self.box = box
        """Goes to the provider beside the header; empty for tier open."""
        self.sealer = sealer
        """For the input's payload."""
        self._header_hash = header_hash

    def response_opener(self, response_header: Bytes) -> ChunkOpener:
        """For the output's payload, given the response header's exact bytes."""
        secret = None if self.secrets is None else self.secrets.response
        return ChunkOpener(_response_cipher(secret, self._header_hash, response_header))

    def frame_opener(self, response_header: Bytes) -> FrameOpener:
        """Likewise, for an answer in frames."""
        secret = None if self.secrets is None else self.secrets.response
        return FrameOpener(_response_cipher(secret, self._header_hash, response_header))


class OpenedRequest:
    """The provider's side of one envelope."""

    __slots__ = ("_header_hash", "_response_secret", "_sealed", "commitment", "extension", "opener")

    def __init__(
        self,
        opener: ChunkOpener,
        extension: bytes,
        header_hash: bytes,
        secrets: RequestSecrets | None,
    ) -> None:
        self.commitment = None if secrets is None else secrets.commitment
        """Of the secrets in the box; None for tier open."""
        self.opener = opener
        """For the input's payload."""
        self.extension = extension
        """What the client put into the box beside the secrets."""
        self._header_hash = header_hash
        self._response_secret = None if secrets is None else secrets.response
        self._sealed: set[bytes] = set()

    def response_sealer(self, response_header: Bytes) -> ChunkSealer:
        """For the output's payload. The header has a random nonce: one used before would use up AES-GCM's nonces twice,
        and raises LocalProtocolError."""
        return ChunkSealer(self._response_cipher(response_header))

    def frame_sealer(self, response_header: Bytes) -> FrameSealer:
        """Likewise, for an answer in frames."""
        return FrameSealer(self._response_cipher(response_header))

    def _response_cipher(self, response_header: Bytes) -> AESGCM | None:
        # SPEC seal/1 §5.2
        header = bytes(response_header)
        if header in self._sealed:
            raise LocalProtocolError("a second response under one response header")
        self._sealed.add(header)
        return _response_cipher(self._response_secret, self._header_hash, header)


class SealKey:
    """A provider's X-Wing key pair: made in memory, never written anywhere."""

    __slots__ = ("_key", "key_id", "public_key")

    def __init__(self, seed: bytes) -> None:
        """Of a 32-byte X-Wing decapsulation key (draft-connolly-cfrg-xwing-kem §5.2); see `generate`."""
        if len(seed) != SEAL_SEED_BYTES:
            raise ValueError(f"an X-Wing seed has {SEAL_SEED_BYTES} bytes, not {len(seed)}")
        expanded = hashlib.shake_256(seed).digest(_MLKEM_SEED_BYTES + 32)
        lattice = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:_MLKEM_SEED_BYTES])
        curve = x25519.X25519PrivateKey.from_private_bytes(expanded[_MLKEM_SEED_BYTES:])
        self._key = hpke.MLKEM768X25519PrivateKey(lattice, curve)
        self.public_key = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        """1216 bytes: ML-KEM-768 (1184) ‖ X25519 (32)."""
        self.key_id = hashlib.sha256(_KEY_ID_LABEL + self.public_key).digest()[:16]

    @classmethod
    def generate(cls) -> SealKey:
        return cls(os.urandom(SEAL_SEED_BYTES))

    def open_request(self, header: Bytes, box: Bytes) -> OpenedRequest:
        """Raises RemoteProtocolError(code="ENVELOPE") unless the box was sealed to this key with this very header."""
        # SPEC seal/1 §4.2
        header_hash = hashlib.sha256(header).digest()
        if not _BOX_OVERHEAD_BYTES + 2 * _SECRET_BYTES <= len(box) <= BOX_BYTES_MAX:
            raise RemoteProtocolError(f"a box of {len(box)} bytes", code="ENVELOPE")
        try:
            plaintext = _SUITE.decrypt(bytes(box), self._key, _REQUEST_LABEL + header_hash)
        except (InvalidTag, ValueError) as error:
            raise RemoteProtocolError("the box does not open with this key and header", code="ENVELOPE") from error
        secrets = RequestSecrets(plaintext[:_SECRET_BYTES], plaintext[_SECRET_BYTES : 2 * _SECRET_BYTES])
        opener = ChunkOpener(_payload_cipher(secrets.payload, header_hash))
        return OpenedRequest(opener, plaintext[2 * _SECRET_BYTES :], header_hash, secrets)

    def __repr__(self) -> str:
        return f"SealKey({self.key_id.hex()})"


def seal_request(public_key: bytes, header: Bytes, secrets: RequestSecrets, *, extension: bytes = b"") -> SealedRequest:
    """Seal a request's secrets to a provider's seal key (1216 bytes), bound to the header's exact bytes. The header holds
    their commitment.

    Raises RemoteProtocolError(code="ENVELOPE") when the public key, which came from a peer, is none."""
    # SPEC seal/1 §4.2
    if len(extension) > EXTENSION_BYTES_MAX:
        raise LocalProtocolError(f"an extension of {len(extension)} bytes; at most {EXTENSION_BYTES_MAX}")
    header_hash = hashlib.sha256(header).digest()
    plaintext = secrets.payload + secrets.response + extension
    try:
        box = _SUITE.encrypt(plaintext, _public_key(public_key), _REQUEST_LABEL + header_hash)
    except ValueError as error:
        raise RemoteProtocolError("the seal key cannot be sealed to", code="ENVELOPE") from error
    return SealedRequest(box, ChunkSealer(_payload_cipher(secrets.payload, header_hash)), header_hash, secrets)


def plain_request(header: Bytes) -> SealedRequest:
    """Tier open: an empty box, and chunks that are the payload itself."""
    return SealedRequest(b"", ChunkSealer(None), hashlib.sha256(header).digest(), None)


def plain_opened(header: Bytes) -> OpenedRequest:
    """The provider's side of `plain_request`."""
    return OpenedRequest(ChunkOpener(None), b"", hashlib.sha256(header).digest(), None)


@lru_cache(_PUBLIC_KEYS_REMEMBERED_MAX)  # taking ML-KEM's key apart takes 30 µs, and one serves for ten minutes
def _public_key(raw: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(raw) != SEAL_PUBLIC_KEY_BYTES:
        raise ValueError(f"a seal key has {SEAL_PUBLIC_KEY_BYTES} bytes, not {len(raw)}")
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(raw[:_MLKEM_PUBLIC_KEY_BYTES]),
        x25519.X25519PublicKey.from_public_bytes(raw[_MLKEM_PUBLIC_KEY_BYTES:]),
    )


def _payload_cipher(secret: bytes, header_hash: bytes) -> AESGCM:
    return AESGCM(HKDF(hashes.SHA256(), 32, header_hash, _PAYLOAD_LABEL).derive(secret))


def _response_cipher(secret: bytes | None, header_hash: bytes, response_header: Bytes) -> AESGCM | None:
    if secret is None:
        return None
    salt = header_hash + hashlib.sha256(response_header).digest()
    return AESGCM(HKDF(hashes.SHA256(), 32, salt, _RESPONSE_LABEL).derive(secret))
