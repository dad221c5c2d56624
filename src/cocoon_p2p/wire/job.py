"""job/1: the messages of a job's life, and the two bodies that are signed (protocols/job/1/spec.md).

ASK → QUOTE | REFUSAL → ACCEPT, INPUT* → OUTPUT_HEAD, OUTPUT* → RECEIPT → RECEIPT_ACK, with CANCEL and FAILURE between.
Answers that come piece by piece are in `wire.job_stream`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import (
    BOX_BYTES_MAX,
    DETAIL_CHARS_MAX,
    GENERATION_TOKENS_MAX,
    HEADER_BYTES_MAX,
    JOB_BYTES_MAX,
    JOB_TIMEOUT_MAX_S,
    PAYMENT_BYTES_MAX,
    REFUSAL_BYTES_MAX,
    SEAL_KEY_RECORD_BYTES_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import HASH_BYTES, SIGNATURE_BYTES, UINT32_MAX, Bytes
from cocoon_p2p.wire.job_chunks import (
    CIPHERTEXT_BYTES_MAX,
    Input,
    Output,
    decode_input,
    decode_output,
    read_chunks_by_hand,
)
from cocoon_p2p.wire.job_codes import FailureCode, Phase
from cocoon_p2p.wire.job_stream import (
    Frame,
    Pay,
    Stop,
    StreamHead,
    decode_frame,
    decode_pay,
    decode_stop,
    decode_stream_head,
)
from cocoon_p2p.wire.job_terms import (
    QUOTE_DOMAIN,
    RECEIPT_DOMAIN,
    REFUSAL_DOMAIN,
    QuoteBody,
    ReceiptBody,
    RefusalBody,
    decode_quote_body,
    decode_receipt_body,
    decode_refusal_body,
    quote_hash,
    quoted_total,
    read_instalment,
    read_items,
    read_tier,
)

__all__ = [
    "CIPHERTEXT_BYTES_MAX",
    "JOB_PROTOCOL",
    "QUOTE_DOMAIN",
    "RECEIPT_DOMAIN",
    "REFUSAL_DOMAIN",
    "Accept",
    "Ask",
    "Cancel",
    "Failure",
    "FailureCode",
    "Frame",
    "Input",
    "JobMessage",
    "Output",
    "OutputHead",
    "Pay",
    "Phase",
    "Progress",
    "Quote",
    "QuoteBody",
    "Receipt",
    "ReceiptAck",
    "ReceiptBody",
    "Refusal",
    "RefusalBody",
    "Stop",
    "StreamHead",
    "Submit",
    "decode_message",
    "decode_quote_body",
    "decode_receipt_body",
    "decode_refusal_body",
    "quote_hash",
    "quoted_total",
]

JOB_PROTOCOL = "/cocoon/job/1"


@dataclass(frozen=True, slots=True)
class Ask:
    """Client: what would this job cost?"""

    job_id: JobId
    model_id: ModelId
    tier: Tier
    items: int
    input_bytes: int
    """Length of the input's payload container."""
    max_total: int
    """What the client pays at most, nanogram; 0 when it does not say."""
    timeout_ms: int
    """From this message to the last OUTPUT."""
    settlement_network: int
    instalment: int = 0
    """Items that are paid for ahead of the answer, which then comes in frames; 0: all is paid for ahead."""

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                self.job_id,
                codec.model_bytes(self.model_id),
                int(self.tier),
                self.items,
                self.input_bytes,
                self.max_total,
                self.timeout_ms,
                self.settlement_network,
                self.instalment,
            ]
        )


@dataclass(frozen=True, slots=True)
class Quote:
    """Provider: at this price. `body` is an encoded QuoteBody, signed with QUOTE_DOMAIN."""

    job_id: JobId
    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        return codec.pack([2, self.job_id, self.body, self.signature])


@dataclass(frozen=True, slots=True)
class Refusal:
    """Provider: no, and what would make it a yes. `body` is an encoded RefusalBody, signed with REFUSAL_DOMAIN."""

    job_id: JobId
    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        return codec.pack([3, self.job_id, self.body, self.signature])


@dataclass(frozen=True, slots=True)
class Accept:
    """Client: do it. The payment (voucher/1 §4), the envelope's clear header and its sealed box (seal/1 §4)."""

    job_id: JobId
    quote_hash: bytes
    payment: bytes
    envelope_header: bytes
    box: bytes
    paid: int = 0
    """Items that the payment covers; 0: all of them."""

    def encode(self) -> bytes:
        return codec.pack([4, self.job_id, self.quote_hash, self.payment, self.envelope_header, self.box, self.paid])


