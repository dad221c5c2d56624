"""job/1: the messages of an answer that comes piece by piece, and of its payment (protocols/job/1/spec.md §3.14 to §3.17)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cocoon_p2p.ids import JobId
from cocoon_p2p.limits import (
    CHUNK_OVERHEAD_BYTES,
    FRAME_PADDING_BYTES,
    GENERATION_TOKENS_MAX,
    HEADER_BYTES_MAX,
    PAYMENT_BYTES_MAX,
    PIECE_BYTES_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import Bytes

FRAME_CIPHERTEXT_BYTES_MAX = PIECE_BYTES_MAX + CHUNK_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class StreamHead:
    """Provider: the input is read, and the answer will come in frames. `prompt_items` are worked on before the first."""

    job_id: JobId
    response_header: bytes
    prompt_items: int
    queue_us: int

    def encode(self) -> bytes:
        return codec.pack([14, self.job_id, self.response_header, self.prompt_items, self.queue_us])


@dataclass(frozen=True, slots=True)
class Frame:
    """Provider: the next piece of the answer, sealed (seal/1 §6.4)."""

    job_id: JobId
    ciphertext: Bytes
    items: int
    """Worked on until now, those of the prompt among them: the price's measure."""
    final: bool

    def encode(self) -> bytes:
        return codec.pack([15, self.job_id, self.ciphertext, self.items, self.final])


@dataclass(frozen=True, slots=True)
class Pay:
    """Client: so much is here, and owed; and go on, as far as is paid for."""

    job_id: JobId
    payment: bytes
    """As ACCEPT's; empty where nothing is paid beyond what was paid before, or the job costs nothing."""
    frames: int
    """Frames that are here."""
    items: int
    """The last one's; 0 before the first."""
    paid: int
    """Items that all payments of this job cover, this one among them."""

    def encode(self) -> bytes:
        return codec.pack([16, self.job_id, self.payment, self.frames, self.items, self.paid])


@dataclass(frozen=True, slots=True)
class Stop:
    """Client: come to an end. What is here by then is paid for."""

    job_id: JobId

    def encode(self) -> bytes:
        return codec.pack([17, self.job_id])


def decode_stream_head(fields: tuple[Any, ...]) -> StreamHead:
    # SPEC job/1 §3.14
    return StreamHead(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "response header", HEADER_BYTES_MAX),
        codec.uint(fields[3], "prompt items", GENERATION_TOKENS_MAX, 1),
        codec.uint(fields[4], "queue_us", codec.INT_MAX),
    )


def decode_frame(fields: tuple[Any, ...]) -> Frame:
    # SPEC job/1 §3.15
    ciphertext = codec.blob(fields[2], "ciphertext", FRAME_CIPHERTEXT_BYTES_MAX)
    if len(ciphertext) < FRAME_PADDING_BYTES:
        codec.fail("BOUND", f"ciphertext of {len(ciphertext)} bytes; a frame has at least {FRAME_PADDING_BYTES}")
    return Frame(
        codec.job_id(fields[1]),
        ciphertext,
        codec.uint(fields[3], "items", GENERATION_TOKENS_MAX, 1),
        codec.boolean(fields[4], "final"),
    )


def decode_pay(fields: tuple[Any, ...]) -> Pay:
    # SPEC job/1 §3.16
    return Pay(
        codec.job_id(fields[1]),
        codec.blob(fields[2], "payment", PAYMENT_BYTES_MAX),
        codec.uint(fields[3], "frames", GENERATION_TOKENS_MAX + 1),
        codec.uint(fields[4], "items", GENERATION_TOKENS_MAX),
        codec.uint(fields[5], "paid", GENERATION_TOKENS_MAX, 1),
    )


def decode_stop(fields: tuple[Any, ...]) -> Stop:
    # SPEC job/1 §3.17
    return Stop(codec.job_id(fields[1]))
