"""Frames whose body comes by data socket: their header on the stream, and what a stream needs of the data sockets.

The data sockets themselves are in net/bulk; protocols/data/1/spec.md says what travels where.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple, Protocol

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import CHUNK_OVERHEAD_BYTES, EXTERNAL_INLINE_BYTES_MAX, FRAME_BYTES_MAX
from cocoon_p2p.net.port import BulkFrame, Bytes

EXTERNAL_BIT = 1 << 31
SOCKET_ID_BYTES = 16
_HEADER = struct.Struct(f"!IB{SOCKET_ID_BYTES}sQII")
EXTERNAL_HEADER_BYTES = _HEADER.size
TAG_BYTES = CHUNK_OVERHEAD_BYTES


class PartKind(IntEnum):
    """What a part on the data socket is (data/1 §4.2). The numbers are on the wire and never change."""

    SEALED = 0
    ENCRYPTED = 1


class ExternalHeader(NamedTuple):
    """What stands on the stream before the head and the tail of an external frame."""

    frame_bytes: int
    kind: PartKind
    socket_id: bytes
    offset: int
    """Of the part, from the socket's first byte after the greeting."""
    part_bytes: int
    head_bytes: int

    @property
    def body_bytes(self) -> int:
        return self.part_bytes - (TAG_BYTES if self.kind is PartKind.ENCRYPTED else 0)

    @property
    def inline_bytes(self) -> int:
        """Of head and tail, which follow on the stream."""
        return self.frame_bytes - self.body_bytes

    def encode(self) -> bytes:
        return _HEADER.pack(
            EXTERNAL_BIT | self.frame_bytes, self.kind, self.socket_id, self.offset, self.part_bytes, self.head_bytes
        )


def decode_external_header(data: Bytes) -> ExternalHeader:
    """Of EXTERNAL_HEADER_BYTES. Raises RemoteProtocolError."""
    # SPEC data/1 §5
    try:
        length, kind, socket_id, offset, part_bytes, head_bytes = _HEADER.unpack(data)
        header = ExternalHeader(length & ~EXTERNAL_BIT, PartKind(kind), socket_id, offset, part_bytes, head_bytes)
    except (struct.error, ValueError) as error:
        raise RemoteProtocolError("no header of an external frame", code="MALFORMED") from error
    if header.frame_bytes > FRAME_BYTES_MAX or header.body_bytes > FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"an external frame of {header.frame_bytes} bytes", code="BOUND")
    inline = header.inline_bytes
    if not length & EXTERNAL_BIT or header.body_bytes < 1 or not head_bytes <= inline <= EXTERNAL_INLINE_BYTES_MAX:
        raise RemoteProtocolError("the lengths of an external frame do not fit each other", code="MALFORMED")
    return header


class Inlet(Protocol):
    """A data socket that we receive on, in the middle of a part."""

    async def receive_into(self, view: memoryview) -> int:
        """At least one byte. Cancelling it loses nothing. Raises TransportError: it ended, or nothing came for long."""

    def decrypt(self, offset: int, record: memoryview, out: memoryview) -> None:
        """Open an ENCRYPTED part; `out` may be the beginning of `record`. Raises TransportError."""

    def taken(self) -> None:
        """The part is whole."""


class Outlet(Protocol):
    """A data socket that we send on."""

    def header(self, frame: BulkFrame) -> ExternalHeader:
        """Of the frame whose body is sent next."""

    async def send(self, frame: BulkFrame) -> None:
        """The body. Raises TransportError. If it fails or is cancelled the socket is closed."""


class DataLane(Protocol):
    """The data sockets that one stream may use. None of these waits or raises, but for `inlet`."""

    def expect(self, payload_bytes: int) -> None: ...

    def outlet(self) -> Outlet | None:
        """One that is ready now."""

    def inlet(self, header: ExternalHeader) -> Inlet:
        """The one that a part comes on. Raises TransportError: unknown, in use, or elsewhere in its bytes."""

    def path_failed(self) -> None:
        """A data socket broke while its connection lives."""

    def doubt(self) -> None:
        """What came on a data socket was altered."""

    def release(self, *, peer_ended: bool) -> None:
        """The stream ended in good order; `peer_ended`: so did the peer's half of it."""

    def abort(self) -> None:
        """The stream is broken."""
