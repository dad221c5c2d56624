"""Worker processes as the node sees them: started by the fork server, each with two sockets, ended with certainty."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.environment import worker_environment
from cocoon_p2p.execution.memory import out_of_memory_kills
from cocoon_p2p.execution.pipe import Pipe, Tag
from cocoon_p2p.limits import WORKER_START_TIMEOUT_S

_EXIT_NEWS_TIMEOUT_S = 1.0
_START_ATTEMPTS = 2
_SERVER_END_TIMEOUT_S = 5.0


class WorkerProcess:
    """`jobs` and `control` are its sockets. When `jobs` has ended, `why_ended` says why."""

    def __init__(self, number: int, jobs: Pipe, control: Pipe) -> None:
        self.number = number
        """Of all workers of this engine; unlike the process id never used again."""
        self.jobs = jobs
        self.control = control
        self.pid = 0
        self.started = trio.Event()
        self.ended = trio.Event()
        self.exit_code: int | None = None
        self.last_words = ""
        self.server: Pipe | None = None
        """To the fork server that was asked for it."""
        self.orphaned = False
        """It went with the process that it was forked from, and no job of its own is to blame."""
        self._kills_before = out_of_memory_kills()

    async def why_ended(self) -> str:
        """ "was killed by signal 9 (SIGKILL)" …; the process has closed its socket."""
        with trio.move_on_after(_EXIT_NEWS_TIMEOUT_S):
            await self.ended.wait()
        if self.exit_code is None:
            return "ended with the one that starts such" if self.orphaned else "ended for an unknown reason"
        if self.ran_out_of_memory:
            return "ran out of memory" + (": the kernel ended it (SIGKILL)" if self.exit_code < 0 else "")
        if self.exit_code < 0:
            return f"was killed by signal {-self.exit_code} ({_signal_name(-self.exit_code)})"
        words = f": {self.last_words}" if self.last_words else ""
        return f"ended with exit code {self.exit_code}{words}"

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether that was why it ended: it said so itself, or the kernel ended it, and has ended processes for want of memory
        meanwhile."""
        if self.exit_code == -signal.SIGKILL:
            now = out_of_memory_kills()
            return now is not None and self._kills_before is not None and now > self._kills_before
        return self.last_words.startswith("MemoryError")


class WorkerProcesses:
    """Starts the fork server when the first worker is asked for, and again should it have died."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._workers: dict[int, WorkerProcess] = {}
        self._server: Pipe | None = None
        self._server_process: trio.Process | None = None
        self._starting = trio.Lock()
        self._next = 1

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[WorkerProcess]:
        """A process that awaits its first message. It is ended with the context. Raises ExecutionError(code="WORKER")."""
        worker, ends = self._new_worker()
        try:
            await self._fork(worker, ends)
            self._nursery.start_soon(worker.jobs.write_rest)
            self._nursery.start_soon(worker.control.write_rest)
            yield worker
        finally:
            self.kill(worker)
            worker.jobs.close()
            worker.control.close()
            for end in ends:
                end.close()
            with trio.CancelScope(shield=True), trio.move_on_after(_EXIT_NEWS_TIMEOUT_S):
                if worker.started.is_set():
                    await worker.ended.wait()
            self._workers.pop(worker.number, None)

    def kill(self, worker: WorkerProcess) -> None:
        """End it now. The fork server does it, which alone knows whether the process id is still this worker's."""
        if self._server is not None and worker.started.is_set() and not worker.ended.is_set():
            self._server.send([Tag.KILL, worker.pid])

    async def close(self) -> None:
        """End the fork server and every worker; returns when they are gone."""
        if self._server is not None:
            self._server.close()
        if self._server_process is not None:
            with trio.CancelScope(shield=True), trio.move_on_after(_SERVER_END_TIMEOUT_S):
                await self._server_process.wait()
            if self._server_process.returncode is None:
                self._server_process.kill()
                with trio.CancelScope(shield=True):
                    await self._server_process.wait()

    def _new_worker(self) -> tuple[WorkerProcess, list[socket.socket]]:
        jobs, jobs_end = socket.socketpair()
        control, control_end = socket.socketpair()
        worker = WorkerProcess(self._next, Pipe(jobs), Pipe(control))
        self._next += 1
        self._workers[worker.number] = worker
        return worker, [jobs_end, control_end]

    async def _fork(self, worker: WorkerProcess, ends: list[socket.socket]) -> None:
        with trio.move_on_after(WORKER_START_TIMEOUT_S):
            for _ in range(_START_ATTEMPTS):
                async with self._starting:
                    if self._server is None:
                        await self._start_server()
                assert self._server is not None
                worker.server = self._server
                self._server.send([Tag.FORK, worker.number], [end.fileno() for end in ends])
                await worker.started.wait()
                if worker.pid:
                    break
                # The server had died, and we had not noticed yet.
                worker.started, worker.ended, worker.orphaned = trio.Event(), trio.Event(), False
        if worker.pid == 0:
            raise ExecutionError("the process for workers could not be started", code="WORKER", retryable=True)
        for end in ends:
            end.close()  # only the worker is to hold it, so that its death ends our side

    async def _start_server(self) -> None:
        if not hasattr(os, "fork"):
            raise ConfigError(f"models cannot be run on {sys.platform} yet", hint="run the provider on Linux or macOS")
        ours, theirs = socket.socketpair()
        # -P: the working directory must not shadow modules. A session of its own: Ctrl-C in the terminal is for the node.
        command = [sys.executable, "-P", "-m", "cocoon_p2p.execution.fork_server", str(theirs.fileno())]
        with theirs:
            self._server_process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # libraries print there what they fail to load
                pass_fds=[theirs.fileno()],
                env=worker_environment(os.environ),
                start_new_session=True,
            )
        self._server = Pipe(ours)
        self._nursery.start_soon(self._read_server, self._server, self._server_process)
        self._nursery.start_soon(self._server.write_rest)

    async def _read_server(self, server: Pipe, process: trio.Process) -> None:
        while messages := await server.receive():
            for message in messages:
                if message[0] == Tag.FORKED and message[1] in self._workers:
                    worker = self._workers[message[1]]
                    worker.pid = message[2]
                    worker.started.set()
                elif message[0] == Tag.ENDED:
                    self._note_end(message[1], message[2])
        # The server is gone, and with it the workers that the jail holds (they asked the kernel for that); others go on. The next one
        # is forked from a new server.
        server.close()
        if self._server is server:
            self._server = None
        for worker in [
            each for each in self._workers.values() if each.server is server
        ]:  # others wait their turn at the next
            worker.orphaned = worker.orphaned or not worker.ended.is_set()
            worker.started.set()
            worker.ended.set()
        await process.wait()

    def _note_end(self, pid: int, exit_code: int) -> None:
        for worker in self._workers.values():
            if worker.pid == pid and not worker.ended.is_set():
                worker.exit_code = exit_code
                worker.ended.set()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
