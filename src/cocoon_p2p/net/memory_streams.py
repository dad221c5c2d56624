"""Streams of the simulated network: two byte pipes with a bounded window and, one way, the link's delay."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.port import Bytes

WINDOW_BYTES = 256 * 1024
"""Unread bytes of one direction before its writer waits: yamux's initial window."""


@dataclass(slots=True, eq=False)
class Connection:
    """One node's side of a connection."""

    address: str
    outbound: bool
    since: float
    streams: int = 0
    pipes: set[MemoryPipe] = field(default_factory=set)
    other: Connection | None = None

    def break_streams(self) -> None:
        for pipe in tuple(self.pipes):
            pipe.cut()


class _Direction:
    """Bytes on their way from one end to the other."""

    def __init__(self) -> None:
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.last_arrival = 0.0
        self.ended = False
        self.was_reset = False
        self.is_discarded = False
        """The reader closed its end: what still comes is of no use."""
        self._changed = trio.Event()

    def changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        await self._changed.wait()


class MemoryPipe:
    """One end: framing's ByteStream."""

    def __init__(
        self,
        connection: Connection,
        outgoing: _Direction,
        incoming: _Direction,
        *,
        delay_s: Callable[[], float],
        is_reachable: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._out = outgoing
        self._in = incoming
        self._delay_s = delay_s
        self._is_reachable = is_reachable
        self.count: Callable[[int], None] = lambda size: None
        """Told of the bytes of each write."""
        connection.streams += 1
        connection.pipes.add(self)

    async def write(self, *parts: Bytes) -> None:
        data = b"".join(parts)
        out = self._out
        await trio.lowlevel.checkpoint()
        while out.size >= WINDOW_BYTES and not (out.was_reset or out.is_discarded):
            await out.wait()
        if out.was_reset:
            raise self._broken()
        if out.is_discarded:
            return
        out.last_arrival = max(out.last_arrival, trio.current_time() + self._delay_s())
        out.pieces.append((out.last_arrival, data))
        out.size += len(data)
        self.count(len(data))
        out.changed()

    async def read(self, bytes_max: int) -> bytes:
        incoming = self._in
        await trio.lowlevel.checkpoint()
        while True:
            if incoming.was_reset:
                raise self._broken()
            if not self._is_reachable():
                await incoming.wait()
            elif incoming.pieces:
                arrival = incoming.pieces[0][0]
                if arrival <= trio.current_time():
                    return self._take(bytes_max)
                with trio.move_on_at(arrival):
                    await incoming.wait()  # until it arrives, unless the stream is reset before
            elif incoming.ended:
                return b""
            else:
                await incoming.wait()

    async def read_into(self, buffer: memoryview) -> int:
        data = await self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _take(self, bytes_max: int) -> bytes:
        arrival, piece = self._in.pieces.popleft()
        if len(piece) > bytes_max:
            self._in.pieces.appendleft((arrival, piece[bytes_max:]))
            piece = piece[:bytes_max]
        self._in.size -= len(piece)
        self._in.changed()
        return piece

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        self._out.ended = True
        self._out.changed()
        self._in.is_discarded = True
        self._in.pieces.clear()
        self._in.changed()
        self._release()

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()
        self.cut()

    def wake(self) -> None:
        """Look again: who can be reached has changed."""
        self._in.changed()

    def cut(self) -> None:
        """Both directions end at once, at both ends. What was sent and not yet received is lost, unless its sender had
        closed in good order."""
        for direction in (self._out, self._in):
            if not direction.ended:
                direction.was_reset = True
            direction.changed()
        self._release()

    def _release(self) -> None:
        if self in self._connection.pipes:
            self._connection.pipes.discard(self)
            self._connection.streams -= 1

    def _broken(self) -> TransportError:
        return TransportError("the stream was cut off", outcome_known=False, code="CUT_OFF")


def open_pipe(
    connection: Connection, delay_s: Callable[[], float], is_reachable: Callable[[], bool]
) -> tuple[MemoryPipe, MemoryPipe]:
    """The two ends of a new stream: ours and the peer's."""
    there, back = _Direction(), _Direction()
    near = MemoryPipe(connection, there, back, delay_s=delay_s, is_reachable=is_reachable)
    far_connection = connection.other or connection
    far = MemoryPipe(far_connection, back, there, delay_s=delay_s, is_reachable=is_reachable)
    return near, far
