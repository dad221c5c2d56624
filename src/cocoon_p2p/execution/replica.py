"""A worker process of a model whose jobs are tensors: it has a set of jobs at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.endings import cancelled, copy_of
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.kept_worker import KeptWorker, Told
from cocoon_p2p.execution.worker_link import ModelSettings, Outcome, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.limits import MIB
from cocoon_p2p.models.manifest import Manifest


class Jobs(Told, Protocol):
    """Where a replica has its jobs from: the model's queue (execution/served_model.py)."""

    def next_jobs(self, *, batches: bool) -> list[EngineJob]:
        """What a worker that has nothing to do is to do now."""

    def put_back(self, jobs: list[EngineJob]) -> None:
        """They go first when a worker is free."""

    def settled(self, job: EngineJob, outcome: Outcome) -> None:
        """A worker has answered."""


class Replica(KeptWorker[EngineJob]):
    """Implements `ModelWorker`."""

    def __init__(
        self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings, jobs: Jobs
    ) -> None:
        super().__init__(folder, manifest, device, settings, jobs)
        self.batches = False
        """Whether jobs may stand in one run."""
        self._jobs = jobs

    def hand_over(self) -> None:
        """Give the worker what is queued, if it has nothing to do. Never waits for more to come."""
        if self._link is None or self.handed:
            return
        jobs = self._jobs.next_jobs(batches=self.batches)
        if not jobs:
            return
        self._touch()
        for job in jobs:
            job.handed_at = self._progress_at
            self.handed[job.number] = job
        self._link.run(jobs)

    def abandon(self, job: EngineJob) -> None:
        """End the run of a job that was handed over."""
        if self._link is not None and self._nursery is not None:  # else the worker has just died
            self._link.cancel(job)
            self._nursery.start_soon(self._end_for_sure, job, self._link)

    def forget_block(self, block: Block) -> None:
        if self._link is not None:
            self._link.forget(block)

    def _loaded(self, *, batches: bool) -> None:
        self.batches = batches

    async def _serve(self, link: WorkerLink, processes: WorkerProcesses) -> None:
        try:
            await super()._serve(link, processes)
        finally:
            if link.kill_asked.is_set():
                self._put_back(suspect=False)
        if not link.kill_asked.is_set():
            self._died(await link.why_ended(), orphaned=link.process.orphaned)

    async def _work(self, link: WorkerLink) -> None:
        self.hand_over()
        while outcomes := await link.receive(self.handed):
            self._settle(outcomes)

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

    def _judge(self, link: WorkerLink, grown: int) -> None:
        self._judge_memory(link, grown)
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

    def _is_unwanted(self, work: EngineJob) -> bool:
        return work.abandoned or work.verdict is not None

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
