"""The frames of yamux (https://github.com/hashicorp/yamux/blob/master/spec.md, "Framing"), without IO.

┌────────────┬─────────┬───────────┬───────────────┬────────────┐ ┌─────────────────────────┐
│ version u8 │ type u8 │ flags u16 │ stream id u32 │ length u32 │ │ length bytes, if "data" │
└────────────┴─────────┴───────────┴───────────────┴────────────┘ └─────────────────────────┘
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import STREAM_WINDOW_BYTES_MAX

# "Type Field"
DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

# "Flag Field"
SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

# "Session termination"
NORMAL: Final = 0
PROTOCOL_ERROR: Final = 1

HEADER = struct.Struct("!BBHII")
HEADER_BYTES: Final = HEADER.size
_VERSION = 0
_NOTHING = memoryview(b"")


def encode_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """The 12 bytes before the payload, or a whole frame of a kind that has none. `length` is what its kind makes of it:
    bytes that follow, bytes by which a window opens, a number to be echoed, a reason."""
    return HEADER.pack(_VERSION, kind, flags, stream_id, length)


class Piece(NamedTuple):
    """A frame, or what has come of a data frame now."""

    kind: int
    flags: int
    stream_id: int
    length: int
    payload: memoryview
    """Of a data frame, never empty unless the frame is."""
    remaining: int
    """Bytes of the payload still to come."""


class FrameReader:
    """Cuts a stream of bytes, however it was chopped, into frames. Holds at most one incomplete header."""

    __slots__ = ("_flags", "_length", "_partial", "_remaining", "_stream_id")

    def __init__(self) -> None:
        self._partial = bytearray()
        self._flags = self._stream_id = self._length = self._remaining = 0
        """Of the data frame whose payload is being read."""

    def feed(self, data: memoryview) -> Iterator[Piece]:
        """What `data` completes; payloads are parts of `data` itself. To be used up before the next call.

        Raises RemoteProtocolError for another version, an unknown type, or more data than any window allows; what came
        before that is given out first, and the reader is of no use afterwards.
        """
        start, end = 0, len(data)
        while start < end:
            if self._remaining:
                size = min(self._remaining, end - start)
                self._remaining -= size
                payload = data[start : start + size]
                start += size
                yield Piece(DATA, self._flags, self._stream_id, self._length, payload, self._remaining)
                continue
            if self._partial or end - start < HEADER_BYTES:
                taken = min(HEADER_BYTES - len(self._partial), end - start)
                self._partial += data[start : start + taken]
                start += taken
                if len(self._partial) < HEADER_BYTES:
                    return
                version, kind, flags, stream_id, length = HEADER.unpack(self._partial)
                self._partial.clear()
            else:
                version, kind, flags, stream_id, length = HEADER.unpack_from(data, start)
                start += HEADER_BYTES
            if version != _VERSION or kind > GO_AWAY:
                raise RemoteProtocolError(f"yamux: a frame of version {version} and type {kind}", code="YAMUX")
            if kind == DATA and length:
                if length > STREAM_WINDOW_BYTES_MAX:
                    raise RemoteProtocolError(f"yamux: a data frame of {length} bytes", code="YAMUX")
                self._flags, self._stream_id, self._length = flags, stream_id, length
                self._remaining = length
            else:
                yield Piece(kind, flags, stream_id, length, _NOTHING, 0)
