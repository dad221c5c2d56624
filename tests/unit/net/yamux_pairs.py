"""Two ends of yamux without a socket between them, for the tests of it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.yamux.connection import MuxedConnection, Violation
from cocoon_p2p.net.yamux.frames import FrameReader, Piece
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.net.yamux.window import WindowBudget

ALICE, BOB = PeerId("12D3KooWAlice"), PeerId("12D3KooWBob")

PATIENCE_S = 30.0
"""Then what hangs fails. With a virtual clock, too, on which pings go on for ever."""


@dataclass
class MemoryPipe:
    address: str = "/ip4/127.0.0.1/tcp/1"
    transport: Literal["tcp", "websocket"] = "tcp"
    relayed: bool = False


class Line:
    """One direction: bytes that arrive `delay_s` after they were sent, in chunks that `cut` makes; `capacity` of them are
    under way at most."""

    def __init__(self, delay_s: float, capacity: int, cut: Callable[[bytes], list[bytes]]) -> None:
        self._delay_s = delay_s
        self._capacity = capacity
        self._cut = cut
        self._chunks: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._changed = trio.Event()
        self.broken = False
        self.ended = False

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        while self._held >= self._capacity and not self.broken:
            await self._changed.wait()
        if self.broken or self.ended:
            raise TransportError("broken", outcome_known=False)
        self._held += len(data)
        self._chunks += [(trio.current_time() + self._delay_s, chunk) for chunk in self._cut(data)]
        self._change()

    async def receive(self) -> memoryview:
        while not self._chunks:
            if self.broken:
                raise TransportError("broken", outcome_known=False)
            if self.ended:
                return memoryview(b"")
            await self._changed.wait()
        await trio.sleep_until(self._chunks[0][0])
        _, chunk = self._chunks.popleft()
        self._held -= len(chunk)
        self._change()
        return memoryview(chunk)

    def end(self) -> None:
        self.ended = True
        self._change()

    def abort(self) -> None:
        self.broken = True
        self._change()


class MemorySession:
    def __init__(self, peer: PeerId, *, is_initiator: bool, incoming: Line, outgoing: Line) -> None:
        self.peer = peer
        self.is_initiator = is_initiator
        self.pipe = MemoryPipe()
        self.bytes_received = self.bytes_sent = 0
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = trio.Lock()

    async def receive(self) -> memoryview:
        data = await self._incoming.receive()
        self.bytes_received += len(data)
        return data

    async def send(self, *parts: Bytes) -> None:
        data = b"".join(parts)
        async with self._lock:
            await self._outgoing.send(data)
        self.bytes_sent += len(data)

    def abort(self) -> None:
        self._incoming.abort()
        self._outgoing.end()


def whole(data: bytes) -> list[bytes]:
    return [data]


def session_pair(
    *, delay_s: float = 0.0, capacity: int = 1 << 20, cut: Callable[[bytes], list[bytes]] = whole
) -> tuple[MemorySession, MemorySession]:
    there, back = Line(delay_s, capacity, cut), Line(delay_s, capacity, cut)
    return (
        MemorySession(BOB, is_initiator=True, incoming=back, outgoing=there),
        MemorySession(ALICE, is_initiator=False, incoming=there, outgoing=back),
    )


class End:
    """A connection that runs, and what came to it."""

    def __init__(self, session: MemorySession, budget: WindowBudget | None = None) -> None:
        self.violations: list[Violation] = []
        self.connection = MuxedConnection(session, budget=budget, on_violation=self.violations.append)
        self._accepted, self._to_accept = trio.open_memory_channel[MuxStream](1000)
        self.ended = trio.Event()

    async def run(self) -> None:
        try:
            await self.connection.run(self._accepted.send_nowait)
        finally:
            self.ended.set()

    async def open(self) -> MuxStream:
        return await self.connection.open_stream()

    async def accept(self) -> MuxStream:
        return await self._to_accept.receive()


@asynccontextmanager
async def connected(
    *,
    delay_s: float = 0.0,
    capacity: int = 1 << 20,
    cut: Callable[[bytes], list[bytes]] = whole,
    budget: WindowBudget | None = None,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[tuple[End, End]]:
    """Two ends; `budget` is that of the second."""
    first, second = session_pair(delay_s=delay_s, capacity=capacity, cut=cut)
    alice, bob = End(first), End(second, budget)
    with trio.fail_after(patience_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alice.run)
            nursery.start_soon(bob.run)
            yield alice, bob
            nursery.cancel_scope.cancel()


@dataclass
class Bare:
    """A peer that sends what frames it likes, to a connection that runs."""

    session: MemorySession
    end: End
    _reader: FrameReader = field(default_factory=FrameReader)
    _pieces: deque[Piece] = field(default_factory=deque)

    async def send(self, *frames: bytes) -> None:
        await self.session.send(*frames)

    async def next(self, *, pings: bool = False) -> Piece:
        """The next frame that the connection sent, its own pings left out."""
        while True:
            while not self._pieces:
                data = await self.session.receive()
                if not data:
                    raise EOFError
                self._pieces += self._reader.feed(data)
            piece = self._pieces.popleft()
            if pings or piece.kind != 2:
                return piece


@asynccontextmanager
async def bare(*, capacity: int = 1 << 30, patience_s: float = PATIENCE_S) -> AsyncIterator[Bare]:
    """We are the initiator, hence open streams of odd numbers."""
    ours, theirs = session_pair(capacity=capacity)
    end = End(theirs)
    with trio.fail_after(patience_s):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.run)
            yield Bare(ours, end)
            nursery.cancel_scope.cancel()
