"""Control frames on their way out. Whoever has one to send leaves it here and goes on: the task that reads from a peer
must never wait until that peer reads, or two of them could wait for each other for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import YAMUX_REPLIES_MAX
from cocoon_p2p.net.port import Bytes


class Sender(Protocol):
    async def send(self, *parts: Bytes) -> None: ...


class ControlSource(Protocol):
    def take_control(self) -> bytes:
        """The control frames that it has to send now; b"" if there are none any more."""


class Waiter:
    """At most one task that waits to be woken; half the cost of a trio.Event for each time."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Until the next `wake`. Raises trio.BusyResourceError when another task waits here."""
        if self._task is not None:
            raise trio.BusyResourceError("another task is waiting for the same")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._leave)

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            trio.lowlevel.reschedule(task)


class Outbox:
    """`on_overflow` is called, once, when a peer makes us answer more than it reads."""

    __slots__ = ("_frames", "_on_overflow", "_overflown", "_sources", "_waiter")

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        self._frames: list[bytes] = []
        self._sources: dict[ControlSource, None] = {}
        """Each at most once, so that what many changes of a stream amount to is one frame."""
        self._on_overflow = on_overflow
        self._overflown = False
        self._waiter = Waiter()

    def post(self, frame: bytes) -> None:
        """Send a frame as it is. Those that wait are bounded."""
        if len(self._frames) < YAMUX_REPLIES_MAX:
            self._frames.append(frame)
            self._waiter.wake()
        elif not self._overflown:
            self._overflown = True
            self._on_overflow()

    def ask(self, source: ControlSource) -> None:
        """Send what `source` has to say when it is asked, soon; it may have said it with its data by then."""
        self._sources[source] = None
        self._waiter.wake()

    def forget(self, source: ControlSource) -> None:
        self._sources.pop(source, None)

    def take(self) -> bytes:
        """Everything that waits. Streams first: a reset that was posted is the last word of its stream."""
        frames = [source.take_control() for source in self._sources]
        self._sources.clear()
        frames += self._frames
        self._frames.clear()
        return b"".join(frames)

    async def run(self, sender: Sender) -> None:
        """Send, for ever. Raises TransportError when the connection is broken."""
        while True:
            if not self._frames and not self._sources:
                await self._waiter.wait()
                # A turn for those who were woken at the same time: the first data of a stream says that it is opened or
                # accepted as well as a frame of its own would, for nothing.
                await trio.lowlevel.checkpoint()
            frames = self.take()
            if frames:
                await sender.send(frames)


async def send_last(sender: Sender, frames: bytes, timeout_s: float) -> None:
    """Before the end: send if the peer still reads, and never mind if it doesn't."""
    with trio.move_on_after(timeout_s), suppress(TransportError):
        await sender.send(frames)
