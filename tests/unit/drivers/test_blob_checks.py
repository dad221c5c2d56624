"""Pieces on their way through the threads that hash and write them: none is lost, and no more are here than may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from cocoon_p2p.drivers.blob_checks import Checked, PieceChecks
from cocoon_p2p.drivers.disk_threads import DiskThreads, Given, Result
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BLOB_CHECKS_AT_ONCE, BLOB_CHECKS_MAX
from cocoon_p2p.proto.blob_effects import CheckPiece
from cocoon_p2p.wire.codec import Bytes

PEER = PeerId("a peer")
PIECES = 200


class Disk:
    """Takes what comes while it is open; piece 5 is wrong, and for piece 7 there is no room."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.kept: list[int] = []
        self.at_once = 0
        self.at_once_max = 0
        self._lock = threading.Lock()

    def keep(self, piece: int, data: Bytes) -> bool:
        with self._lock:
            self.at_once += 1
            self.at_once_max = max(self.at_once, self.at_once_max)
        assert self.is_open.wait(20)
        with self._lock:
            self.at_once -= 1
            self.kept.append(piece)
        if piece == 7:
            raise ConfigError("no room")
        return piece != 5


class Threads(DiskThreads):
    """Counts how often something was handed to a thread."""

    def __init__(self, *, real: bool) -> None:
        super().__init__(real=real)
        self.runs = 0

    async def run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        self.runs += 1
        return await super().run(work, *given, **named)


@pytest.mark.parametrize("real", [True, False])
async def test_all_are_checked_and_few_are_handed_over(real: bool) -> None:
    disk, threads = Disk(), Threads(real=real)
    heard: list[Checked] = []
    whole = trio.Event()

    def checked(pieces: Sequence[Checked]) -> None:
        heard.extend(pieces)
        if len(heard) == PIECES:
            whole.set()

    checks = PieceChecks(threads, disk.keep, checked)
    if not real:
        disk.is_open.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checks.run)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(PIECES):
            checks.put(CheckPiece(PEER, number, b"x"))
            if number == BLOB_CHECKS_MAX - 1 and real:
                with trio.move_on_after(0) as scope:
                    await checks.room()
                assert scope.cancelled_caught
                disk.is_open.set()
            await checks.room()
        with trio.fail_after(20):
            await whole.wait()
        nursery.cancel_scope.cancel()
    assert sorted(each.piece for each in heard) == sorted(disk.kept) == list(range(PIECES))
    assert {each.piece for each in heard if not each.ok} == {5, 7}
    assert [each.piece for each in heard if each.error is not None] == [7]
    assert disk.at_once_max <= BLOB_CHECKS_AT_ONCE and threads.runs <= PIECES


async def test_what_was_put_is_not_lost_with_its_reader() -> None:
    disk = Disk()
    heard: list[int] = []
    whole = trio.Event()

    def checked(pieces: Sequence[Checked]) -> None:
        heard.extend(each.piece for each in pieces)
        if len(heard) == 2 * BLOB_CHECKS_MAX:
            whole.set()

    checks = PieceChecks(DiskThreads(real=True), disk.keep, checked)

    async def read(number: int) -> None:
        checks.put(CheckPiece(PEER, number, b"x"))
        await checks.room()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(checks.run)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as readers:
            for number in range(2 * BLOB_CHECKS_MAX):
                readers.start_soon(read, number)
            await trio.testing.wait_all_tasks_blocked()
            readers.cancel_scope.cancel()
        disk.is_open.set()
        with trio.fail_after(20):
            await whole.wait()
        nursery.cancel_scope.cancel()
    assert sorted(heard) == list(range(2 * BLOB_CHECKS_MAX))


async def test_a_thread_takes_what_waits_without_being_handed_each() -> None:
    disk, threads = Disk(), Threads(real=True)
    heard: list[Checked] = []
    whole = trio.Event()

    def checked(pieces: Sequence[Checked]) -> None:
        heard.extend(pieces)
        if len(heard) == BLOB_CHECKS_MAX:
            whole.set()

    checks = PieceChecks(threads, disk.keep, checked)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checks.run)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(BLOB_CHECKS_MAX):
            checks.put(CheckPiece(PEER, number, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        disk.is_open.set()
        with trio.fail_after(20):
            await whole.wait()
        nursery.cancel_scope.cancel()
    assert threads.runs < BLOB_CHECKS_MAX


async def test_what_comes_while_the_only_thread_ends_is_checked() -> None:
    disk = Disk()
    disk.is_open.set()
    whole = trio.Event()

    class Ending(Threads):
        async def run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
            result = await super().run(work, *given, **named)
            if self.runs == 1:
                checks.put(CheckPiece(PEER, 1, b"x"))
            return result

    def checked(pieces: Sequence[Checked]) -> None:
        if any(each.piece == 1 for each in pieces):
            whole.set()

    checks = PieceChecks(Ending(real=True), disk.keep, checked)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checks.run)
        await trio.testing.wait_all_tasks_blocked()
        checks.put(CheckPiece(PEER, 0, b"x"))
        with trio.fail_after(20):
            await whole.wait()
        nursery.cancel_scope.cancel()
