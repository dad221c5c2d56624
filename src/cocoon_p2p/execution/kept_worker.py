"""The life of one worker process of a model: started, loaded, watched, ended for sure, and started again when it dies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.endings import copy_of, unloaded
from cocoon_p2p.execution.memory import private_bytes
from cocoon_p2p.execution.worker_link import Ending, ModelSettings, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcess, WorkerProcesses
from cocoon_p2p.limits import (
    WORKER_RESTART_DELAY_MAX_S,
    WORKER_RESTART_DELAY_S,
    WORKER_START_BYTES_S,
    WORKER_START_TIMEOUT_S,
    WORKER_TERMINATE_TIMEOUT_S,
    WORKER_WATCH_S,
)
from cocoon_p2p.models.manifest import Manifest


class Told(Protocol):
    """Whom a worker works for: the model's queue (execution/model_queue.py)."""

    def at_rest(self) -> None:
        """A worker has become idle, or is gone."""

    def could_not_return(self, error: ExecutionError) -> None:
        """A worker that died could not be started again; that is tried later."""


class Handed(Ending, Protocol):
    """A job, or an answer under way, that a worker has."""

    @property
    def abandoned(self) -> bool:
        """Nobody waits for it any more."""

    @property
    def ended(self) -> trio.Event: ...

    def fail(self, error: ExecutionError) -> None: ...


Work = TypeVar("Work", bound=Handed)


class KeptWorker(ABC, Generic[Work]):
    """`run` is its task; what it works on now stands in `handed`. What its kind of worker says, and is told, is its subclass's."""

    def __init__(
        self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings, told: Told
    ) -> None:
        self.device = device
        self.handed: dict[int, Work] = {}
        self.first_load = trio.Event()
        self.load_error: ExecutionError | None = None
        self._folder = folder
        self._manifest = manifest
        self._settings = settings
        self._told = told
        self._link: WorkerLink | None = None
        self._nursery: trio.Nursery | None = None
        self._deaths = 0
        """Since it last did what it was given."""
        self._work_came = trio.Event()
        self._progress_at = 0.0
        """When it was last given something to do, or last came on with it."""

    @property
    def pid(self) -> int | None:
        """None while it has no model."""
        return self._link.process.pid if self._link is not None else None

    @property
    def busy(self) -> bool:
        return bool(self.handed)

    async def run(self, processes: WorkerProcesses) -> None:
        """Keeps a worker alive until cancelled, or until the first load fails (then `load_error` is set). A first load that went
        down with the fork server is tried once more, and not for ever: it might be what brings it down."""
        try:
            again = True
            while True:
                orphaned = await self._live_once(processes)
                if not self.first_load.is_set():
                    if not (orphaned and again):
                        return
                    again = False
                    continue
                delay = WORKER_RESTART_DELAY_S * 2 ** min(self._deaths, 20)
                self._deaths += 1
                await trio.sleep(min(delay, WORKER_RESTART_DELAY_MAX_S))
        finally:
            self._fail_handed(unloaded())
            self.first_load.set()
            self._told.at_rest()

    # --- what a kind of worker decides --------------------------------------------------------------------------------

    @abstractmethod
    def _loaded(self, *, batches: bool) -> None:
        """A process has the model; `batches` as `WorkerLink.load` says."""

    @abstractmethod
    async def _work(self, link: WorkerLink) -> None:
        """Give it work and take what it says, until it has ended."""

    @abstractmethod
    def _judge(self, link: WorkerLink, grown: int) -> None:
        """See to it that it makes its steps, and has not `grown` by too many bytes."""

    def _is_unwanted(self, work: Work) -> bool:
        return work.abandoned

    def _fail_handed(self, error: ExecutionError) -> None:
        for work in self.handed.values():
            work.fail(copy_of(error))
        self.handed.clear()

    # --- one process --------------------------------------------------------------------------------------------------

    async def _live_once(self, processes: WorkerProcesses) -> bool:
        """One worker process, from its start to its end. Whether it ended with the one that it was forked from."""
        process = None
        try:
            async with processes.worker() as process:
                await self._serve(await self._load(process), processes)
        except ExecutionError as error:
            self.load_error = error
            if self.first_load.is_set():
                self._told.could_not_return(error)
        return process is not None and process.orphaned

    async def _load(self, process: WorkerProcess) -> WorkerLink:
        """Raises ExecutionError."""
        link = WorkerLink(process)
        patience_s = WORKER_START_TIMEOUT_S + self._manifest.size / WORKER_START_BYTES_S
        with trio.move_on_after(patience_s) as scope:
            batches = await link.load(self._folder, self._manifest, self.device, self._settings)
        if scope.cancelled_caught:
            raise ExecutionError(f"the model did not load within {patience_s:.0f} s", code="MODEL")
        self._loaded(batches=batches)
        self._link = link
        self.load_error = None
        self.first_load.set()
        return link

    async def _serve(self, link: WorkerLink, processes: WorkerProcesses) -> None:
        """Until the process has ended; what it still had in hand stays there."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(link.read_control, self.handed)
                nursery.start_soon(self._kill_when_asked, processes, link)
                nursery.start_soon(self._watch, link)
                await self._work(link)
                nursery.cancel_scope.cancel()
        finally:
            self._link = self._nursery = None
            link.close()

    def _touch(self) -> None:
        """It was given something to do, or has said something."""
        self._progress_at = trio.current_time()
        self._work_came.set()

    async def _watch(self, link: WorkerLink) -> None:
        at_rest = private_bytes(link.process.pid)
        while True:
            await self._work_came.wait()
            self._work_came = trio.Event()
            while self.handed:
                await trio.sleep(WORKER_WATCH_S)
                now = private_bytes(link.process.pid)
                self._judge(link, 0 if now is None or at_rest is None else now - at_rest)

    async def _end_for_sure(self, work: Work, link: WorkerLink) -> None:
        """A run that does not heed being told to end is ended with its process, if it is for nobody else."""
        with trio.move_on_after(WORKER_TERMINATE_TIMEOUT_S):
            await work.ended.wait()
            return
        if work.ending or all(self._is_unwanted(other) for other in self.handed.values()):
            link.kill_asked.set()

    async def _kill_when_asked(self, processes: WorkerProcesses, link: WorkerLink) -> None:
        await link.kill_asked.wait()
        processes.kill(link.process)
        link.process.control.close()  # ends it too, were the fork server gone; what it answered before is still read
