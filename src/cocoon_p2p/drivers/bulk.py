"""Payloads as a run of sealed pieces, one frame each, so that a gigabyte never stands in memory twice."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import suppress

from cocoon_p2p import limits
from cocoon_p2p.net.frame_buffers import frame_buffers
from cocoon_p2p.net.port import BulkFrame, Bytes
from cocoon_p2p.sealing.envelope import ChunkSealer
from cocoon_p2p.wire.job import Input, Output

PIECE_BYTES = limits.CHUNKS_PER_FRAME_MAX * limits.CHUNK_BYTES
_SHORT_BYTES = limits.CHUNK_BYTES
"""Up to here a piece gets memory of its own size: a frame's buffer would be mostly empty."""


def payload_memory(size: int) -> memoryview:
    """Zeroed memory for a payload. A large one is mapped: a bytearray of 1 GB is written over with zeros at once, and for
    0.4 s the node would do nothing else."""
    if size < limits.BULK_BYTES_MIN:
        return memoryview(bytearray(size))
    mapped = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)


def bulk_frame(message: Input | Output, sealer: ChunkSealer) -> Bytes | BulkFrame:
    """The message for the stream, without a copy of what `sealer` made, if it is long."""
    if len(message.ciphertext) <= _SHORT_BYTES:
        return message.encode()
    return BulkFrame(*message.pieces(), sealed=sealer.encrypts)


def sealed_pieces(pieces: Iterable[Bytes], payload_bytes: int, sealer: ChunkSealer) -> Iterator[tuple[Bytes, bool]]:
    """(ciphertext, final) of a payload that is given in any pieces, `payload_bytes` in all. The memory of a ciphertext is
    used again when nobody holds it any more."""
    left = payload_bytes
    for plaintext in full_pieces(pieces):
        left -= len(plaintext)
        if len(plaintext) <= _SHORT_BYTES:
            yield sealer.seal(plaintext, left == 0), left == 0
        else:
            buffer = frame_buffers.take()
            yield buffer[: sealer.seal_into(plaintext, buffer, left == 0)], left == 0
            del buffer  # not held while the next is taken


def full_pieces(pieces: Iterable[Bytes]) -> Iterator[memoryview]:
    """The same bytes in pieces of PIECE_BYTES, the last one shorter. Copies only where a piece spans two of the given."""
    pending = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if pending:
            taken = min(PIECE_BYTES - len(pending), len(view))
            pending += view[:taken]
            view = view[taken:]
            if len(pending) == PIECE_BYTES:
                yield memoryview(pending)
                pending = bytearray()
        while len(view) >= PIECE_BYTES:
            yield view[:PIECE_BYTES]
            view = view[PIECE_BYTES:]
        pending += view
    if pending:
        yield memoryview(pending)
