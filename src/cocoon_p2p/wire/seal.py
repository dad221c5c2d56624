"""seal/1: seal key records and the clear headers of envelopes (protocols/seal/1/spec.md). The sealing is in `sealing/`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.ids import JobId, ModelId, PeerId
from cocoon_p2p.limits import (
    ANNOUNCEMENT_CLOCK_SKEW_S,
    GENERATION_TOKENS_MAX,
    HEADER_BYTES_MAX,
    JOB_BYTES_MAX,
    SEAL_KEY_RECORD_BYTES_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import Bytes

SEAL_KEY_DOMAIN = b"cocoon-p2p/seal-key/1"
SUITE_PLAIN = 0
"""Tier open: the bytes pass as they are."""
SUITE_XWING = 1
"""HPKE with MLKEM768-X25519 (X-Wing), HKDF-SHA256, AES-256-GCM."""
KEY_ID_BYTES = 16
NO_KEY_ID = bytes(KEY_ID_BYTES)
"""The key id of SUITE_PLAIN."""
NO_COMMITMENT = bytes(32)
"""The commitment of SUITE_PLAIN, which has no secrets."""
SEAL_PUBLIC_KEY_BYTES = 1216
RESPONSE_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class SealKeyRecord:
    """The signed body: this public key opens envelopes for `peer_id` in this time (Unix milliseconds)."""

    peer_id: PeerId
    key_id: bytes
    public_key: bytes
    not_before_ms: int
    not_after_ms: int

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.peer_id),
                self.key_id,
                self.public_key,
                self.not_before_ms,
                self.not_after_ms,
            ]
        )

    def require_current(self, provider: PeerId, now_ms: int) -> None:
        """Raises RemoteProtocolError: MALFORMED for another peer's record, EXPIRED outside its time."""
        # SPEC seal/1 §3.3
        if self.peer_id != provider:
            codec.fail("MALFORMED", "seal key record of another peer")
        if now_ms + ANNOUNCEMENT_CLOCK_SKEW_S * 1000 < self.not_before_ms or now_ms >= self.not_after_ms:
            codec.fail("EXPIRED", "seal key record is not valid now")


@dataclass(frozen=True, slots=True)
class SignedSealKeyRecord:
    """`body` is an encoded SealKeyRecord, signed by its peer with SEAL_KEY_DOMAIN."""

    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        return codec.pack([1, self.body, self.signature])


@dataclass(frozen=True, slots=True)
class EnvelopeHeader:
    """The clear part of a request, which every key of the job depends on."""

    suite: int
    key_id: bytes
    """16 bytes; NO_KEY_ID for SUITE_PLAIN."""
    job_id: JobId
    model_id: ModelId
    provider: PeerId
    max_total: int
    expires_at_ms: int
    payload_bytes: int
    items: int
    commitment: bytes
    """32 bytes: the hash of the request's secrets (seal/1 §4.5), so that whoever shows them later cannot show others;
    NO_COMMITMENT for SUITE_PLAIN."""

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                self.suite,
                self.key_id,
                self.job_id,
                codec.model_bytes(self.model_id),
                codec.peer_bytes(self.provider),
                self.max_total,
                self.expires_at_ms,
                self.payload_bytes,
                self.items,
                self.commitment,
            ]
        )


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """The clear part of a response; the nonce keeps two responses to one request apart."""

    job_id: JobId
    nonce: bytes

    def encode(self) -> bytes:
        return codec.pack([1, self.job_id, self.nonce])


def seal_key_id(public_key: bytes) -> bytes:
    """16 bytes."""
    return hashlib.sha256(b"cocoon-p2p/key-id/1\0" + public_key).digest()[:KEY_ID_BYTES]


def make_seal_key_record(
    peer_id: PeerId, public_key: bytes, not_before_ms: int, not_after_ms: int, sign: Callable[[bytes, bytes], bytes]
) -> bytes:
    """An encoded SignedSealKeyRecord; `sign` is the peer's `IdentityKey.sign`."""
    body = SealKeyRecord(peer_id, seal_key_id(public_key), public_key, not_before_ms, not_after_ms).encode()
    return SignedSealKeyRecord(body, sign(SEAL_KEY_DOMAIN, body)).encode()


def decode_signed_seal_key_record(record: Bytes) -> SignedSealKeyRecord:
    """Raises RemoteProtocolError."""
    # SPEC seal/1 §3.1
    fields = codec.unpack_tagged(record, 1, 3, "signed seal key record")
    return SignedSealKeyRecord(
        codec.blob(fields[1], "seal key record", SEAL_KEY_RECORD_BYTES_MAX),
        codec.fixed(fields[2], "signature", codec.SIGNATURE_BYTES),
    )


def decode_seal_key_record(body: Bytes) -> SealKeyRecord:
    """The signed body of a seal key record, its key id checked. Raises RemoteProtocolError."""
    # SPEC seal/1 §3.2
    fields = codec.unpack_tagged(body, 1, 6, "seal key record")
    record = SealKeyRecord(
        codec.peer_id(fields[1], "sealing peer"),
        codec.fixed(fields[2], "key id", KEY_ID_BYTES),
        codec.fixed(fields[3], "public key", SEAL_PUBLIC_KEY_BYTES),
        codec.time_ms(fields[4], "not_before_ms"),
        codec.time_ms(fields[5], "not_after_ms"),
    )
    if record.key_id != seal_key_id(record.public_key):
        codec.fail("MALFORMED", "seal key record whose key id is not that of its key")
    return record


def decode_envelope_header(header: Bytes) -> EnvelopeHeader:
    """Raises RemoteProtocolError."""
    # SPEC seal/1 §4.1
    fields = _header_fields(header, 11, "envelope header")
    return EnvelopeHeader(
        codec.uint(fields[1], "suite", SUITE_XWING),
        codec.fixed(fields[2], "key id", KEY_ID_BYTES),
        codec.job_id(fields[3]),
        codec.model_id(fields[4]),
        codec.peer_id(fields[5], "provider"),
        codec.amount(fields[6], "max_total"),
        codec.time_ms(fields[7], "expires_at_ms"),
        codec.uint(fields[8], "payload_bytes", JOB_BYTES_MAX),
        codec.uint(fields[9], "items", GENERATION_TOKENS_MAX, 1),
        codec.fixed(fields[10], "commitment", codec.HASH_BYTES),
    )


def decode_response_header(header: Bytes) -> ResponseHeader:
    """Raises RemoteProtocolError."""
    # SPEC seal/1 §5.1
    fields = _header_fields(header, 3, "response header")
    return ResponseHeader(codec.job_id(fields[1]), codec.fixed(fields[2], "nonce", RESPONSE_NONCE_BYTES))


def _header_fields(header: Bytes, count: int, what: str) -> tuple[Any, ...]:
    if len(header) > HEADER_BYTES_MAX:
        codec.fail("BOUND", f"{what} of {len(header)} bytes; at most {HEADER_BYTES_MAX}")
    return codec.unpack_tagged(header, 1, count, what)
