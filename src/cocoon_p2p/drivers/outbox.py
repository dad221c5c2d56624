"""What waits to be sent on one stream: short messages at once, bulk in order and with back-pressure.

A machine answers while its stream is being read. If that answer had to wait until the peer reads, two nodes could wait
for each other for ever; so short messages are queued here (bounded: a peer that makes us answer more than it reads is
cut off), and one task sends, as many at a time as fit in a frame or so.
"""

from __future__ import annotations

from collections import deque

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import FRAME_BYTES_MAX, MIB
from cocoon_p2p.net.port import BulkFrame, Bytes, Stream

SHORT_MESSAGES_MAX = 1024
"""JOBS_PER_PEER_MAX jobs with every short message that they can cause, several times over."""
BULK_BYTES_MAX = 2 * MIB
"""Two full frames: one on its way, one being sealed."""


class Outbox:
    """`run` in a task of its own; `put` and `put_bulk` from any. After the stream broke both raise TransportError."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._short: deque[Bytes] = deque()
        self._bulk: deque[tuple[bytes, Bytes | BulkFrame]] = deque()
        """What each frame is for, and the frame."""
        self._bulk_bytes = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._broken: TransportError | None = None

    def put(self, frame: bytes) -> None:
        """A short message: never waits, and may overtake bulk."""
        self._check()
        if len(self._short) >= SHORT_MESSAGES_MAX:
            self._break(TransportError("the peer does not read our answers", outcome_known=False))
            self._check()
        self._short.append(frame)
        self._notify()

    @property
    def full(self) -> bool:
        """Whether `put_bulk` would wait."""
        return self._bulk_bytes >= BULK_BYTES_MAX and self._broken is None

    async def put_bulk(self, *frames: Bytes | BulkFrame, purpose: bytes = b"") -> None:
        """Frames that must keep their order; waits for room. They are the queue's from here on: not to be changed. `drop`
        takes those of a `purpose` (a job's id) back."""
        while self.full:
            await self._room.wait()
        self._check()
        for frame in frames:
            self._bulk.append((purpose, frame))
            self._bulk_bytes += _size(frame)
        self._notify()

    def drop(self, purpose: bytes) -> None:
        """Forget the bulk of this purpose that is not given to the network yet."""
        kept = [entry for entry in self._bulk if entry[0] != purpose]
        if len(kept) != len(self._bulk):
            self._bulk = deque(kept)
            self._bulk_bytes = sum(_size(frame) for _, frame in kept)
            self._room.set()
            self._room = trio.Event()

    async def flushed(self) -> None:
        """Waits until all that was put is given to the network, or can never be."""
        await self._idle.wait()

    async def run(self) -> None:
        """Sends until cancelled, or until the stream breaks (which the stream's reader sees too)."""
        try:
            while self._broken is None:
                if not self._short and not self._bulk:
                    self._idle.set()
                    self._wake = trio.Event()
                    await self._wake.wait()
                    continue
                await self._stream.send(*self._take())
                self._room.set()
                self._room = trio.Event()
        except TransportError as error:
            self._break(error)

    def _take(self) -> list[Bytes | BulkFrame]:
        frames: list[Bytes | BulkFrame] = list(self._short)
        self._short.clear()
        size = sum(map(_size, frames))
        while self._bulk and (not frames or size + _size(self._bulk[0][1]) <= FRAME_BYTES_MAX):
            _, frame = self._bulk.popleft()
            self._bulk_bytes -= _size(frame)
            size += _size(frame)
            frames.append(frame)
        return frames

    def _notify(self) -> None:
        self._idle = trio.Event() if self._idle.is_set() else self._idle
        self._wake.set()

    def _break(self, error: TransportError) -> None:
        self._broken = error
        self._wake.set()
        self._room.set()
        self._idle.set()

    def _check(self) -> None:
        if self._broken is not None:
            raise TransportError(self._broken.message, outcome_known=self._broken.outcome_known)


def _size(frame: Bytes | BulkFrame) -> int:
    return frame.size if isinstance(frame, BulkFrame) else len(frame)
