"""Frames on a byte stream: u32 big-endian length, then that many bytes; the length 0 is the end frame.

    ┌────────────┬─────────────┐ ┌────────────┬─────────────┐     ┌────────────┐
    │ length u32 │ length bytes│ │ length u32 │ length bytes│  …  │     0      │
    └────────────┴─────────────┘ └────────────┴─────────────┘     └────────────┘

libp2p's streams end alike whether the peer closed them or died, so the end is told by a frame of our own: without it,
what came is truncated and the receiver gets an error. A frame whose length has its highest bit set is external: its body
comes by data socket (external_frames.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import trio

from cocoon_p2p.errors import EndOfStream, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import EXTERNAL_BODY_BYTES_MIN, EXTERNAL_INLINE_BYTES_MAX, FRAME_BYTES_MAX, STREAM_OPEN_TIMEOUT_S
from cocoon_p2p.net.external_frames import DataLane, Outlet
from cocoon_p2p.net.frame_reader import LENGTH, ByteSource, FrameReader
from cocoon_p2p.net.port import BulkFrame, Bytes

LENGTH_BYTES = LENGTH.size
END_FRAME = LENGTH.pack(0)
_JOINED_BYTES_MAX = 256 * 1024
"""Short frames of one send are joined up to this size into one write."""
_COPIED_BYTES_MAX = 16 * 1024
"""A longer frame is written beside its length instead of being joined to it: 16 KiB are copied in 0.5 µs, and a piece
more costs the stream about as much."""


class ByteStream(ByteSource, Protocol):
    """What frames travel on. Every failure is a TransportError."""

    async def write(self, *parts: Bytes) -> None:
        """All bytes of all parts, in order; waits while the peer's window is full. The parts are not used afterwards."""

    async def read(self, bytes_max: int) -> bytes:
        """1 to `bytes_max` bytes; b"" at the end of the stream, however it came about. Cancelling it loses nothing."""

    async def read_into(self, buffer: memoryview) -> int:
        """The same into `buffer`: how many, 0 at the end."""

    async def close(self) -> None:
        """Nothing more will be written; what the peer still sends is discarded. Idempotent, raises nothing."""

    async def reset(self) -> None:
        """Abort both directions. Idempotent, raises nothing."""


