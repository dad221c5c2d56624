"""What waits for the workers of one model, who its workers are, and what was seen of what they did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.endings import copy_of, unloaded
from cocoon_p2p.execution.kept_worker import KeptWorker
from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.manifest import Manifest

_AVERAGE_WEIGHT = 0.2
"""Of the newest job in the moving average of an item's time."""


class Queued(Protocol):
    def fail(self, error: ExecutionError) -> None: ...


Job = TypeVar("Job", bound=Queued)
Worker = TypeVar("Worker", bound=KeptWorker[Any])


class ModelQueue(ABC, Generic[Job, Worker]):
    """Most of `ModelJobs` (execution/pooled_model.py), and `kept_worker.Told`. Workers come and go (execution/engine_pool.py):
    without one, jobs wait."""

    def __init__(self, model_id: ModelId, manifest: Manifest, settings: ModelSettings) -> None:
        self.model_id = model_id
        self.manifest = manifest
        self.workers: list[Worker] = []
        self.drains = False
        """Another model needs the room: no worker gets any more jobs for now."""
        self.last_used: float | None = None
        self.jobs_done = 0
        self.items_done = 0
        self.item_s: float | None = None
        self.rested: Callable[[], None] = lambda: None
        """Called when a worker has become idle."""
        self._settings = settings
        self._queue: deque[Job] = deque()
        self._rate = RateMeter()
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(len(worker.handed) for worker in self.workers)

    @property
    def best_items_s(self) -> float:
        return self._rate.best_items_s(trio.current_time())

    @property
    def wait_s(self) -> float | None:
        """As in `ModelStatus`."""
        return None

    @property
    def next_end_s(self) -> float | None:
        """As in `ModelStatus`."""
        return None

    @abstractmethod
    def hand_over(self) -> None:
        """Give the workers what is queued."""

    def drop_worker(self, worker: object) -> None:
        self.workers = [other for other in self.workers if other is not worker]

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

    def at_rest(self) -> None:
        self.rested()

    def could_not_return(self, error: ExecutionError) -> None:
        if not any(worker.pid is not None for worker in self.workers):
            self.fail_queued(error)

    def _enqueue(self, job: Job, waiting: int, waits: str) -> None:
        """Raises ExecutionError: SHUTTING_DOWN; BUSY, where `waiting` of them are too many (`waits` says what they do)."""
        if self._closed:
            raise unloaded()
        if waiting >= self._settings.queue_max:
            raise ExecutionError(f"{waiting} {waits} already", code="BUSY", retryable=True)
        self.last_used = trio.current_time()
        self._queue.append(job)
        self.hand_over()

    def _note_done(self, items: int, work_s: float) -> None:
        """A job of so many items was done, with so many seconds of work."""
        self.jobs_done += 1
        self.items_done += items
        self._rate.add(items, trio.current_time())
        if items > 0:
            item_s = work_s / items
            self.item_s = item_s if self.item_s is None else self.item_s + _AVERAGE_WEIGHT * (item_s - self.item_s)
