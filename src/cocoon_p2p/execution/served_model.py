"""One loaded model: its queue, and the life of its worker process, which is started again when it dies."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.batching import take_batch
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.port import ModelStatus
from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.execution.worker_link import ModelSettings, Outcome, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcess, WorkerProcesses
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import (
    ENGINE_SET_JOBS_MAX,
    WORKER_RESTART_DELAY_MAX_S,
    WORKER_RESTART_DELAY_S,
    WORKER_START_TIMEOUT_S,
    WORKER_TERMINATE_TIMEOUT_S,
)
from cocoon_p2p.models.manifest import Manifest

_TEXT_SETS = 4
"""Batches' worth of text jobs handed over at once, so that the worker finds texts of like length among them."""
_AVERAGE_WEIGHT = 0.2
"""Of the newest job in the moving average of an item's time."""


class ServedModel:
    """`run` is its task. Jobs come by `submit`; they end by `EngineJob.finish` or `fail`, each exactly once."""

    def __init__(
        self, model_id: ModelId, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings
    ) -> None:
        self.model_id = model_id
        self.manifest = manifest
        self.device = device
        self._folder = folder
        self._settings = settings
        self._queue: deque[EngineJob] = deque()
        self._handed: dict[int, EngineJob] = {}
        self._link: WorkerLink | None = None
        self._batches = False
        self._jobs_done = 0
        self._items_done = 0
        self._rate = RateMeter()
        self._item_s: float | None = None
        self._deaths = 0
        self._nursery: trio.Nursery | None = None
        self._closed = False
        self.first_load = trio.Event()
        self.load_error: ExecutionError | None = None

    def status(self) -> ModelStatus:
        return ModelStatus(
            model_id=self.model_id,
            device=self.device.device,
            loaded=self._link is not None,
            queued=len(self._queue),
            running=len(self._handed),
            jobs_done=self._jobs_done,
            item_s=self._item_s,
            pid=self._link.process.pid if self._link is not None else None,
            items_done=self._items_done,
            best_items_s=self._rate.best_items_s(trio.current_time()),
        )

    def submit(self, job: EngineJob) -> None:
        """Raises ExecutionError(code="BUSY" or "SHUTTING_DOWN")."""
        if self._closed:
            raise ExecutionError("the model was unloaded", code="SHUTTING_DOWN", retryable=True)
        if len(self._queue) >= self._settings.queue_max:
            raise ExecutionError(f"{len(self._queue)} jobs wait for this model already", code="BUSY", retryable=True)
        self._queue.append(job)
        self._hand_over()

    def abandon(self, job: EngineJob) -> None:
        """Nobody waits for the job any more: take it from the queue, or end its run."""
        job.abandoned = True
        if job.number not in self._handed:
            if job in self._queue:
                self._queue.remove(job)
                job.fail(_cancelled())
            return
        if self._link is not None and self._nursery is not None:  # else the worker has just died
            self._link.cancel(job)
            self._nursery.start_soon(self._end_for_sure, job, self._link)

    def forget_block(self, block: Block) -> None:
        if self._link is not None:
            self._link.forget(block)

    async def run(self, processes: WorkerProcesses) -> None:
        """Keeps a worker alive until cancelled, or until the first load fails (then `load_error` is set)."""
        try:
            while True:
                await self._live_once(processes)
                if self.load_error is not None and not self.first_load.is_set():
                    return
                delay = WORKER_RESTART_DELAY_S * 2 ** min(self._deaths, 20)
                self._deaths += 1
                await trio.sleep(min(delay, WORKER_RESTART_DELAY_MAX_S))
        finally:
            self._closed = True
            self._fail_all(ExecutionError("the model was unloaded", code="SHUTTING_DOWN", retryable=True))
            self.first_load.set()

    async def _live_once(self, processes: WorkerProcesses) -> None:
        """One worker process, from its start to its end."""
        try:
            async with processes.worker() as process:
                await self._load(process)
                await self._serve(processes)
        except ExecutionError as error:
            self.load_error = error
            if self.first_load.is_set():
                self._fail_all(error)

    async def _load(self, process: WorkerProcess) -> None:
        """Raises ExecutionError."""
        link = WorkerLink(process)
        with trio.move_on_after(WORKER_START_TIMEOUT_S) as scope:
            self._batches = await link.load(self._folder, self.manifest, self.device.provider, self._settings)
        if scope.cancelled_caught:
            raise ExecutionError(f"the model did not load within {WORKER_START_TIMEOUT_S:.0f} s", code="MODEL")
        self._link = link
        self.load_error = None
        self.first_load.set()

    async def _serve(self, processes: WorkerProcesses) -> None:
        link = self._link
        assert link is not None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(link.read_control, self._handed)
                nursery.start_soon(self._kill_when_asked, processes, link)
                self._hand_over()
                while outcomes := await link.receive(self._handed):
                    for job, outcome in outcomes:
                        self._settle(job, outcome)
                    if not self._handed:
                        self._hand_over()
                nursery.cancel_scope.cancel()
        finally:
            self._link = self._nursery = None
            link.close()
            if link.kill_asked.is_set():
                self._take_back(suspect=False)
        if not link.kill_asked.is_set():
            self._died(await link.why_ended())

    def _settle(self, job: EngineJob, outcome: Outcome) -> None:
        del self._handed[job.number]
        if isinstance(outcome, ExecutionError):
            job.fail(outcome)
            return
        result, work_s = outcome
        self._deaths = 0
        self._jobs_done += 1
        self._items_done += job.items
        self._rate.add(job.items, trio.current_time())
        if job.items > 0:
            item_s = work_s / job.items
            old = self._item_s
            self._item_s = item_s if old is None else old + _AVERAGE_WEIGHT * (item_s - old)
        job.finish(result)

    def _hand_over(self) -> None:
        """Give the worker what is queued, if it has nothing to do. Never waits for more to come."""
        if self._link is None or self._handed or not self._queue:
            return
        if self._queue[0].suspect:
            jobs = self._take([0])
        elif self._queue[0].as_text:
            jobs = self._take_texts()
        elif self._batches:
            keys = ((None if job.suspect else job.key, job.items) for job in self._queue)
            chosen = take_batch(keys, self._settings.batch_items_max)
            jobs = self._take(chosen[:ENGINE_SET_JOBS_MAX])
        else:
            jobs = self._take([0])
        now = trio.current_time()
        for job in jobs:
            job.handed_at = now
            self._handed[job.number] = job
        self._link.run(jobs)

    def _take_texts(self) -> list[EngineJob]:
        chosen, items = [], 0
        for position, job in enumerate(self._queue):
            if not job.as_text or job.suspect:
                continue
            chosen.append(position)
            items += job.items
            if len(chosen) == ENGINE_SET_JOBS_MAX or items >= _TEXT_SETS * self._settings.batch_items_max:
                break
        return self._take(chosen)

    def _take(self, positions: list[int]) -> list[EngineJob]:
        jobs = [self._queue[position] for position in positions]
        for position in reversed(positions):
            del self._queue[position]
        return jobs

    async def _end_for_sure(self, job: EngineJob, link: WorkerLink) -> None:
        """A run that does not heed being told to end is ended with its process."""
        with trio.move_on_after(WORKER_TERMINATE_TIMEOUT_S):
            await job.ended.wait()
            return
        if job.ending or all(other.abandoned for other in self._handed.values()):
            link.kill_asked.set()

    async def _kill_when_asked(self, processes: WorkerProcesses, link: WorkerLink) -> None:
        await link.kill_asked.wait()
        processes.kill(link.process)
        link.process.control.close()  # ends it too, were the fork server gone; what it answered before is still read

    def _take_back(self, *, suspect: bool) -> None:
        """What the worker had goes first when it is back, but for cancelled jobs."""
        for job in reversed(list(self._handed.values())):
            if job.abandoned:
                job.fail(_cancelled())
            else:
                job.ending = False
                job.suspect = suspect
                self._queue.appendleft(job)
        self._handed.clear()

    def _died(self, reason: str) -> None:
        if len(self._handed) > 1:
            self._take_back(suspect=True)
        for job in self._handed.values():
            job.fail(
                ExecutionError(
                    f"the process that ran the job {reason}",
                    code="WORKER",
                    retryable=True,
                    hint="the model is loaded again; a job that ends its worker each time is too large or broken",
                )
            )
        self._handed.clear()

    def _fail_all(self, error: ExecutionError) -> None:
        for job in [*self._handed.values(), *self._queue]:
            job.fail(ExecutionError(error.message, code=error.code, retryable=error.retryable, hint=error.hint))
        self._handed.clear()
        self._queue.clear()


def _cancelled() -> ExecutionError:
    return ExecutionError("the job was cancelled", code="CANCELLED")
