"""Models and workers that only pretend, for tests of the pool in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.engine_pool import EnginePool
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.pooled_model import ModelWorker, PooledModel
from cocoon_p2p.execution.port import Device
from cocoon_p2p.ids import ModelId

CPU = ChosenDevice(Device("cpu", "for a test"), "CPUExecutionProvider")
LOAD_S = 1.0


class PretendedWorker:
    def __init__(self, jobs: PretendedJobs) -> None:
        self.first_load = trio.Event()
        self.load_error: ExecutionError | None = None
        self.pid: int | None = None
        self._jobs = jobs

    @property
    def busy(self) -> bool:
        return self._jobs.busy

    async def run(self, processes: Any) -> None:
        await trio.sleep(LOAD_S)
        self.load_error = self._jobs.fault
        if self.load_error is None:
            self.pid = self._jobs.bytes  # `measured_bytes` is told it so
            self._jobs.hand_over()
        self.first_load.set()
        if self.load_error is None:
            await trio.sleep_forever()

    def forget_block(self, block: Block) -> None:
        pass


@dataclass
class PretendedJobs:
    """Implements `ModelJobs`. `queued` becomes `busy` when there is a worker."""

    bytes: int = 100
    fault: ExecutionError | None = None
    drains: bool = False
    last_used: float | None = None
    queued: int = 0
    crowded: bool = False
    busy: bool = False
    jobs_done: int = 0
    items_done: int = 0
    item_s: float | None = None
    best_items_s: float = 0.0
    wait_s: float | None = None
    next_end_s: float | None = None
    failures: list[ExecutionError] = field(default_factory=list)
    workers: list[PretendedWorker] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    """Of every worker that there ever was."""

    @property
    def running(self) -> int:
        return int(self.busy)

    def come(self) -> None:
        """A job comes."""
        self.queued += 1
        self.last_used = trio.current_time()
        self.hand_over()

    def hand_over(self) -> None:
        if self.queued and self.workers and not self.drains:
            self.queued, self.busy = 0, True

    def add_worker(self, folder: Path, device: ChosenDevice) -> PretendedWorker:
        self.workers.append(PretendedWorker(self))
        self.devices.append(device.device.name)
        return self.workers[-1]

    def drop_worker(self, worker: ModelWorker) -> None:
        self.workers = [other for other in self.workers if other is not worker]

    def resume(self) -> None:
        self.hand_over()

    def fail_queued(self, error: ExecutionError) -> None:
        self.failures += [error] * self.queued
        self.queued = 0

    def close(self) -> None:
        self.fail_queued(ExecutionError("gone", code="SHUTTING_DOWN"))


class PretendedModel(PooledModel):
    """Needs `jobs.bytes` of memory."""

    def __init__(self, name: str, jobs: PretendedJobs) -> None:
        super().__init__(ModelId(name.encode().hex().ljust(64, "0")), Path(name), _Manifest(), jobs)  # type: ignore[arg-type]
        self.jobs: PretendedJobs = jobs

    @property
    def bytes_needed(self) -> int:
        return self.jobs.bytes

    @property
    def warm(self) -> bool:
        return any(life.loaded for life in self.lives)


class _Manifest:
    size = 0


@asynccontextmanager
async def open_pool(*devices: str, **settings: Any) -> AsyncIterator[EnginePool]:
    async with trio.open_nursery() as nursery:
        pool = EnginePool(nursery, None, PoolSettings(**settings))  # type: ignore[arg-type]
        pool.devices = [
            ChosenDevice(Device(name, "for a test"), "CPUExecutionProvider") for name in devices or ("cpu",)
        ]
        nursery.start_soon(pool.tend)
        yield pool
        await pool.close()
        nursery.cancel_scope.cancel()


def add(pool: EnginePool, name: str, **jobs: Any) -> PretendedModel:
    model = PretendedModel(name, PretendedJobs(**jobs))
    pool.add(model)
    return model


def come(pool: EnginePool, model: PretendedModel) -> None:
    """A job for the model comes."""
    model.jobs.come()
    pool.want(model)


def done(pool: EnginePool, model: PretendedModel) -> None:
    """Its jobs are done."""
    model.jobs.busy = False
    model.jobs.last_used = trio.current_time()
    pool.note_change()