@dataclass(frozen=True, slots=True)
class OutputHead:
    """Provider: the output begins. `payload_bytes` is the length of its payload container."""

    job_id: JobId
    response_header: bytes
    payload_bytes: int
    queue_us: int
    execute_us: int

    def encode(self) -> bytes:
        return codec.pack([6, self.job_id, self.response_header, self.payload_bytes, self.queue_us, self.execute_us])


@dataclass(frozen=True, slots=True)
class Receipt:
    """Provider: done. `body` is an encoded ReceiptBody; both signatures are over it with RECEIPT_DOMAIN."""

    job_id: JobId
    body: bytes
    provider_signature: bytes
    client_signature: bytes
    """Empty until the client has signed."""

    def encode(self) -> bytes:
        return codec.pack([8, self.job_id, self.body, self.provider_signature, self.client_signature])


@dataclass(frozen=True, slots=True)
class ReceiptAck:
    """Client: its signature of the receipt's body."""

    job_id: JobId
    client_signature: bytes

    def encode(self) -> bytes:
        return codec.pack([9, self.job_id, self.client_signature])


@dataclass(frozen=True, slots=True)
class Cancel:
    """Client: stop."""

    job_id: JobId

    def encode(self) -> bytes:
        return codec.pack([10, self.job_id])


@dataclass(frozen=True, slots=True)
class Failure:
    """Provider: the accepted job ends without a result and costs nothing."""

    job_id: JobId
    code: FailureCode
    detail: str

    def encode(self) -> bytes:
        return codec.pack([11, self.job_id, int(self.code), self.detail])


