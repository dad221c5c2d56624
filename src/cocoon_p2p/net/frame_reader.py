"""Frames out of a byte stream, with few copies: short ones are cut from what one read brought, long ones are read straight
into a buffer of their own, and the bodies of external ones come from a data socket into that buffer."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Protocol

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.limits import DEATH_NOTICE_S, FRAME_BYTES_MAX, KIB
from cocoon_p2p.net.external_frames import (
    EXTERNAL_BIT,
    EXTERNAL_HEADER_BYTES,
    DataLane,
    ExternalHeader,
    Inlet,
    PartKind,
    decode_external_header,
)
from cocoon_p2p.net.frame_buffers import frame_buffers
from cocoon_p2p.net.port import Bytes

LENGTH = struct.Struct("!I")
READ_BYTES = 64 * KIB
"""Asked for at once: many short frames then cost one read. A longer frame is read into a buffer, all but its beginning."""
_BURST = 32
"""Short frames that are handed out without a look at what the other tasks want: half a millisecond of work."""


class ByteSource(Protocol):
    async def read(self, bytes_max: int) -> bytes: ...

    async def read_into(self, buffer: memoryview) -> int: ...


@dataclass(slots=True)
class _Partial:
    """A long frame that is not all here yet: what a cancelled `next` leaves for the following one."""

    view: memoryview
    frame_bytes: int
    filled: int
    header: ExternalHeader | None = None
    inline: bytes = b""
    inlet: Inlet | None = None


class FrameReader:
    """One task at a time may be in `next`."""

    def __init__(self, raw: ByteSource, lane: DataLane | None) -> None:
        self._raw = raw
        self._lane = lane
        self._chunk = b""
        self._at = 0
        self._partial: _Partial | None = None
        self._burst = 0
        self.last_was_external = False
        """Whether the last frame's body came by data socket."""

    async def next(self) -> Bytes | None:
        """The next frame; None for the end frame. Cancelling it loses nothing. Raises TransportError (CUT_OFF) and
        RemoteProtocolError, after which the stream is out of step."""
        if self._partial is None:
            frame = await self._begin()
            if self._partial is None:
                return frame
        partial = self._partial
        if partial.header is None:
            await self._finish(partial)
        else:
            await self._finish_external(partial, partial.header)
        self._partial = None
        self.last_was_external = partial.header is not None
        return _frame_of(partial)

    async def _begin(self) -> Bytes | None:
        """A frame that is short or here already; a long one becomes `_partial`."""
        start = self._at
        if len(self._chunk) - start < LENGTH.size:
            await self._need(LENGTH.size)
        else:
            await self._share()
        (length,) = LENGTH.unpack_from(self._chunk, self._at)
        if length & EXTERNAL_BIT and self._lane is not None:
            await self._begin_external(self._lane)
            return None
        if length > FRAME_BYTES_MAX:
            raise RemoteProtocolError(
                f"a frame of {length} bytes was announced; at most {FRAME_BYTES_MAX} are allowed", code="FRAME_TOO_LONG"
            )
        begin = self._at + LENGTH.size
        end = begin + length
        if end <= len(self._chunk):
            frame = self._chunk[begin:end]
            self._advance(end)
            self.last_was_external = False
            return frame or None
        view = _memory_for(length)
        here = len(self._chunk) - begin
        view[:here] = self._chunk[begin:]
        self._advance(len(self._chunk))
        self._partial = _Partial(view, length, here)
        return None

    async def _begin_external(self, lane: DataLane) -> None:
        # SPEC data/1 §5
        await self._need(EXTERNAL_HEADER_BYTES)
        header = decode_external_header(self._chunk[self._at : self._at + EXTERNAL_HEADER_BYTES])
        await self._need(EXTERNAL_HEADER_BYTES + header.inline_bytes)
        begin = self._at + EXTERNAL_HEADER_BYTES
        inline = self._chunk[begin : begin + header.inline_bytes]
        inlet = lane.inlet(header)
        self._advance(begin + header.inline_bytes)
        view = _memory_for(header.head_bytes + header.part_bytes, header.frame_bytes)
        self._partial = _Partial(view, header.frame_bytes, 0, header, inline, inlet)

    async def _finish(self, partial: _Partial) -> None:
        view, size = partial.view, partial.frame_bytes
        while partial.filled < size:
            taken = await self._raw.read_into(view[partial.filled : size])
            if not taken:
                raise _cut_off()
            partial.filled += taken

    async def _finish_external(self, partial: _Partial, header: ExternalHeader) -> None:
        inlet, head = partial.inlet, header.head_bytes
        assert inlet is not None
        part = partial.view[head : head + header.part_bytes]
        try:
            while partial.filled < header.part_bytes:
                partial.filled += await inlet.receive_into(part[partial.filled :])
        except TransportError:
            await self._find_the_culprit()
            raise
        if header.kind is PartKind.ENCRYPTED:
            self._decrypt(inlet, header.offset, part, part[: header.body_bytes])
        partial.view[:head] = partial.inline[:head]
        partial.view[head + header.body_bytes : partial.frame_bytes] = partial.inline[head:]
        inlet.taken()

    def _decrypt(self, inlet: Inlet, offset: int, part: memoryview, body: memoryview) -> None:
        try:
            inlet.decrypt(offset, part, body)
        except TransportError:
            if self._lane is not None:
                self._lane.doubt()
            raise

    async def _find_the_culprit(self) -> None:
        """A data socket ended in the middle of a part. If the stream ended with it, it was the peer; else the path."""
        lives = True
        with trio.move_on_after(DEATH_NOTICE_S):
            try:
                lives = await self._raw.read(1) != b""
            except TransportError:
                lives = False
        if lives and self._lane is not None:
            self._lane.path_failed()

    async def _need(self, size: int) -> None:
        """Read until so many bytes are there from `_at` on."""
        while len(self._chunk) - self._at < size:
            piece = await self._raw.read(READ_BYTES)
            if not piece:
                raise _cut_off()
            rest = self._chunk[self._at :]
            self._chunk = rest + piece if rest else piece
            self._at = 0
            self._burst = 0

    async def _share(self) -> None:
        """Frames that are here already cost no wait: let the other tasks have their turn all the same."""
        self._burst += 1
        if self._burst >= _BURST:
            self._burst = 0
            await trio.lowlevel.checkpoint()

    def _advance(self, to: int) -> None:
        if to == len(self._chunk):
            self._chunk, self._at = b"", 0  # an idle stream holds nothing
        else:
            self._at = to


def _memory_for(*sizes: int) -> memoryview:
    """For the largest of these."""
    size = max(sizes)
    return frame_buffers.take() if size >= READ_BYTES else memoryview(bytearray(size))


def _frame_of(partial: _Partial) -> Bytes:
    if partial.frame_bytes < READ_BYTES and partial.header is None:
        return bytes(partial.view)
    return partial.view[: partial.frame_bytes].toreadonly()


def _cut_off() -> TransportError:
    return TransportError("the stream was cut off", outcome_known=False, code="CUT_OFF")
