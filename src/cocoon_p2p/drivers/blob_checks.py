"""Hashes and writes the pieces that come, in a few threads, each of which takes one piece after the other.

A thread is not given one piece and done: handing it over and back costs both sides as much as a quarter of hashing it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.disk_threads import DiskThreads
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.proto.blob_effects import CheckPiece
from cocoon_p2p.wire.codec import Bytes

_BACKLOG = 1
"""So many pieces that wait for each thread at work are worth another one."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A piece that came: whether it was right, and is kept; or why it could not be kept."""

    peer: PeerId
    piece: int
    ok: bool
    error: CocoonError | None = None


class PieceChecks:
    """`run` it in a task. `keep` blocks, is called by several threads at once, and raises CocoonError where the disk does not
    take the piece; `checked` hears of what was done meanwhile."""

    def __init__(
        self,
        threads: DiskThreads,
        keep: Callable[[int, Bytes], bool],
        checked: Callable[[Sequence[Checked]], None],
    ) -> None:
        self._threads = threads
        self._keep = keep
        self._checked = checked
        self._here = 0
        """Pieces that were put and are not reported yet."""
        self._room = trio.Event()
        self._waiting: deque[CheckPiece] = deque()
        self._done: deque[Checked] = deque()
        """Threads append, we take."""
        self._workers = 0
        self._told = trio.Event()
        self._report: Callable[[], None] = lambda: None
        self._nursery: trio.Nursery | None = None

    def put(self, check: CheckPiece) -> None:
        """Never waits, so that no piece is lost with the reader that brought it; before it reads another one, `room`."""
        if self._nursery is None:
            return  # it is over
        self._here += 1
        self._waiting.append(check)
        has_backlog = len(self._waiting) >= _BACKLOG * self._workers and self._workers < limits.BLOB_CHECKS_AT_ONCE
        if has_backlog or not self._threads.is_real:  # a task for each in a simulation: nothing is left to chance there
            self._workers += 1
            self._nursery.start_soon(self._work)

    async def room(self) -> None:
        """Whoever reads faster than is hashed and written waits here, and thereby its holder."""
        while self._here >= limits.BLOB_CHECKS_MAX:
            await self._room.wait()

    async def run(self) -> None:
        """Runs until cancelled, and until the pieces that threads are at are done."""
        self._report = self._threads.reporting(self._wake)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._told.wait()
                    self._told = trio.Event()
                    self._deliver()
            finally:
                self._nursery = None
                self._waiting.clear()

    def _wake(self) -> None:
        self._told.set()

    def _deliver(self) -> None:
        done = [self._done.popleft() for _ in range(len(self._done))]
        self._here -= len(done)
        if self._here < limits.BLOB_CHECKS_MAX:
            self._room.set()
            self._room = trio.Event()
        if done:
            self._checked(done)

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._threads.run(self._check_all)
                self._deliver()  # here, not in `run`: where there are no threads, chance is not to draw which task is next
        finally:
            self._workers -= 1

    def _check_all(self) -> None:
        """In a thread: as long as there are any."""
        while self._waiting:
            try:
                check = self._waiting.popleft()
            except IndexError:  # another thread has it
                return
            try:
                done = Checked(check.peer, check.piece, self._keep(check.piece, check.data))
            except CocoonError as error:
                done = Checked(check.peer, check.piece, False, error)
            del check  # its memory is used again
            self._done.append(done)
            self._report()
