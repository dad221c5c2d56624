"""capacity/1 §7: signed announcements in a file, with when they were heard, so that anybody can make the same book of them.

The file begins with MAGIC. Records follow, each after its length in 4 bytes (big-endian): one `FileHeader`, `FileEntry`s, and
a `FileEnd`, without which the file was cut short. Reading and writing of the file itself is the caller's (cli/market_files.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import DHT_VALUE_BYTES_MAX, MARKET_RECORD_BYTES_MAX
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import Bytes

MAGIC = b"cocoon-market/1\n"
LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class FileHeader:
    """Whose ears these were, and what time the file is about. Unix milliseconds."""

    peer_id: PeerId
    """The node that heard the announcements; its own are not among them."""
    from_ms: int
    """From here on the book can be made: what was heard in the lifetime of an announcement before that is in the file, too."""
    until_ms: int

    def encode(self) -> bytes:
        return codec.pack([1, codec.peer_bytes(self.peer_id), self.from_ms, self.until_ms])


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One announcement, as its author signed it."""

    heard_at_ms: int
    raw: bytes
    """An encoded SignedAnnouncement, not parsed yet."""

    def encode(self) -> bytes:
        return codec.pack([2, self.heard_at_ms, self.raw])


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The last record."""

    count: int
    """Entries before it."""

    def encode(self) -> bytes:
        return codec.pack([3, self.count])


FileRecord = FileHeader | FileEntry | FileEnd


def with_length(record: FileRecord) -> bytes:
    """A record as it stands in the file."""
    encoded = record.encode()
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


def record_length(prefix: bytes) -> int:
    """How many bytes the record behind these LENGTH_BYTES has. Raises RemoteProtocolError when it is out of bounds."""
    # SPEC capacity/1 §7.1
    length = int.from_bytes(prefix, "big")
    if not 0 < length <= MARKET_RECORD_BYTES_MAX:
        codec.fail("BOUND", f"a record of {length:,} bytes; 1 to {MARKET_RECORD_BYTES_MAX:,} are allowed")
    return length


def decode_file_record(record: Bytes) -> FileRecord:
    """Raises RemoteProtocolError."""
    # SPEC capacity/1 §7.2
    fields = codec.unpack(record, "record", bytes_max=MARKET_RECORD_BYTES_MAX)
    match fields[0]:
        case 1:
            codec.require_count(fields, 4, "header")
            header = FileHeader(
                codec.peer_id(fields[1], "peer that heard"),
                codec.time_ms(fields[2], "from_ms"),
                codec.time_ms(fields[3], "until_ms"),
            )
            if header.until_ms < header.from_ms:
                codec.fail("BOUND", "the file ends before it begins")
            return header
        case 2:
            codec.require_count(fields, 3, "entry")
            return FileEntry(
                codec.time_ms(fields[1], "heard_at_ms"),
                codec.blob(fields[2], "signed announcement", DHT_VALUE_BYTES_MAX),
            )
        case 3:
            codec.require_count(fields, 2, "end")
            return FileEnd(codec.uint(fields[1], "count", codec.INT_MAX))
    raise RemoteProtocolError(f"record with tag {fields[0]}", code="UNKNOWN_TAG")
