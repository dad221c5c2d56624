"""Payloads as a run of sealed pieces, one frame each, so that a gigabyte never stands in memory twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cocoon_p2p import limits
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.sealing.envelope import ChunkSealer

PIECE_BYTES = limits.CHUNKS_PER_FRAME_MAX * limits.CHUNK_BYTES


def sealed_pieces(pieces: Iterable[Bytes], payload_bytes: int, sealer: ChunkSealer) -> Iterator[tuple[Bytes, bool]]:
    """(ciphertext, final) of a payload that is given in any pieces, `payload_bytes` in all."""
    left = payload_bytes
    for plaintext in full_pieces(pieces):
        left -= len(plaintext)
        yield sealer.seal(plaintext, left == 0), left == 0


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
