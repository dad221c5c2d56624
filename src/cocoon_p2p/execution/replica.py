"""One worker process of a model and its life: loaded, given jobs, watched, and started again when it dies."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.memory import private_bytes
from cocoon_p2p.execution.worker_link import ModelSettings, Outcome, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcess, WorkerProcesses
from cocoon_p2p.limits import (
    MIB,
    WORKER_RESTART_DELAY_MAX_S,
    WORKER_RESTART_DELAY_S,
    WORKER_START_BYTES_S,
    WORKER_START_TIMEOUT_S,
    WORKER_TERMINATE_TIMEOUT_S,
    WORKER_WATCH_S,
)
from cocoon_p2p.models.manifest import Manifest


class Jobs(Protocol):
    """Where a replica has its jobs from: the model's queue (execution/served_model.py)."""

    def next_jobs(self, *, batches: bool) -> list[EngineJob]:
        """What a worker that has nothing to do is to do now."""

    def put_back(self, jobs: list[EngineJob]) -> None:
        """They go first when a worker is free."""

    def settled(self, job: EngineJob, outcome: Outcome) -> None:
        """A worker has answered."""

    def at_rest(self) -> None:
        """A worker has become idle, or is gone."""

    def could_not_return(self, error: ExecutionError) -> None:
        """A worker that died could not be started again; that is tried later."""


