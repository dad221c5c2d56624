"""What names a file's content: a hash over its size and the hashes of its pieces (protocols/manifest/1 §3).

So a file can be verified piece by piece as it comes from strangers, and the list of the pieces' hashes by the digest alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable

from cocoon_p2p.limits import BLOB_CHUNK_BYTES

HASH_BYTES = 32
_DOMAIN = b"cocoon-p2p/file/1\0"


def piece_count(size: int) -> int:
    """Pieces of a file of `size` bytes: all of BLOB_CHUNK_BYTES but for the last; none of an empty file."""
    return -(-size // BLOB_CHUNK_BYTES)


def piece_bytes(size: int, index: int) -> int:
    """Length of piece `index` of a file of `size` bytes. Raises IndexError for a piece that it does not have."""
    if not 0 <= index < piece_count(size):
        raise IndexError(f"a file of {size} bytes has no piece {index}")
    return min(BLOB_CHUNK_BYTES, size - index * BLOB_CHUNK_BYTES)


def piece_hash(data: bytes | bytearray | memoryview) -> bytes:
    """SHA-256 of one piece, 32 bytes."""
    return hashlib.sha256(data).digest()


# SPEC manifest/1 §3
def digest_of(size: int, piece_hashes: Iterable[bytes]) -> str:
    """The digest of a file of `size` bytes whose pieces have these hashes, 64 lower-case hexadecimal digits. Raises ValueError
    when their number is not that of the size's pieces, or one has not 32 bytes."""
    joined = bytearray()
    count = 0
    for one in piece_hashes:
        if len(one) != HASH_BYTES:
            raise ValueError(f"a piece's hash has {HASH_BYTES} bytes, not {len(one)}")
        joined += one
        count += 1
    if size < 0 or count != piece_count(size):
        raise ValueError(f"a file of {size} bytes has {piece_count(size)} pieces, not {count}")
    return _digest(size, joined)


def split_hashes(joined: bytes | bytearray | memoryview) -> tuple[bytes, ...]:
    """The hashes that stand one after the other in `joined`. Raises ValueError for half a hash."""
    if len(joined) % HASH_BYTES:
        raise ValueError(f"{len(joined)} bytes are no whole number of hashes")
    return tuple(bytes(joined[at : at + HASH_BYTES]) for at in range(0, len(joined), HASH_BYTES))


def piece_matches(data: bytes | bytearray | memoryview, wanted: bytes) -> bool:
    """Whether a piece that somebody sent is the one that has this hash."""
    return hmac.compare_digest(piece_hash(data), wanted)


class PieceHashes:
    """Takes a file's bytes in order, cut anyhow, and gives its pieces' hashes and its digest."""

    def __init__(self) -> None:
        self.size = 0
        self._joined = bytearray()
        self._piece = hashlib.sha256()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the file."""
        view = memoryview(data)
        while view:
            room = BLOB_CHUNK_BYTES - self.size % BLOB_CHUNK_BYTES
            part = view[:room]
            self._piece.update(part)
            self.size += len(part)
            if len(part) == room:
                self._joined += self._piece.digest()
                self._piece = hashlib.sha256()
            view = view[room:]

    @property
    def joined(self) -> bytes:
        """All hashes so far in one string, that of a last short piece too."""
        partial = self._piece.digest() if self.size % BLOB_CHUNK_BYTES else b""
        return bytes(self._joined) + partial

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Of each piece so far, 32 bytes each."""
        return split_hashes(self.joined)

    @property
    def digest(self) -> str:
        """Of the file as far as it was fed, 64 lower-case hexadecimal digits."""
        return _digest(self.size, self.joined)


def _digest(size: int, joined: bytes | bytearray) -> str:
    return hashlib.sha256(_DOMAIN + size.to_bytes(8, "big") + joined).hexdigest()
