"""Frames on a byte stream: u32 big-endian length, then that many bytes; the length 0 is the end frame.

    ┌────────────┬─────────────┐ ┌────────────┬─────────────┐     ┌────────────┐
    │ length u32 │ length bytes│ │ length u32 │ length bytes│  …  │     0      │
    └────────────┴─────────────┘ └────────────┴─────────────┘     └────────────┘

libp2p's streams end alike whether the peer closed them or died (libp2p_cures.py), so the end is told by a frame of our
own: without it, what came is truncated and the receiver gets an error.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Protocol

import trio

from cocoon_p2p.errors import EndOfStream, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import FRAME_BYTES_MAX, STREAM_OPEN_TIMEOUT_S
from cocoon_p2p.net.port import Bytes

_LENGTH = struct.Struct("!I")
LENGTH_BYTES = _LENGTH.size
END_FRAME = _LENGTH.pack(0)
_READ_BYTES = 256 * 1024
"""Asked for at once: many small frames then cost one read. A quarter of the largest frame bounds what is held beyond it."""
_WRITE_BYTES = 256 * 1024
"""Small frames of one send are joined up to this size; a larger one goes out with its length and is copied once."""


class ByteStream(Protocol):
    """What frames travel on. Every failure is a TransportError."""

    async def write(self, data: bytes) -> None:
        """All of `data`, in order; waits while the peer's window is full."""

    async def read(self, bytes_max: int) -> bytes:
        """1 to `bytes_max` bytes; b"" at the end of the stream, however it came about. Cancelling it loses nothing."""

    async def close(self) -> None:
        """Nothing more will be written; what the peer still sends is discarded. Idempotent, raises nothing."""

    async def reset(self) -> None:
        """Abort both directions. Idempotent, raises nothing."""


def encode_frames(frames: Sequence[Bytes]) -> Iterator[bytes]:
    """The bytes of several frames in pieces that are worth a write each. Raises LocalProtocolError before the first."""
    for frame in frames:
        if not 0 < len(frame) <= FRAME_BYTES_MAX:
            raise LocalProtocolError(f"a frame has 1 to {FRAME_BYTES_MAX} bytes, not {len(frame)}", code="FRAME")
    return _join(frames)


def _join(frames: Iterable[Bytes]) -> Iterator[bytes]:
    parts: list[Bytes] = []
    size = 0
    for frame in frames:
        if size and size + LENGTH_BYTES + len(frame) > _WRITE_BYTES:
            yield b"".join(parts)
            parts, size = [], 0
        parts += (_LENGTH.pack(len(frame)), frame)
        size += LENGTH_BYTES + len(frame)
    if parts:
        yield b"".join(parts)


class FramedStream:
    """The port's `Stream` on any ByteStream. `on_done` is called once, when the stream is closed or reset by us."""

    def __init__(
        self, peer: PeerId, protocol: str, raw: ByteStream, *, on_done: Callable[[], None] | None = None
    ) -> None:
        self._peer = peer
        self._protocol = protocol
        self._raw = raw
        self._on_done = on_done
        self._send_lock = trio.Lock()  # fair: whoever waits longest sends next
        self._receive_lock = trio.Lock()
        self._buffer = bytearray()
        self._peer_ended = False
        self._closed = False
        self._broken: str | None = None

    def __repr__(self) -> str:
        return f"<stream {self._protocol} with {self._peer}>"

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def protocol(self) -> str:
        return self._protocol

    async def send(self, *frames: Bytes) -> None:
        pieces = encode_frames(frames)
        async with self._send_lock:
            self._check_open("send")
            await self._write_whole(pieces)

    async def receive(self) -> bytes:
        async with self._receive_lock:
            if self._peer_ended:
                raise EndOfStream()
            self._check_open("receive")
            await self._fill(LENGTH_BYTES)
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length == 0:
                self._peer_ended = True
                raise EndOfStream()
            if length > FRAME_BYTES_MAX:
                await self.reset()
                raise RemoteProtocolError(
                    f"{self._peer} announced a frame of {length} bytes; at most {FRAME_BYTES_MAX} are allowed",
                    code="FRAME_TOO_LONG",
                )
            end = LENGTH_BYTES + length
            await self._fill(end)
            with memoryview(self._buffer) as view:
                frame = bytes(view[LENGTH_BYTES:end])
            del self._buffer[:end]
            return frame

    async def aclose(self) -> None:
        if self._closed or self._broken is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            # A peer that does not read may not hold us for ever: after this long it gets a reset instead.
            with trio.move_on_after(STREAM_OPEN_TIMEOUT_S) as scope:
                async with self._send_lock:
                    if not self._closed:
                        await self._write_whole([END_FRAME])
                        self._closed = True
                        await self._shielded(self._raw.close)
            if scope.cancelled_caught:
                await self.reset()
        except TransportError:
            await self.reset()
        except trio.Cancelled:
            await self.reset()
            raise
        finally:
            self._done()

    async def reset(self) -> None:
        if self._broken is None:
            self._break("reset by us")
            if not self._closed:
                await self._shielded(self._raw.reset)
        self._done()

    async def _write_whole(self, pieces: Iterable[bytes]) -> None:
        """Write or break: half a frame on the wire can't be taken back, so whatever stops us ends the stream."""
        whole = False
        try:
            for piece in pieces:
                await self._raw.write(piece)
            whole = True
        finally:
            if not whole:
                self._break("a send failed or was cancelled")
                await self._shielded(self._raw.reset)

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            piece = await self._raw.read(max(size - len(self._buffer), _READ_BYTES))
            if not piece:
                self._break("it was cut off")
                raise TransportError(f"{self!r} was cut off", outcome_known=False, code="CUT_OFF")
            self._buffer += piece

    def _check_open(self, action: str) -> None:
        if self._broken is not None:
            raise TransportError(
                f"cannot {action} on {self!r}: {self._broken}", outcome_known=False, code="STREAM_BROKEN"
            )
        if self._closed:
            raise TransportError(f"cannot {action} on {self!r}: we closed it", outcome_known=True, code="STREAM_CLOSED")

    def _break(self, why: str) -> None:
        if self._broken is None:
            self._broken = why

    async def _shielded(self, operation: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await operation()

    def _done(self) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done()
