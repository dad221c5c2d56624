"""job/1: the bodies that are signed: a quote's, a receipt's, a refusal's (protocols/job/1/spec.md §3.4, §3.7, §3.11)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    DETAIL_CHARS_MAX,
    GENERATION_TOKENS_MAX,
    JOB_BYTES_MAX,
    SEAL_KEY_RECORD_BYTES_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import HASH_BYTES, UINT32_MAX, Bytes

QUOTE_DOMAIN = b"cocoon-p2p/quote/1"
RECEIPT_DOMAIN = b"cocoon-p2p/receipt/1"
REFUSAL_DOMAIN = b"cocoon-p2p/refusal/1"


@dataclass(frozen=True, slots=True)
class QuoteBody:
    """What the provider signs: the frozen price of one job."""

    provider: PeerId
    client: PeerId
    job_id: JobId
    model_id: ModelId
    tier: Tier
    items: int
    input_bytes: int
    price_base: int
    price_per_item: int
    max_total: int
    expires_at_ms: int
    queue_ms: int
    settlement_network: int
    payee_key: bytes
    """32 bytes that the settlement network pays to; may be empty."""
    seal_key_record: bytes
    """Signed seal key record (seal/1 §3); empty for tier open."""
    instalment: int = 0
    """Items that are paid for ahead of the answer, which then comes in frames; 0: all is paid for ahead."""

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.provider),
                codec.peer_bytes(self.client),
                self.job_id,
                codec.model_bytes(self.model_id),
                int(self.tier),
                self.items,
                self.input_bytes,
                self.price_base,
                self.price_per_item,
                self.max_total,
                self.expires_at_ms,
                self.queue_ms,
                self.settlement_network,
                self.payee_key,
                self.seal_key_record,
                self.instalment,
            ]
        )


@dataclass(frozen=True, slots=True)
class ReceiptBody:
    """What both sides sign: the job was done, for this price. The hashes are SHA-256 of the ciphertext as sent."""

    provider: PeerId
    client: PeerId
    job_id: JobId
    model_id: ModelId
    tier: Tier
    quote_hash: bytes
    price: int
    items: int
    input_hash: bytes
    output_hash: bytes
    queue_us: int
    execute_us: int
    finished_at_ms: int
    frames: int = 0
    """Of an answer in frames: those that the price and `output_hash` are about. 0: the output came whole."""

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.provider),
                codec.peer_bytes(self.client),
                self.job_id,
                codec.model_bytes(self.model_id),
                int(self.tier),
                self.quote_hash,
                self.price,
                self.items,
                self.input_hash,
                self.output_hash,
                self.queue_us,
                self.execute_us,
                self.finished_at_ms,
                self.frames,
            ]
        )


@dataclass(frozen=True, slots=True)
class RefusalBody:
    """What the provider signs: its "no" to one client's job, why, and what would make it a yes."""

    provider: PeerId
    client: PeerId
    job_id: JobId
    model_id: ModelId | None
    """None where the refused message did not name one."""
    reason: RefusalReason
    detail: str
    needed: int | None
    """The number that would make it a yes (job/1 §6)."""
    issued_at_ms: int

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.provider),
                codec.peer_bytes(self.client),
                self.job_id,
                b"" if self.model_id is None else codec.model_bytes(self.model_id),
                int(self.reason),
                self.detail,
                self.needed,
                self.issued_at_ms,
            ]
        )


def decode_quote_body(body: Bytes) -> QuoteBody:
    """Raises RemoteProtocolError."""
    # SPEC job/1 §3.4
    fields = codec.unpack_tagged(body, 1, 17, "quote body")
    return QuoteBody(
        codec.peer_id(fields[1], "provider"),
        codec.peer_id(fields[2], "client"),
        codec.job_id(fields[3]),
        codec.model_id(fields[4]),
        read_tier(fields[5]),
        read_items(fields[6]),
        codec.uint(fields[7], "input_bytes", JOB_BYTES_MAX),
        codec.amount(fields[8], "price_base"),
        codec.amount(fields[9], "price_per_item"),
        codec.amount(fields[10], "max_total"),
        codec.time_ms(fields[11], "expires_at_ms"),
        codec.uint(fields[12], "queue_ms", UINT32_MAX),
        codec.network_id(fields[13], "settlement network"),
        codec.fixed_or_empty(fields[14], "payee key", 32),
        codec.blob(fields[15], "seal key record", SEAL_KEY_RECORD_BYTES_MAX),
        read_instalment(fields[16]),
    )


def decode_receipt_body(body: Bytes) -> ReceiptBody:
    """Raises RemoteProtocolError."""
    # SPEC job/1 §3.7
    fields = codec.unpack_tagged(body, 1, 15, "receipt body")
    return ReceiptBody(
        codec.peer_id(fields[1], "provider"),
        codec.peer_id(fields[2], "client"),
        codec.job_id(fields[3]),
        codec.model_id(fields[4]),
        read_tier(fields[5]),
        codec.fixed(fields[6], "quote hash", HASH_BYTES),
        codec.amount(fields[7], "price"),
        read_items(fields[8]),
        codec.fixed(fields[9], "input hash", HASH_BYTES),
        codec.fixed(fields[10], "output hash", HASH_BYTES),
        codec.uint(fields[11], "queue_us", codec.INT_MAX),
        codec.uint(fields[12], "execute_us", codec.INT_MAX),
        codec.time_ms(fields[13], "finished_at_ms"),
        codec.uint(fields[14], "frames", GENERATION_TOKENS_MAX + 1),
    )


def decode_refusal_body(body: Bytes) -> RefusalBody:
    """Raises RemoteProtocolError."""
    # SPEC job/1 §3.11
    fields = codec.unpack_tagged(body, 1, 9, "refusal body")
    needed = fields[7]
    return RefusalBody(
        codec.peer_id(fields[1], "provider"),
        codec.peer_id(fields[2], "client"),
        codec.job_id(fields[3]),
        None if fields[4] == b"" else codec.model_id(fields[4]),
        RefusalReason(codec.uint(fields[5], "refusal reason", RefusalReason.IDLE_POLICY, 1)),
        codec.text(fields[6], "detail", DETAIL_CHARS_MAX),
        None if needed is None else codec.uint(needed, "needed", AMOUNT_NANOGRAM_MAX),
        codec.time_ms(fields[8], "issued_at_ms"),
    )


def quote_hash(body: Bytes) -> bytes:
    """SHA-256 of a quote's signed body: what ACCEPT and the receipt refer to."""
    return hashlib.sha256(body).digest()


def quoted_total(price_base: int, price_per_item: int, items: int) -> int:
    """What a job costs: nanogram. May pass AMOUNT_NANOGRAM_MAX, which no quote may."""
    # SPEC job/1 §5.2
    return price_base + price_per_item * items


def read_tier(value: Any) -> Tier:
    return Tier(codec.uint(value, "tier", Tier.ATTESTED, Tier.OPEN))


def read_items(value: Any) -> int:
    return codec.uint(value, "items", GENERATION_TOKENS_MAX, 1)


def read_instalment(value: Any) -> int:
    return codec.uint(value, "instalment", GENERATION_TOKENS_MAX)
