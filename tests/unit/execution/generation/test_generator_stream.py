"""The node's side of an answer: what it lets a worker do, what it believes of what a worker says, how a reader gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.device import CPU, ChosenDevice
from cocoon_p2p.execution.generator_stream import ENCODED_BYTES_MAX, GeneratorStream
from cocoon_p2p.execution.generator_worker import GeneratorWorker
from cocoon_p2p.execution.pipe import Tag
from cocoon_p2p.execution.port import Device
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.generation import Piece, Token, parse_piece
from cocoon_p2p.limits import GENERATION_AHEAD_ITEMS

ONE = Piece((Token(5),), "x")


class Told:
    """A maker, and all other listeners, that note what they are told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.told.append((name, *arguments[1:]))


def stream_of(told: Told, *, prompt: int = 5, items_max: int = 10**6, allowed: int = 10**6) -> GeneratorStream:
    stream = GeneratorStream(1, "{}", client=b"", items_max=items_max, items_allowed=allowed, maker=told)
    stream.hand_to(told)
    stream.begin(prompt)
    return stream


def put(stream: GeneratorStream, piece: Piece, items: int) -> None:
    stream.put(piece, piece.encode(), items, 0.5, 0.25)


async def test_a_worker_waits_for_a_prompt_to_be_paid_and_is_not_blamed() -> None:
    """Else a client that does not pay would have it ended as one that hangs, with the answers of all others."""
    told = Told()
    stream = stream_of(told, prompt=100, allowed=64)
    assert not stream.awaits_work
    stream.allow(100)
    assert not stream.awaits_work, "the next token is to be paid, too"
    stream.allow(101)
    assert stream.awaits_work


async def test_a_worker_stays_a_window_ahead_of_the_reader() -> None:
    told = Told()
    stream = stream_of(told)
    for items in range(6, 6 + GENERATION_AHEAD_ITEMS):
        put(stream, ONE, items)
    with pytest.raises(ValueError, match="more than were allowed"):
        put(stream, ONE, 6 + GENERATION_AHEAD_ITEMS)
    assert not stream.awaits_work
    assert told.told == []
    produced = await stream.receive()
    assert produced.items > 5
    assert told.told == [("allow", produced.items + GENERATION_AHEAD_ITEMS)]
    assert stream.awaits_work


async def test_allowances_are_told_and_never_sink() -> None:
    told = Told()
    stream = stream_of(told, allowed=10, items_max=50)
    for items in (20, 7, 20, 30, 500):
        stream.allow(items)
    assert told.told == [("allow", 20), ("allow", 30), ("allow", 50)]


async def test_what_waited_comes_together_as_far_as_a_frame_takes_it() -> None:
    stream = stream_of(Told())
    size = ENCODED_BYTES_MAX // 3 - 50
    large = Piece((Token(5),), "x" * size)
    for items in range(6, 13):
        put(stream, large, items)
    put(stream, Piece((Token(6),), "", "stop"), 13)
    found = []
    while not found or not found[-1].final:
        found.append(await stream.receive())
    assert [each.items for each in found] == [8, 11, 13]
    pieces = [parse_piece(each.data) for each in found]
    assert all(len(each.data) <= ENCODED_BYTES_MAX for each in found)
    assert [len(piece.tokens) for piece in pieces] == [3, 3, 2]
    assert "".join(piece.text for piece in pieces) == "x" * size * 7
    assert pieces[-1].finish == "stop"
    assert stream.ended.is_set()
    assert stream.queue_s == 0.25


async def test_what_was_made_before_an_error_can_be_read() -> None:
    stream = stream_of(Told())
    put(stream, ONE, 6)
    stream.fail(ExecutionError("gone", code="WORKER"))
    assert (await stream.receive()).items == 6
    with pytest.raises(ExecutionError, match="gone"):
        await stream.receive()


async def test_a_stop_that_came_as_a_cancel_is_a_stop() -> None:
    told = Told()
    stream = stream_of(told)
    stream.stop()
    stream.stop()
    stream.fail(ExecutionError("the job was cancelled", code="CANCELLED"))
    last = await stream.receive()
    assert (last.final, last.items, parse_piece(last.data).finish) == (True, 0, "caller")
    assert told.told == [("stop",)]


