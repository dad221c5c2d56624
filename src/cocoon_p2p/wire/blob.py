"""blob/1: the messages by which the files of a model move between peers (protocols/blob/1/spec.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import (
    BLOB_BITFIELD_BYTES_MAX,
    BLOB_CHUNK_BYTES,
    BLOB_HASHES_PER_MESSAGE_MAX,
    BLOB_PIECES_LISTED_MAX,
    BLOB_PIECES_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_FILES_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import HASH_BYTES, UINT32_MAX, Bytes

BLOB_PROTOCOL = "/cocoon/blob/1"

_LIST_BYTES_MAX = 4 * BLOB_PIECES_LISTED_MAX
_FIRST_MAX = 2**20 - 1


class NoBlobReason(IntEnum):
    """Why there is nothing to fetch. The numbers are on the wire and never change."""

    NOT_HERE = 1
    """Or not for sharing."""
    FULL = 2


@dataclass(frozen=True, slots=True)
class GetManifest:
    """Fetcher: asks for a model's canonical manifest."""

    model_id: ModelId

    def encode(self) -> bytes:
        return codec.pack([1, codec.model_bytes(self.model_id)])


@dataclass(frozen=True, slots=True)
class Manifest:
    """Holder: whose SHA-256 must be the model's id; the reader checks that."""

    data: bytes

    def encode(self) -> bytes:
        return codec.pack([2, self.data])


@dataclass(frozen=True, slots=True)
class Open:
    """Fetcher: all else on this stream is for this model. `shares`: it is a holder of it itself meanwhile."""

    model_id: ModelId
    shares: bool

    def encode(self) -> bytes:
        return codec.pack([3, codec.model_bytes(self.model_id), self.shares])


@dataclass(frozen=True, slots=True)
class Status:
    """Holder: what it has, and what it is fetching from outside of the local network, as bitfields."""

    have: bytes
    fetching: bytes
    """Empty for none."""
    choked: bool

    def encode(self) -> bytes:
        return codec.pack([4, self.have, self.fetching, self.choked])


@dataclass(frozen=True, slots=True)
class NoBlob:
    """Holder: there is nothing here to fetch, or not any more."""

    reason: NoBlobReason

    def encode(self) -> bytes:
        return codec.pack([5, int(self.reason)])


@dataclass(frozen=True, slots=True)
class GetHashes:
    """Fetcher: asks for hashes of `count` pieces of a file."""

    file: int
    first: int
    count: int

    def encode(self) -> bytes:
        return codec.pack([6, self.file, self.first, self.count])


@dataclass(frozen=True, slots=True)
class Hashes:
    """Holder: SHA-256 of each piece, one after the other."""

    file: int
    first: int
    hashes: bytes

    @property
    def count(self) -> int:
        return len(self.hashes) // HASH_BYTES

    def encode(self) -> bytes:
        return codec.pack([7, self.file, self.first, self.hashes])


@dataclass(frozen=True, slots=True)
class NoHashes:
    """Holder: it does not have them."""

    file: int

    def encode(self) -> bytes:
        return codec.pack([8, self.file])


@dataclass(frozen=True, slots=True)
class GetPiece:
    """Fetcher: asks for a piece."""

    piece: int

    def encode(self) -> bytes:
        return codec.pack([9, self.piece])


@dataclass(frozen=True, slots=True)
class Piece:
    """Holder: a piece. Of a decoded one `data` is a view of the frame."""

    piece: int
    data: Bytes

    def encode(self) -> bytes:
        return b"".join((self.head(), self.data))

    def head(self) -> bytes:
        """All that stands before the data."""
        return b"\x93\x0a" + _packed(self.piece) + _bin_head(len(self.data))


@dataclass(frozen=True, slots=True)
class NoPiece:
    """Holder: it will not send this piece."""

    piece: int

    def encode(self) -> bytes:
        return codec.pack([11, self.piece])


@dataclass(frozen=True, slots=True)
class Cancel:
    """Fetcher: it does not want this piece any more."""

    piece: int

    def encode(self) -> bytes:
        return codec.pack([12, self.piece])


@dataclass(frozen=True, slots=True)
class Have:
    """Holder: it has these now, a list."""

    pieces: bytes

    def encode(self) -> bytes:
        return codec.pack([13, self.pieces])


@dataclass(frozen=True, slots=True)
class Fetching:
    """Holder: it has asked for these outside of the local network, and gave those up; two lists."""

    begun: bytes
    ended: bytes

    def encode(self) -> bytes:
        return codec.pack([14, self.begun, self.ended])


@dataclass(frozen=True, slots=True)
class Choke:
    """Holder: whether requests for pieces are answered from now on."""

    choked: bool

    def encode(self) -> bytes:
        return codec.pack([15, self.choked])


Question = GetManifest | Open | GetHashes | GetPiece | Cancel
"""What a fetcher says."""
Answer = Manifest | Status | NoBlob | Hashes | NoHashes | Piece | NoPiece | Have | Fetching | Choke
"""What a holder says."""
BlobMessage = Question | Answer


def decode_message(frame: Bytes) -> BlobMessage:
    """Any message of the blob stream. Raises RemoteProtocolError."""
    if len(frame) > 8 and frame[0] == 0x93 and frame[1] == 0x0A:
        piece = _decode_piece_in_place(memoryview(frame))
        if piece is not None:
            return piece
    fields = codec.unpack(frame, "blob message")
    entry = _DECODERS.get(fields[0])
    if entry is None:
        codec.fail("UNKNOWN_TAG", f"blob message with tag {fields[0]}")
    count, decode, what = entry
    codec.require_count(fields, count, what)
    return decode(fields)


