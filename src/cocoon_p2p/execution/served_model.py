"""The jobs of one model whose jobs are tensors, whichever of its workers runs them."""

from __future__ import annotations

from pathlib import Path

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.batching import take_batch
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.endings import cancelled
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.model_queue import ModelQueue
from cocoon_p2p.execution.replica import Replica
from cocoon_p2p.execution.worker_link import Outcome
from cocoon_p2p.limits import ENGINE_SET_JOBS_MAX

_TEXT_SETS = 4
"""Batches' worth of text jobs handed over at once, so that the worker finds texts of like length among them."""


class ServedModel(ModelQueue[EngineJob, Replica]):
    """Implements `ModelJobs`. Jobs come by `submit`; they end by `EngineJob.finish` or `fail`, each exactly once."""

    @property
    def crowded(self) -> bool:
        if any(replica.batches for replica in self.workers):
            return sum(job.items for job in self._queue) > self._settings.batch_items_max
        return len(self._queue) > 1

    def submit(self, job: EngineJob) -> None:
        """Raises ExecutionError(code="BUSY" or "SHUTTING_DOWN")."""
        self._enqueue(job, self.queued, "jobs wait for this model")

    def abandon(self, job: EngineJob) -> None:
        """Nobody waits for the job any more: take it from the queue, or end its run."""
        job.abandoned = True
        for replica in self.workers:
            if job.number in replica.handed:
                replica.abandon(job)
                return
        if job in self._queue:
            self._queue.remove(job)
            job.fail(cancelled())

    def hand_over(self) -> None:
        """Give the workers what is queued."""
        for replica in self.workers:
            if not self._queue:
                return
            replica.hand_over()

    def add_worker(self, folder: Path, device: ChosenDevice) -> Replica:
        """One more, that is yet to run."""
        replica = Replica(folder, self.manifest, device, self._settings, self)
        self.workers.append(replica)
        return replica

    # --- what workers ask and tell: implements `replica.Jobs` ---

    def next_jobs(self, *, batches: bool) -> list[EngineJob]:
        if self.drains or not self._queue:
            return []
        if self._queue[0].suspect:
            return self._take([0])
        if self._queue[0].as_text:
            return self._take_texts()
        if not batches:
            return self._take([0])
        keys = ((None if job.suspect else job.key, job.items) for job in self._queue)
        chosen = take_batch(keys, self._settings.batch_items_max)
        return self._take(chosen[:ENGINE_SET_JOBS_MAX])

    def put_back(self, jobs: list[EngineJob]) -> None:
        self._queue.extendleft(reversed(jobs))

    def settled(self, job: EngineJob, outcome: Outcome) -> None:
        self.last_used = trio.current_time()
        if isinstance(outcome, ExecutionError):
            job.fail(outcome)
            return
        result, work_s = outcome
        self._note_done(job.items, work_s)
        job.finish(result)

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