async def test_who_waits_for_the_beginning_and_gives_up_is_no_burden() -> None:
    told = Told()
    stream = GeneratorStream(1, "{}", client=b"", items_max=9, items_allowed=9, maker=told)
    with trio.move_on_after(1) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.begun)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert stream.abandoned
    assert told.told == [("abandon",)]


@pytest.mark.parametrize(
    "lie",
    [
        [Tag.PRODUCED, [[1, ONE.encode(), 9, 0, 0]]],
        [Tag.PRODUCED, [[1, Piece((Token(5),) * 99, "x").encode(), 104, 0, 0]]],
        [Tag.PRODUCED, [[1, Piece((), "x").encode(), 5, 0, 0]]],
        [Tag.PRODUCED, [[1, Piece((), "", "stop").encode(), 6, 0, 0]]],
        [Tag.PRODUCED, [[1, b"{}", 6, 0, 0]]],
        [Tag.PRODUCED, [[1, Piece((Token(5),), "x" * ENCODED_BYTES_MAX).encode(), 6, 0, 0]]],
        [Tag.PRODUCED, [[1, ONE.encode(), 6, -1, 0]]],
        [Tag.PRODUCED, [[999, ONE.encode(), 6, 0, 0]]],
        [Tag.PRODUCED, [[2, ONE.encode(), 6, 0, 0]]],
        [Tag.PRODUCED, 5],
        [Tag.PRODUCED, [5]],
        [Tag.BEGUN, 1, 5],
        [Tag.BEGUN, 2, 100],
        [Tag.BEGUN, 2, 0],
        [Tag.FAILED, 1, "NONSENSE", "x"],
        [Tag.DONE, 1],
    ],
)
async def test_a_worker_is_not_believed(lie: list[Any]) -> None:
    told = Told()
    device = ChosenDevice(Device("cpu", ""), CPU)
    worker = GeneratorWorker(Path(), None, device, ModelSettings(1, 1, 1, 1), told)  # type: ignore[arg-type]
    worker.handed[1] = stream_of(told, allowed=20)
    worker.handed[2] = GeneratorStream(2, "{}", client=b"", items_max=20, items_allowed=20, maker=told)
    with pytest.raises((ValueError, TypeError, LookupError, ExecutionError)):
        worker._take(lie)
    worker._take([Tag.PRODUCED, [[1, ONE.encode(), 6, 10, 10]]])
    worker._take([Tag.PRODUCED, [[1, Piece((Token(7),), "", "stop").encode(), 7, 20, 10]]])
    assert list(worker.handed) == [2]


@pytest.mark.parametrize(("grown", "silent_s", "code"), [(0, 5, ""), (200, 5, "LIMITS"), (0, 15, "WORKER")])
async def test_a_worker_that_hangs_or_grows_is_ended(
    grown: int, silent_s: float, code: str, autojump_clock: trio.testing.MockClock
) -> None:
    told = Told()
    device = ChosenDevice(Device("cpu", ""), CPU)
    settings = ModelSettings(1, 1, 1, 1, job_seconds=10.0, job_memory_bytes=100)
    worker = GeneratorWorker(Path(), None, device, settings, told)  # type: ignore[arg-type]
    worker.handed[1] = stream_of(told, allowed=20)
    worker._touch()
    await trio.sleep(silent_s)
    link = SimpleNamespace(kill_asked=trio.Event())
    worker._judge(link, grown)  # type: ignore[arg-type]
    assert link.kill_asked.is_set() == bool(code)
    assert (worker._verdict.code if worker._verdict is not None else "") == code


async def test_a_worker_whose_answers_all_wait_may_be_silent(autojump_clock: trio.testing.MockClock) -> None:
    told = Told()
    device = ChosenDevice(Device("cpu", ""), CPU)
    worker = GeneratorWorker(Path(), None, device, ModelSettings(1, 1, 1, 1, job_seconds=10.0), told)  # type: ignore[arg-type]
    worker.handed[1] = stream_of(told, allowed=6)
    put(worker.handed[1], ONE, 6)
    await trio.sleep(1000)
    worker._judge(SimpleNamespace(kill_asked=trio.Event()), 0)  # type: ignore[arg-type]
    assert worker._verdict is None
