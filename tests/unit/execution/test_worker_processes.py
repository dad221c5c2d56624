"""Workers that are asked for while the fork server dies."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import trio
import trio.testing

from cocoon_p2p.execution.pipe import Pipe, Tag
from cocoon_p2p.execution.worker_processes import WorkerProcess, WorkerProcesses


async def test_a_worker_that_waits_its_turn_does_not_go_with_a_server_that_was_not_asked_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be forked a second time, and two processes read from one socket."""
    workers: list[WorkerProcess] = []
    end = trio.Event()
    forks: list[int] = []
    send = Pipe.send

    def noted(pipe: Pipe, message: Any, *more: Any, **named: Any) -> None:
        if message[0] == Tag.FORK:
            forks.append(message[1])
        send(pipe, message, *more, **named)

    monkeypatch.setattr(Pipe, "send", noted)

    async def one_more(processes: WorkerProcesses, answered: trio.Event) -> None:
        async with processes.worker() as worker:
            worker.jobs.send([Tag.PROVIDERS])
            assert await worker.jobs.receive()
            workers.append(worker)
            answered.set()
            await end.wait()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            processes = WorkerProcesses(nursery)
            first, second = trio.Event(), trio.Event()
            nursery.start_soon(one_more, processes, first)
            await first.wait()
            assert processes._server_process is not None
            async with processes._starting:
                nursery.start_soon(one_more, processes, second)
                await trio.testing.wait_all_tasks_blocked()
                os.kill(processes._server_process.pid, signal.SIGKILL)
                await workers[0].ended.wait()
            await second.wait()
            assert [worker.orphaned for worker in workers] == [True, False]
            assert forks == [worker.number for worker in workers], "each once"
            end.set()
            await processes.close()
            nursery.cancel_scope.cancel()
