"""The node's side of a worker that lies: nothing it sends does more than end it."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
import trio
import trio.testing

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.engine_jobs import EngineJob, EngineResult
from cocoon_p2p.execution.input_buffers import InputBuffers
from cocoon_p2p.execution.pipe import BlockingPipe, Pipe, Tag
from cocoon_p2p.execution.worker_link import WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcess


class Worker:
    """The worker's end, played by the test."""

    def __init__(self) -> None:
        jobs, self.jobs = socket.socketpair()
        control, self.control = socket.socketpair()
        self.link = WorkerLink(WorkerProcess(1, Pipe(jobs), Pipe(control)))
        buffers = InputBuffers(1 << 20, lambda _: None)
        self.job = EngineJob(5, buffers.take(64), 1, False, ("y",), None, 0.0)

    async def outcome_of(self, message: Any, descriptors: Sequence[int] = ()) -> list[Any]:
        BlockingPipe(self.jobs).send(message, descriptors)
        with trio.fail_after(5):
            return list(await self.link.receive({5: self.job}))

    def close(self) -> None:
        self.link.close()
        self.link.process.jobs.close()
        self.link.process.control.close()
        self.jobs.close()
        self.control.close()


async def test_an_honest_answer() -> None:
    worker = Worker()
    ((job, (result, work_s)),) = await worker.outcome_of([Tag.DONE, 5, 1000, 2000, 3000, b"out", 0])
    assert (job, bytes(result.payload), work_s) == (worker.job, b"out", 0.003)
    view = result.payload
    result.release()
    assert bytes(view) == b"\0\0\0"
    worker.close()


@pytest.mark.parametrize("how", ["one message without end", "descriptors without end"])
async def test_a_worker_that_sends_without_end_takes_no_memory_of_the_node(how: str) -> None:
    """The worker's own memory is bounded; the node's must not do instead."""
    node, worker = socket.socketpair()
    worker.setblocking(False)
    pipe = Pipe(node)
    part = bytes(64 * 1024)
    endless = b"\xdd\x00\x50\x00\x00" if how == "one message without end" else b""  # an array of five million
    sent = 0

    async def send() -> None:
        nonlocal sent, endless
        with trio.CancelScope() as scope:
            while sent < 64 << 20:
                await trio.lowlevel.wait_writable(worker)
                try:
                    if how == "one message without end":
                        endless = endless or b"\xc6" + len(part).to_bytes(4, "big") + part
                        size = worker.send(endless)
                        endless = endless[size:]
                        sent += size
                    else:
                        socket.send_fds(worker, [msgpack.packb([Tag.PRODUCED, []])], [worker.fileno()] * 100)
                        sent += 1 << 20
                except BlockingIOError:
                    continue
                except OSError:
                    scope.cancel()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with pytest.raises(ValueError, match="more than any message has"):
                while await pipe.receive():
                    pass
            nursery.cancel_scope.cancel()
    assert sent < 16 << 20
    pipe.close()
    worker.close()


async def test_an_answer_in_shared_memory_is_given_back() -> None:
    worker = Worker()
    block = Block.create(7, 4096)
    block.view(3)[:] = b"out"
    ((_, (result, _)),) = await worker.outcome_of([Tag.DONE, 5, 0, 0, 0, [7, 3], 4096], [block.descriptor])
    assert isinstance(result, EngineResult)
    assert bytes(result.payload) == b"out"
    result.release()
    result.release()
    assert BlockingPipe(worker.jobs).receive() == [Tag.RELEASE, 7, 3, True]
    block.close()
    worker.close()


@pytest.mark.parametrize(
    "message",
    [
        [Tag.DONE, 6, 0, 0, 0, b"", 0],
        [Tag.DONE, 5, 0, 0, 0, [7, 3], 0],
        [Tag.DONE, 5, 0, 0, 0, [7, 3], 4096],
        [Tag.DONE, 5, 0, 0, 0, [7, -1], 0],
        [Tag.DONE, 5, 0, 0, 0, "text", 0],
        [Tag.DONE, 5, "soon", 0, 0, b"", 0],
        [Tag.DONE],
        [Tag.FAILED, 5, "PAYMENT", "give me money"],
        [Tag.FAILED, 5, "MODEL", 7],
        [Tag.FAILED, {}, "MODEL", ""],
        [Tag.KILL, 1],
        ["text"],
        [],
        7,
        {"a": 1},
    ],
)
async def test_nonsense(message: Any) -> None:
    worker = Worker()
    assert await worker.outcome_of(message) == []
    assert worker.link.fault
    assert not worker.job.ended.is_set()
    worker.close()


async def test_a_block_that_could_be_cut_off() -> None:
    worker = Worker()
    unsealed = os.memfd_create("x")
    os.ftruncate(unsealed, 4096)
    assert await worker.outcome_of([Tag.DONE, 5, 0, 0, 0, [7, 3], 4096], [unsealed]) == []
    assert worker.link.fault
    os.close(unsealed)
    worker.close()


async def test_bytes_that_are_no_messages() -> None:
    worker = Worker()
    worker.jobs.sendall(b"\xc1" * 100)
    assert await worker.link.receive({}) == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(worker.link.read_control, {5: worker.job})
        worker.control.sendall(msgpack.packb([Tag.ENDING, [5, 6, "x"]]) + msgpack.packb([Tag.DYING, "words"]))
        await trio.testing.wait_all_tasks_blocked()
        worker.control.sendall(b"\xc1")
    assert worker.job.ending
    assert worker.link.process.last_words == "words"
    assert worker.link.fault
    worker.close()


async def test_a_long_failure_is_cut() -> None:
    worker = Worker()
    ((_, error),) = await worker.outcome_of([Tag.FAILED, 5, "MODEL", "x" * 10_000])
    assert isinstance(error, ExecutionError)
    assert len(error.message) == 512
    worker.close()


async def test_what_the_kernel_does_not_take_at_once_goes_later() -> None:
    ours, theirs = socket.socketpair()
    pipe, reader = Pipe(ours), BlockingPipe(theirs)
    block = Block.create(1, 4096)
    sent = [[Tag.RUN, number, bytes([number]) * 300_000] for number in range(10)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.write_rest)
        for message in sent:
            pipe.send(message, [block.descriptor])
        received = await trio.to_thread.run_sync(lambda: [reader.receive() for _ in sent])
        pipe.close()
    assert received == sent
    assert len(reader.descriptors) == 10
    reader.close()
    block.close()