class FramedStream:
    """The port's `Stream` on any ByteStream. `on_done` is called once, when the stream is closed or reset by us. `lane`
    gives it data sockets; without one every frame goes and comes on the stream."""

    def __init__(
        self,
        peer: PeerId,
        protocol: str,
        raw: ByteStream,
        *,
        on_done: Callable[[], None] | None = None,
        lane: DataLane | None = None,
    ) -> None:
        self._peer = peer
        self._protocol = protocol
        self._raw = raw
        self._on_done = on_done
        self._lane = lane
        self._reader = FrameReader(raw, lane)
        self._send_lock = trio.Lock()  # fair: whoever waits longest sends next
        self._receive_lock = trio.Lock()
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

    async def send(self, *frames: Bytes | BulkFrame) -> None:
        _check_frames(frames)
        await _acquire(self._send_lock)
        try:
            self._check_open("send")
            whole = False
            try:
                await self._write_frames(frames)
                whole = True
            finally:
                if not whole:  # half a frame on the wire can't be taken back
                    await self._break_off("a send failed or was cancelled")
        finally:
            self._send_lock.release()

    def expect_bulk(self, payload_bytes: int) -> None:
        if self._lane is not None and self._broken is None and not self._closed:
            self._lane.expect(payload_bytes)

    async def receive(self) -> Bytes:
        await _acquire(self._receive_lock)
        try:
            if self._peer_ended:
                raise EndOfStream()
            self._check_open("receive")
            frame = await self._next_frame()
            if frame is None:
                self._peer_ended = True
                raise EndOfStream()
            return frame
        finally:
            self._receive_lock.release()

    def doubt_bulk(self) -> bool:
        if self._lane is None or not self._reader.last_was_external:
            return False
        self._lane.doubt()
        return True

    async def aclose(self) -> None:
        if self._closed or self._broken is not None:
            await trio.lowlevel.checkpoint()
            return
        try:
            # A peer that does not read may not hold us for ever: after this long it gets a reset instead.
            with trio.move_on_after(STREAM_OPEN_TIMEOUT_S) as scope:
                async with self._send_lock:
                    if not self._closed:
                        await self._raw.write(END_FRAME)
                        self._closed = True
                        await self._shielded(self._raw.close)
                        if self._lane is not None:
                            self._lane.release(peer_ended=self._peer_ended)
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
            if self._closed:
                self._break("reset by us")
            else:
                await self._break_off("reset by us")
        self._done()

    # --- sending -----------------------------------------------------------------------------------------------------

    async def _write_frames(self, frames: Sequence[Bytes | BulkFrame]) -> None:
        """Short frames joined; of a long one the body as it is; of an external one the body on a data socket."""
        joined: list[Bytes] = []
        size = 0
        for frame in frames:
            if not isinstance(frame, BulkFrame):
                joined.append(LENGTH.pack(len(frame)))
                if len(frame) <= _COPIED_BYTES_MAX:
                    joined.append(frame)
                    size += LENGTH_BYTES + len(frame)
                    if size < _JOINED_BYTES_MAX:
                        continue
                    await self._raw.write(b"".join(joined))
                else:
                    await self._raw.write(b"".join(joined), frame)
            elif (outlet := self._outlet_for(frame)) is not None:
                await self._raw.write(b"".join((*joined, outlet.header(frame).encode(), frame.head, frame.tail)))
                await outlet.send(frame)
            else:
                await self._raw.write(b"".join((*joined, LENGTH.pack(frame.size), frame.head)), frame.body, frame.tail)
            joined, size = [], 0
        if joined:
            await self._raw.write(b"".join(joined))

    def _outlet_for(self, frame: BulkFrame) -> Outlet | None:
        if self._lane is None or len(frame.body) < EXTERNAL_BODY_BYTES_MIN:
            return None
        if len(frame.head) + len(frame.tail) > EXTERNAL_INLINE_BYTES_MAX:
            return None
        return self._lane.outlet()

    # --- receiving ---------------------------------------------------------------------------------------------------

    async def _next_frame(self) -> Bytes | None:
        try:
            return await self._reader.next()
        except RemoteProtocolError as error:
            await self.reset()
            raise RemoteProtocolError(f"{self._peer}: {error.message}", code=error.code) from error
        except TransportError as error:
            await self._break_off(error.message)  # the stream itself may live, but then it is out of step
            why = "" if error.code == "CUT_OFF" else f": {error.message}"
            raise TransportError(
                f"the stream {self._protocol} with {self._peer} was cut off{why}", outcome_known=False, code="CUT_OFF"
            ) from error

    # --- ending ------------------------------------------------------------------------------------------------------

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
            if self._lane is not None:
                self._lane.abort()

    async def _break_off(self, why: str) -> None:
        """Break, and tell the peer."""
        self._break(why)
        await self._shielded(self._raw.reset)

    async def _shielded(self, operation: Callable[[], Awaitable[None]]) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(1.0):
            await operation()

    def _done(self) -> None:
        on_done, self._on_done = self._on_done, None
        if on_done is not None:
            on_done()


async def _acquire(lock: trio.Lock) -> None:
    """As `lock.acquire()`, without a turn of the scheduler when the lock is free: whoever holds it goes on to wait for
    the network."""
    await trio.lowlevel.checkpoint_if_cancelled()
    try:
        lock.acquire_nowait()
    except trio.WouldBlock:
        await lock.acquire()


def _check_frames(frames: Sequence[Bytes | BulkFrame]) -> None:
    for frame in frames:
        size = frame.size if isinstance(frame, BulkFrame) else len(frame)
        if not 0 < size <= FRAME_BYTES_MAX:
            raise LocalProtocolError(f"a frame has 1 to {FRAME_BYTES_MAX} bytes, not {size}", code="FRAME")
