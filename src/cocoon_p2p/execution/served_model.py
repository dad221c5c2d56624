"""The jobs of one model, whichever of its workers runs them: their queue, and what was seen of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from pathlib import Path

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.batching import take_batch
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.execution.replica import Replica, cancelled, copy_of, unloaded
from cocoon_p2p.execution.worker_link import ModelSettings, Outcome
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import ENGINE_SET_JOBS_MAX
from cocoon_p2p.models.manifest import Manifest

_TEXT_SETS = 4
"""Batches' worth of text jobs handed over at once, so that the worker finds texts of like length among them."""
_AVERAGE_WEIGHT = 0.2
"""Of the newest job in the moving average of an item's time."""


class ServedModel:
    """Implements `ModelJobs`. Jobs come by `submit`; they end by `EngineJob.finish` or `fail`, each exactly once. Workers come
    and go (execution/engine_pool.py): without one, jobs wait."""

    def __init__(self, model_id: ModelId, manifest: Manifest, settings: ModelSettings) -> None:
        self.model_id = model_id
        self.manifest = manifest
        self.replicas: list[Replica] = []
        self.drains = False
        """Another model needs the room: no worker gets any more jobs for now."""
        self.last_used: float | None = None
        self.jobs_done = 0
        self.items_done = 0
        self.item_s: float | None = None
        self.rested: Callable[[], None] = lambda: None
        """Called when a worker has become idle."""
        self._settings = settings
        self._queue: deque[EngineJob] = deque()
        self._rate = RateMeter()
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(len(replica.handed) for replica in self.replicas)

    @property
    def crowded(self) -> bool:
        if any(replica.batches for replica in self.replicas):
            return sum(job.items for job in self._queue) > self._settings.batch_items_max
        return len(self._queue) > 1

    @property
    def best_items_s(self) -> float:
        return self._rate.best_items_s(trio.current_time())

    def submit(self, job: EngineJob) -> None:
        """Raises ExecutionError(code="BUSY" or "SHUTTING_DOWN")."""
        if self._closed:
            raise unloaded()
        if len(self._queue) >= self._settings.queue_max:
            raise ExecutionError(f"{len(self._queue)} jobs wait for this model already", code="BUSY", retryable=True)
        self.last_used = trio.current_time()
        self._queue.append(job)
        self.hand_over()

    def abandon(self, job: EngineJob) -> None:
        """Nobody waits for the job any more: take it from the queue, or end its run."""
        job.abandoned = True
        for replica in self.replicas:
            if job.number in replica.handed:
                replica.abandon(job)
                return
        if job in self._queue:
            self._queue.remove(job)
            job.fail(cancelled())

    def hand_over(self) -> None:
        """Give the workers what is queued."""
        for replica in self.replicas:
            if not self._queue:
                return
            replica.hand_over()

    def add_worker(self, folder: Path, device: ChosenDevice) -> Replica:
        """One more, that is yet to run."""
        replica = Replica(folder, self.manifest, device, self._settings, self)
        self.replicas.append(replica)
        return replica

    def drop_worker(self, worker: object) -> None:
        self.replicas = [replica for replica in self.replicas if replica is not worker]

    def resume(self) -> None:
        self.hand_over()

    def fail_queued(self, error: ExecutionError) -> None:
        """No worker can be had for them."""
        while self._queue:
            self._queue.popleft().fail(copy_of(error))

    def close(self) -> None:
        """To be called when no worker is left."""
        self._closed = True
        self.fail_queued(unloaded())

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
        self.jobs_done += 1
        self.items_done += job.items
        self._rate.add(job.items, self.last_used)
        if job.items > 0:
            item_s = work_s / job.items
            old = self.item_s
            self.item_s = item_s if old is None else old + _AVERAGE_WEIGHT * (item_s - old)
        job.finish(result)

    def at_rest(self) -> None:
        self.rested()

    def could_not_return(self, error: ExecutionError) -> None:
        if not any(replica.pid is not None for replica in self.replicas):
            self.fail_queued(error)

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