def blob_content_id(model_id: ModelId) -> bytes:
    """32 bytes: what holders of a model that do not offer it provide in the DHT."""
    # SPEC blob/1 §5
    return hashlib.sha256(b"cocoon-p2p/blob/1\0" + codec.model_bytes(model_id)).digest()


# --- PIECE: written and read by hand, because msgpack would copy its megabyte -----------------------------------------------

_INT_BYTES = {0xCC: 1, 0xCD: 2, 0xCE: 4}
_BIN_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def _packed(number: int) -> bytes:
    """msgpack's shortest form of an unsigned integer below 2³²."""
    if number < 128:
        return bytes((number,))
    for code, size in _INT_BYTES.items():
        if number < 1 << 8 * size:
            return bytes((code,)) + number.to_bytes(size)
    raise ValueError(f"{number} is no number of a piece")


def _bin_head(size: int) -> bytes:
    code, count = next((code, count) for code, count in _BIN_BYTES.items() if size < 1 << 8 * count)
    return bytes((code,)) + size.to_bytes(count)


def _decode_piece_in_place(frame: memoryview) -> Piece | None:
    """The message, if the frame is written in the usual way; None leaves it to msgpack."""
    size = _INT_BYTES.get(frame[2])
    if size is None and frame[2] >= 128:
        return None
    at = 3 + (size or 0)
    piece = frame[2] if size is None else int.from_bytes(frame[3:at])
    length_bytes = _BIN_BYTES.get(frame[at])
    if length_bytes is None:
        return None
    start = at + 1 + length_bytes
    if start + int.from_bytes(frame[at + 1 : start]) != len(frame):
        return None
    return Piece(_piece_number(piece), _piece_data(frame[start:]))


def _piece_number(value: Any) -> int:
    return codec.uint(value, "piece", BLOB_PIECES_MAX - 1)


def _piece_data(data: Bytes) -> Bytes:
    if not 0 < len(data) <= BLOB_CHUNK_BYTES:
        codec.fail("BOUND", f"a piece of {len(data)} bytes; 1 to {BLOB_CHUNK_BYTES} are allowed")
    return data


# --- the others -----------------------------------------------------------------------------------------------------------


def _file(value: Any) -> int:
    return codec.uint(value, "file", MANIFEST_FILES_MAX - 1)


def _list(value: Any, what: str) -> bytes:
    listed = codec.blob(value, what, _LIST_BYTES_MAX)
    if len(listed) % 4:
        codec.fail("MALFORMED", f"{what} ends within a number")
    return listed


def _decode_no_blob(fields: tuple[Any, ...]) -> NoBlob:
    # SPEC blob/1 §4.5
    reason = codec.uint(fields[1], "reason", UINT32_MAX)
    return NoBlob(NoBlobReason.FULL if reason == NoBlobReason.FULL else NoBlobReason.NOT_HERE)


def _decode_status(fields: tuple[Any, ...]) -> Status:
    # SPEC blob/1 §4.4
    return Status(
        codec.blob(fields[1], "have", BLOB_BITFIELD_BYTES_MAX),
        codec.blob(fields[2], "fetching", BLOB_BITFIELD_BYTES_MAX),
        codec.boolean(fields[3], "choked"),
    )


def _decode_get_hashes(fields: tuple[Any, ...]) -> GetHashes:
    # SPEC blob/1 §4.6
    return GetHashes(
        _file(fields[1]),
        codec.uint(fields[2], "first piece", _FIRST_MAX),
        codec.uint(fields[3], "count", BLOB_HASHES_PER_MESSAGE_MAX, 1),
    )


def _decode_hashes(fields: tuple[Any, ...]) -> Hashes:
    # SPEC blob/1 §4.7
    hashes = codec.blob(fields[3], "hashes", BLOB_HASHES_PER_MESSAGE_MAX * HASH_BYTES)
    if not hashes or len(hashes) % HASH_BYTES:
        codec.fail("MALFORMED", f"{len(hashes)} bytes are no hashes")
    return Hashes(_file(fields[1]), codec.uint(fields[2], "first piece", _FIRST_MAX), hashes)


_DECODERS: dict[int, tuple[int, Callable[[tuple[Any, ...]], BlobMessage], str]] = {
    1: (2, lambda f: GetManifest(codec.model_id(f[1])), "manifest question"),
    2: (2, lambda f: Manifest(codec.blob(f[1], "manifest", MANIFEST_BYTES_MAX)), "manifest answer"),
    3: (3, lambda f: Open(codec.model_id(f[1]), codec.boolean(f[2], "shares")), "opening"),
    4: (4, _decode_status, "status"),
    5: (2, _decode_no_blob, "no-blob answer"),
    6: (4, _decode_get_hashes, "hashes question"),
    7: (4, _decode_hashes, "hashes answer"),
    8: (2, lambda f: NoHashes(_file(f[1])), "no-hashes answer"),
    9: (2, lambda f: GetPiece(_piece_number(f[1])), "piece question"),
    10: (3, lambda f: Piece(_piece_number(f[1]), _piece_data(codec.blob(f[2], "piece", BLOB_CHUNK_BYTES))), "piece"),
    11: (2, lambda f: NoPiece(_piece_number(f[1])), "no-piece answer"),
    12: (2, lambda f: Cancel(_piece_number(f[1])), "cancellation"),
    13: (2, lambda f: Have(_list(f[1], "pieces")), "have"),
    14: (3, lambda f: Fetching(_list(f[1], "begun pieces"), _list(f[2], "ended pieces")), "fetching"),
    15: (2, lambda f: Choke(codec.boolean(f[1], "choked")), "choke"),
}