@dataclass(frozen=True, slots=True)
class Submit:
    """Client: do it at the price that you announced. ASK and ACCEPT in one. `terms` is an encoded QuoteBody that the
    client wrote (job/1 §3.12); the rest as in Accept."""

    job_id: JobId
    terms: bytes
    timeout_ms: int
    """From this message to the last OUTPUT."""
    payment: bytes
    envelope_header: bytes
    box: bytes
    paid: int = 0

    def encode(self) -> bytes:
        return codec.pack(
            [12, self.job_id, self.terms, self.timeout_ms, self.payment, self.envelope_header, self.box, self.paid]
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Provider: still at it."""

    job_id: JobId
    phase: Phase
    left_ms: int | None
    """Estimated time to the output; None when not known."""

    def encode(self) -> bytes:
        return codec.pack([13, self.job_id, int(self.phase), self.left_ms])


JobMessage = (
    Ask
    | Quote
    | Refusal
    | Accept
    | Input
    | OutputHead
    | Output
    | Receipt
    | ReceiptAck
    | Cancel
    | Failure
    | Submit
    | Progress
    | StreamHead
    | Frame
    | Pay
    | Stop
)


def decode_message(frame: Bytes) -> JobMessage:
    """Any message of the job stream. Raises RemoteProtocolError."""
    chunks = read_chunks_by_hand(frame)
    if chunks is not None:
        return chunks
    fields = codec.unpack(frame, "job message")
    entry = _DECODERS.get(fields[0])
    if entry is None:
        codec.fail("UNKNOWN_TAG", f"job message with tag {fields[0]}")
    count, decode, what = entry
    codec.require_count(fields, count, what)
    return decode(fields)


def _decode_ask(fields: tuple[Any, ...]) -> Ask:
    # SPEC job/1 §3.3
    return Ask(
        codec.job_id(fields[1]),
        codec.model_id(fields[2]),
        read_tier(fields[3]),
        read_items(fields[4]),
        codec.uint(fields[5], "input_bytes", JOB_BYTES_MAX),
        codec.amount(fields[6], "max_total"),
        codec.uint(fields[7], "timeout_ms", int(JOB_TIMEOUT_MAX_S * 1000), 1),
        codec.network_id(fields[8], "settlement network"),
        read_instalment(fields[9]),
    )


def _decode_quote(fields: tuple[Any, ...]) -> Quote:
    return Quote(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "quote body", SEAL_KEY_RECORD_BYTES_MAX + HEADER_BYTES_MAX),
        codec.fixed(fields[3], "signature", SIGNATURE_BYTES),
    )


def _decode_refusal(fields: tuple[Any, ...]) -> Refusal:
    # SPEC job/1 §3.11
    return Refusal(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "refusal body", REFUSAL_BYTES_MAX),
        codec.fixed(fields[3], "signature", SIGNATURE_BYTES),
    )


def _decode_accept(fields: tuple[Any, ...]) -> Accept:
    # SPEC job/1 §3.5
    return Accept(
        codec.job_id(fields[1]),
        codec.fixed(fields[2], "quote hash", HASH_BYTES),
        codec.blob(fields[3], "payment", PAYMENT_BYTES_MAX),
        codec.blob(fields[4], "envelope header", HEADER_BYTES_MAX),
        codec.blob(fields[5], "box", BOX_BYTES_MAX),
        _paid(fields[6]),
    )


def _decode_output_head(fields: tuple[Any, ...]) -> OutputHead:
    # SPEC job/1 §3.6
    return OutputHead(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "response header", HEADER_BYTES_MAX),
        codec.uint(fields[3], "payload_bytes", JOB_BYTES_MAX),
        codec.uint(fields[4], "queue_us", codec.INT_MAX),
        codec.uint(fields[5], "execute_us", codec.INT_MAX),
    )


def _decode_receipt(fields: tuple[Any, ...]) -> Receipt:
    return Receipt(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "receipt body", HEADER_BYTES_MAX),
        codec.fixed(fields[3], "provider's signature", SIGNATURE_BYTES),
        codec.fixed_or_empty(fields[4], "client's signature", SIGNATURE_BYTES),
    )


def _decode_receipt_ack(fields: tuple[Any, ...]) -> ReceiptAck:
    return ReceiptAck(codec.job_id(fields[1]), codec.fixed(fields[2], "client's signature", SIGNATURE_BYTES))


def _decode_cancel(fields: tuple[Any, ...]) -> Cancel:
    return Cancel(codec.job_id(fields[1]))


def _decode_failure(fields: tuple[Any, ...]) -> Failure:
    # SPEC job/1 §3.10
    return Failure(
        codec.job_id(fields[1]),
        FailureCode(codec.uint(fields[2], "failure code", max(FailureCode), 1)),
        codec.text(fields[3], "detail", DETAIL_CHARS_MAX),
    )


def _decode_submit(fields: tuple[Any, ...]) -> Submit:
    # SPEC job/1 §3.12
    return Submit(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "terms", HEADER_BYTES_MAX),
        codec.uint(fields[3], "timeout_ms", int(JOB_TIMEOUT_MAX_S * 1000), 1),
        codec.blob(fields[4], "payment", PAYMENT_BYTES_MAX),
        codec.blob(fields[5], "envelope header", HEADER_BYTES_MAX),
        codec.blob(fields[6], "box", BOX_BYTES_MAX),
        _paid(fields[7]),
    )


def _paid(value: Any) -> int:
    return codec.uint(value, "paid", GENERATION_TOKENS_MAX)


def _decode_progress(fields: tuple[Any, ...]) -> Progress:
    # SPEC job/1 §3.13
    left = fields[3]
    return Progress(
        codec.job_id(fields[1]),
        Phase(codec.uint(fields[2], "phase", Phase.RUNNING, 1)),
        None if left is None else codec.uint(left, "left_ms", UINT32_MAX),
    )


# tag -> fields needed (the tag among them), decoder, name
_DECODERS: dict[int, tuple[int, Callable[[tuple[Any, ...]], JobMessage], str]] = {
    1: (10, _decode_ask, "ask"),
    2: (4, _decode_quote, "quote"),
    3: (4, _decode_refusal, "refusal"),
    4: (7, _decode_accept, "accept"),
    5: (4, decode_input, "input"),
    6: (6, _decode_output_head, "output head"),
    7: (4, decode_output, "output"),
    8: (5, _decode_receipt, "receipt"),
    9: (3, _decode_receipt_ack, "receipt acknowledgement"),
    10: (2, _decode_cancel, "cancel"),
    11: (4, _decode_failure, "failure"),
    12: (8, _decode_submit, "submission"),
    13: (4, _decode_progress, "progress"),
    14: (5, decode_stream_head, "stream head"),
    15: (5, decode_frame, "frame"),
    16: (6, decode_pay, "pay"),
    17: (2, decode_stop, "stop"),
}