class Replica:
    """`run` is its task. It has a set of jobs at a time, in `handed`."""

    def __init__(
        self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings, jobs: Jobs
    ) -> None:
        self.device = device
        self.handed: dict[int, EngineJob] = {}
        self.first_load = trio.Event()
        self.load_error: ExecutionError | None = None
        self._folder = folder
        self._manifest = manifest
        self._settings = settings
        self._jobs = jobs
        self._link: WorkerLink | None = None
        self.batches = False
        """Whether jobs may stand in one run."""
        self._deaths = 0
        self._nursery: trio.Nursery | None = None
        self._work_came = trio.Event()
        self._progress_at = 0.0
        """When it was given its jobs, or last answered one."""

    @property
    def pid(self) -> int | None:
        """None while it has no model."""
        return self._link.process.pid if self._link is not None else None

    @property
    def busy(self) -> bool:
        return bool(self.handed)

    async def run(self, processes: WorkerProcesses) -> None:
        """Keeps a worker alive until cancelled, or until the first load fails (then `load_error` is set)."""
        try:
            while True:
                await self._live_once(processes)
                if not self.first_load.is_set():
                    return
                delay = WORKER_RESTART_DELAY_S * 2 ** min(self._deaths, 20)
                self._deaths += 1
                await trio.sleep(min(delay, WORKER_RESTART_DELAY_MAX_S))
        finally:
            self._fail_handed(unloaded())
            self.first_load.set()
            self._jobs.at_rest()

    def hand_over(self) -> None:
        """Give the worker what is queued, if it has nothing to do. Never waits for more to come."""
        if self._link is None or self.handed:
            return
        jobs = self._jobs.next_jobs(batches=self.batches)
        if not jobs:
            return
        self._progress_at = trio.current_time()
        for job in jobs:
            job.handed_at = self._progress_at
            self.handed[job.number] = job
        self._link.run(jobs)
        self._work_came.set()

    def abandon(self, job: EngineJob) -> None:
        """End the run of a job that was handed over."""
        if self._link is not None and self._nursery is not None:  # else the worker has just died
            self._link.cancel(job)
            self._nursery.start_soon(self._end_for_sure, job, self._link)

    def forget_block(self, block: Block) -> None:
        if self._link is not None:
            self._link.forget(block)

    async def _live_once(self, processes: WorkerProcesses) -> None:
        """One worker process, from its start to its end."""
        try:
            async with processes.worker() as process:
                await self._load(process)
                await self._serve(processes)
        except ExecutionError as error:
            self.load_error = error
            if self.first_load.is_set():
                self._jobs.could_not_return(error)

    async def _load(self, process: WorkerProcess) -> None:
        """Raises ExecutionError."""
        link = WorkerLink(process)
        patience_s = WORKER_START_TIMEOUT_S + self._manifest.size / WORKER_START_BYTES_S
        with trio.move_on_after(patience_s) as scope:
            self.batches = await link.load(self._folder, self._manifest, self.device, self._settings)
        if scope.cancelled_caught:
            raise ExecutionError(f"the model did not load within {patience_s:.0f} s", code="MODEL")
        self._link = link
        self.load_error = None
        self.first_load.set()

    async def _serve(self, processes: WorkerProcesses) -> None:
        link = self._link
        assert link is not None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(link.read_control, self.handed)
                nursery.start_soon(self._kill_when_asked, processes, link)
                nursery.start_soon(self._watch, link)
                self.hand_over()
                while outcomes := await link.receive(self.handed):
                    self._settle(outcomes)
                nursery.cancel_scope.cancel()
        finally:
            self._link = self._nursery = None
            link.close()
            if link.kill_asked.is_set():
                self._put_back(suspect=False)
        if not link.kill_asked.is_set():
            self._died(await link.why_ended(), orphaned=link.process.orphaned)

    def _settle(self, outcomes: list[tuple[EngineJob, Outcome]]) -> None:
        self._progress_at = trio.current_time()
        for job, outcome in outcomes:
            del self.handed[job.number]
            failed = isinstance(outcome, ExecutionError)
            if not failed:
                self._deaths = 0
            self._jobs.settled(job, job.verdict if failed and job.verdict is not None else outcome)
        if not self.handed:
            self.hand_over()
            if not self.handed:
                self._jobs.at_rest()

    # --- jobs that have to end ---

    async def _watch(self, link: WorkerLink) -> None:
        """Sees to it that no job takes more than its share of memory and time."""
        at_rest = private_bytes(link.process.pid)
        while True:
            await self._work_came.wait()
            self._work_came = trio.Event()
            while self.handed:
                await trio.sleep(WORKER_WATCH_S)
                now = private_bytes(link.process.pid)
                self._judge_memory(link, 0 if now is None or at_rest is None else now - at_rest)
                self._judge_time(link)

    def _judge_memory(self, link: WorkerLink, grown: int) -> None:
        bound = self._settings.job_memory_bytes
        if bound is None or grown <= bound or not self.handed:
            return
        text = f"the job took {grown // MIB} MiB of memory; at most {bound // MIB} MiB are given to one"
        self._condemn(ExecutionError(text, code="LIMITS", retryable=True))
        link.kill_asked.set()  # it goes on growing while it is asked to end

    def _judge_time(self, link: WorkerLink) -> None:
        bound = self._settings.job_seconds
        if trio.current_time() - self._progress_at <= bound or not self.handed:
            return
        text = f"the job was not done within the {bound:g} s that are given to one"
        job = self._condemn(ExecutionError(text, code="DEADLINE", retryable=True))
        if job is None:
            link.kill_asked.set()
        else:
            self._progress_at = trio.current_time()
            self.abandon(job)

    def _condemn(self, verdict: ExecutionError) -> EngineJob | None:
        """The job that is guilty; None where there are several: each is to run again alone, which shows whose fault it was."""
        if len(self.handed) == 1:
            (job,) = self.handed.values()
            job.verdict = verdict
            return job
        for job in self.handed.values():
            job.suspect = True
        return None

    async def _end_for_sure(self, job: EngineJob, link: WorkerLink) -> None:
        """A run that does not heed being told to end is ended with its process."""
        with trio.move_on_after(WORKER_TERMINATE_TIMEOUT_S):
            await job.ended.wait()
            return
        unwanted = all(other.abandoned or other.verdict is not None for other in self.handed.values())
        if job.ending or unwanted:
            link.kill_asked.set()

    async def _kill_when_asked(self, processes: WorkerProcesses, link: WorkerLink) -> None:
        await link.kill_asked.wait()
        processes.kill(link.process)
        link.process.control.close()  # ends it too, were the fork server gone; what it answered before is still read

    def _put_back(self, *, suspect: bool) -> None:
        """What the worker had goes first when there is one again, but for jobs that were to end."""
        again = []
        for job in self.handed.values():
            if job.abandoned or job.verdict is not None:
                job.fail(job.verdict or cancelled())
            else:
                job.ending = False
                job.suspect = job.suspect or suspect
                again.append(job)
        self.handed.clear()
        self._jobs.put_back(again)

    def _died(self, reason: str, *, orphaned: bool) -> None:
        # Whoever goes down with the fork server is run once more, and not for ever: it might be what brings it down.
        again = orphaned and not any(job.suspect for job in self.handed.values())
        if len(self.handed) > 1 or again:
            self._put_back(suspect=True)
        self._fail_handed(
            ExecutionError(
                f"the process that ran the job {reason}",
                code="WORKER",
                retryable=True,
                hint="the model is loaded again; a job that ends its worker each time is too large or broken",
            )
        )

    def _fail_handed(self, error: ExecutionError) -> None:
        for job in self.handed.values():
            job.fail(job.verdict or copy_of(error))
        self.handed.clear()


def cancelled() -> ExecutionError:
    return ExecutionError("the job was cancelled", code="CANCELLED")


def unloaded() -> ExecutionError:
    return ExecutionError("the model was unloaded", code="SHUTTING_DOWN", retryable=True)


def copy_of(error: ExecutionError) -> ExecutionError:
    """Each job raises an error of its own: one that is raised twice collects both tracebacks."""
    return ExecutionError(error.message, code=error.code, retryable=error.retryable, hint=error.hint)
