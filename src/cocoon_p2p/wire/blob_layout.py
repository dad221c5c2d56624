"""blob/1: how the files of a model are cut into pieces, and sets of pieces (protocols/blob/1/spec.md §2).

A set of pieces is an int: piece i is its bit i. A million pieces are 128 KiB, and the usual operations on that take
microseconds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import BLOB_CHUNK_BYTES, BLOB_PIECES_MAX
from cocoon_p2p.wire.codec import Bytes

_NUMBER_BYTES = 4


@dataclass(frozen=True, slots=True)
class Place:
    """Where a piece stands."""

    file: int
    """Index in the manifest."""
    index: int
    """Within the file."""
    offset: int
    size: int
    """Bytes."""


class BlobLayout:
    """The pieces of a model whose files have these sizes. Raises ValueError for more than BLOB_PIECES_MAX pieces."""

    def __init__(self, sizes: Sequence[int]) -> None:
        # SPEC blob/1 §2
        self.sizes = tuple(sizes)
        self.counts = tuple(-(-size // BLOB_CHUNK_BYTES) for size in sizes)
        """Pieces of each file."""
        self.firsts = (0, *accumulate(self.counts))
        """Number of each file's first piece, and of all pieces behind the last one."""
        self.pieces = self.firsts[-1]
        if self.pieces > BLOB_PIECES_MAX:
            raise ValueError(f"a model of {self.pieces} pieces; at most {BLOB_PIECES_MAX}")
        self.full = (1 << self.pieces) - 1
        """All pieces."""

    @property
    def total_bytes(self) -> int:
        """Of all files."""
        return sum(self.sizes)

    def place(self, piece: int) -> Place:
        """Raises IndexError."""
        if not 0 <= piece < self.pieces:
            raise IndexError(f"there is no piece {piece}; there are {self.pieces}")
        file = bisect_right(self.firsts, piece) - 1
        index = piece - self.firsts[file]
        offset = index * BLOB_CHUNK_BYTES
        return Place(file, index, offset, min(BLOB_CHUNK_BYTES, self.sizes[file] - offset))

    def size(self, piece: int) -> int:
        """Bytes of a piece. Raises IndexError."""
        return self.place(piece).size

    def of_file(self, file: int) -> int:
        """The set of a file's pieces."""
        return ((1 << self.counts[file]) - 1) << self.firsts[file]

    def bytes_of(self, pieces: int) -> int:
        """Bytes of a set of pieces."""
        whole = pieces.bit_count() * BLOB_CHUNK_BYTES
        for file, count in enumerate(self.counts):
            if count and pieces >> (self.firsts[file] + count - 1) & 1:
                whole -= count * BLOB_CHUNK_BYTES - self.sizes[file]
        return whole

    def encode_set(self, pieces: int) -> bytes:
        """A bitfield."""
        # SPEC blob/1 §2.1
        return pieces.to_bytes((self.pieces + 7) // 8, "little")

    def decode_set(self, bitfield: Bytes) -> int:
        """Raises RemoteProtocolError (MALFORMED)."""
        if len(bitfield) != (self.pieces + 7) // 8:
            raise RemoteProtocolError(f"a bitfield of {len(bitfield)} bytes for {self.pieces} pieces", code="MALFORMED")
        pieces = int.from_bytes(bitfield, "little")
        if pieces > self.full:
            raise RemoteProtocolError("a bitfield with pieces that there are not", code="MALFORMED")
        return pieces

    def decode_list(self, listed: Bytes) -> list[int]:
        """Raises RemoteProtocolError (MALFORMED)."""
        numbers = decode_list(listed)
        if any(number >= self.pieces for number in numbers):
            raise RemoteProtocolError("a list with pieces that there are not", code="MALFORMED")
        return numbers


def encode_list(pieces: Iterable[int]) -> bytes:
    """A list of pieces."""
    # SPEC blob/1 §2.1
    return b"".join(piece.to_bytes(_NUMBER_BYTES) for piece in pieces)


def decode_list(listed: Bytes) -> list[int]:
    """Raises RemoteProtocolError (MALFORMED)."""
    if len(listed) % _NUMBER_BYTES:
        raise RemoteProtocolError("a list of pieces that ends within a number", code="MALFORMED")
    return [int.from_bytes(listed[at : at + _NUMBER_BYTES]) for at in range(0, len(listed), _NUMBER_BYTES)]


def numbers_of(pieces: int) -> list[int]:
    """The numbers in a set, ascending. For small sets: it takes as long as the set is wide for each."""
    found = []
    while pieces:
        lowest = pieces & -pieces
        found.append(lowest.bit_length() - 1)
        pieces ^= lowest
    return found
