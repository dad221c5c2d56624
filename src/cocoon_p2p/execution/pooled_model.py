"""A model that the engine knows: loaded or not, by which workers, and what was learnt of its size and its loading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.memory import expected_bytes
from cocoon_p2p.execution.port import Device, ModelStatus
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import MODEL_LOAD_BYTES_S
from cocoon_p2p.models.manifest import Manifest


class ModelWorker(Protocol):
    """The life of one worker process of a model: `Replica`, or `GeneratorWorker`."""

    @property
    def first_load(self) -> trio.Event: ...

    @property
    def load_error(self) -> ExecutionError | None:
        """Why it is not loaded."""

    @property
    def pid(self) -> int | None: ...

    @property
    def busy(self) -> bool: ...

    async def run(self, processes: WorkerProcesses) -> None:
        """Keeps a worker alive until cancelled, or until the first load fails."""

    def forget_block(self, block: Block) -> None: ...


class ModelJobs(Protocol):
    """What is known of a model's jobs, whichever of its workers runs them."""

    drains: bool
    """Another model needs the room: no worker gets any more jobs for now."""

    @property
    def last_used(self) -> float | None: ...

    @property
    def queued(self) -> int: ...

    @property
    def running(self) -> int: ...

    @property
    def crowded(self) -> bool:
        """More jobs wait than the next run takes."""

    @property
    def jobs_done(self) -> int: ...

    @property
    def items_done(self) -> int: ...

    @property
    def item_s(self) -> float | None: ...

    @property
    def best_items_s(self) -> float: ...

    @property
    def wait_s(self) -> float | None: ...

    @property
    def next_end_s(self) -> float | None: ...

    def add_worker(self, folder: Path, device: ChosenDevice) -> ModelWorker:
        """One more, that is yet to run."""

    def drop_worker(self, worker: ModelWorker) -> None: ...

    def resume(self) -> None:
        """It drains no more: workers get what is queued."""

    def fail_queued(self, error: ExecutionError) -> None: ...

    def close(self) -> None:
        """To be called when no worker is left: what still waits fails."""


class WorkerLife:
    """A worker and the task that keeps it."""

    def __init__(self, worker: ModelWorker, device: ChosenDevice, expected: int) -> None:
        self.worker = worker
        self.device = device
        self.scope = trio.CancelScope()
        self.ready = trio.Event()
        """It has loaded, or has failed to."""
        self.ended = trio.Event()
        self.began_at = self.busy_at = trio.current_time()
        self.bytes = expected
        """Of memory: measured when it has loaded."""
        self._loaded = False

    @property
    def loaded(self) -> bool:
        """It has been, and if it died since, it is being started again."""
        self._loaded = self._loaded or self.worker.pid is not None
        return self._loaded


class PooledModel:
    def __init__(
        self, model_id: ModelId, folder: Path, manifest: Manifest, jobs: ModelJobs, *, beside_weights: int = 0
    ) -> None:
        """`beside_weights`: bytes that a worker comes to take while it works (keys and values)."""
        self.model_id = model_id
        self.folder = folder
        self.manifest = manifest
        self.jobs = jobs
        self.keep = False
        """It is never unloaded."""
        self.lives: list[WorkerLife] = []
        self.coming = False
        """A task sees to it that it gets its first worker."""
        self.gone = False
        """It is no longer known."""
        self.problem = ""
        """Why it could not be loaded the last time; empty when it could."""
        self.problem_at = 0.0
        self.crowded_since: float | None = None
        self.no_replica_before = 0.0
        self.starting = trio.Lock()
        self._beside_weights = beside_weights
        self._bytes: int | None = None
        self._load_s: float | None = None

    @property
    def bytes_needed(self) -> int:
        """Of memory, by one worker more."""
        return expected_bytes(self.manifest.size, self._beside_weights) if self._bytes is None else self._bytes

    @property
    def bytes_held(self) -> int:
        return sum(life.bytes for life in self.lives)

    @property
    def idle(self) -> bool:
        """No worker has anything to do, nor will have before it is asked to."""
        at_work = any(life.worker.busy or not life.loaded for life in self.lives)
        return not at_work and (self.jobs.queued == 0 or self.jobs.drains)

    @property
    def used_at(self) -> float:
        """When it last had anything to do, or was loaded."""
        loaded_at = max((life.began_at for life in self.lives), default=0.0)
        return max(self.jobs.last_used or 0.0, loaded_at)

    def note_load(self, life: WorkerLife) -> None:
        """A worker has loaded it."""
        self._load_s = trio.current_time() - life.began_at
        self.problem = ""

    def note_problem(self, problem: str) -> None:
        self.problem, self.problem_at = problem, trio.current_time()

    def note_bytes(self, life: WorkerLife, measured: int | None) -> None:
        """It takes so many; None when that could not be told."""
        if measured is not None:
            life.bytes = self._bytes = measured + self._beside_weights

    def load_s(self) -> float | None:
        """How long a job that came now would wait for a worker; None when there is one."""
        if any(life.loaded for life in self.lives):
            return None
        whole = self.manifest.size / MODEL_LOAD_BYTES_S if self._load_s is None else self._load_s
        begun = min((life.began_at for life in self.lives), default=trio.current_time())
        return max(whole - (trio.current_time() - begun), 0.0)

    def status(self, devices: Sequence[ChosenDevice]) -> ModelStatus:
        """`devices` are those that it could run on."""
        jobs, loaded = self.jobs, [life for life in self.lives if life.loaded]
        at_work = [life.worker.pid for life in loaded if life.worker.pid is not None]
        first = (self.lives[0].device if self.lives else devices[0]).device if devices or self.lives else _NO_DEVICE
        return ModelStatus(
            model_id=self.model_id,
            device=first,
            loaded=bool(at_work),
            queued=jobs.queued,
            running=jobs.running,
            jobs_done=jobs.jobs_done,
            item_s=jobs.item_s,
            pid=at_work[0] if at_work else None,
            items_done=jobs.items_done,
            best_items_s=jobs.best_items_s,
            warm=bool(loaded),
            loading=(bool(self.lives) or self.coming) and not loaded,
            load_s=self.load_s(),
            replicas=len(loaded),
            devices=tuple(life.device.device for life in self.lives),
            memory_bytes=self.bytes_held if self.lives else self.bytes_needed,
            last_used=jobs.last_used,
            problem=self.problem,
            wait_s=jobs.wait_s,
            next_end_s=jobs.next_end_s,
        )


_NO_DEVICE = Device("", "not chosen yet")
