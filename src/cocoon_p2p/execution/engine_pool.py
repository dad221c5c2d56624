"""Which models have workers, on which devices: loaded when a job wants them, within a budget of memory; unloaded when nobody
does, or when another needs the room; with more workers where a queue is long and a device is free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.endings import copy_of, unloaded
from cocoon_p2p.execution.memory import process_bytes, too_large
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.pooled_model import PooledModel, WorkerLife
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import PROBLEM_KEPT_S


class EnginePool:
    """`tend` is a task that runs beside; workers run in `nursery`. All choices are made between two checkpoints, so the books of
    memory are right whenever anybody looks."""

    def __init__(
        self,
        nursery: trio.Nursery,
        processes: WorkerProcesses,
        settings: PoolSettings,
    ) -> None:
        self.models: dict[ModelId, PooledModel] = {}
        self.devices: Sequence[ChosenDevice] = ()
        """To be set before the first model."""
        self._nursery = nursery
        self._processes = processes
        self._settings = settings
        self._rooms = trio.Lock()
        """Held by the one who makes room: first come, first served."""
        self._changed = trio.Event()

    # --- models ---

    def add(self, model: PooledModel) -> None:
        """Make it known, without a worker. Raises ExecutionError(code="LIMITS") for one that can never be loaded."""
        self._check_possible(model)
        self.models[model.model_id] = model

    async def remove(self, model: PooledModel) -> None:
        """End its workers; its jobs fail with SHUTTING_DOWN."""
        model.gone = True
        if self.models.get(model.model_id) is model:
            del self.models[model.model_id]
        await self._end(list(model.lives))
        model.jobs.close()
        self.note_change()

    def fits(self, model: PooledModel) -> bool:
        """Whether it can be loaded now beside what is loaded."""
        budget = self._settings.budget_bytes
        return budget is None or self._held() + model.bytes_needed <= budget

    async def warm(self, model: PooledModel) -> None:
        """Returns when a worker has it. Raises ExecutionError."""
        while model.jobs.drains:
            await self._changed.wait()
        async with model.starting:
            if not model.lives:
                await self._start_with_room(model)
        life = model.lives[0]
        await life.ready.wait()
        if not life.loaded:
            error = life.worker.load_error
            raise unloaded() if error is None else copy_of(error)

    def start_if_fits(self, model: PooledModel) -> bool:
        """Begin to load it if that pushes nobody out. Whether it is loaded, or being loaded."""
        if not model.lives and not self._rooms.locked() and self.fits(model):
            self._start(model, self._emptiest_device())
        return bool(model.lives)

    def want(self, model: PooledModel) -> None:
        """It has jobs: see to it that it has a worker. When none can be had, they fail."""
        if not (model.lives or model.coming or model.gone):
            model.coming = True
            self._nursery.start_soon(self._bring, model)

    def forget_block(self, block: Block) -> None:
        for life in self._lives():
            life.worker.forget_block(block)

    def note_change(self) -> None:
        """Who waits for room, or for its turn, looks again."""
        self._changed.set()
        self._changed = trio.Event()

    async def close(self) -> None:
        for model in list(self.models.values()):
            for life in model.lives:
                life.scope.cancel()
        for model in list(self.models.values()):
            await self.remove(model)

    async def _bring(self, model: PooledModel) -> None:
        try:
            await self.warm(model)
        except ExecutionError as error:
            model.note_problem(error.message)
            model.jobs.fail_queued(error)
        finally:
            model.coming = False

    # --- workers ---

    def _start(self, model: PooledModel, device: ChosenDevice) -> WorkerLife:
        worker = model.jobs.add_worker(model.folder, device)
        life = WorkerLife(worker, device, model.bytes_needed)
        model.lives.append(life)
        self._nursery.start_soon(self._keep, model, life)
        return life

    async def _keep(self, model: PooledModel, life: WorkerLife) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._measure, model, life)
                with life.scope:
                    await life.worker.run(self._processes)
                nursery.cancel_scope.cancel()
        finally:
            model.jobs.drop_worker(life.worker)
            model.lives.remove(life)
            if not model.lives:
                model.jobs.drains = False
            if not life.loaded and life.worker.load_error is not None:
                model.note_problem(life.worker.load_error.message)
            life.ready.set()
            life.ended.set()
            self.note_change()
        if not model.gone and model.jobs.queued:
            self.want(model)

    async def _measure(self, model: PooledModel, life: WorkerLife) -> None:
        await life.worker.first_load.wait()
        pid = life.worker.pid
        if pid is None:
            return
        model.note_load(life)
        life.ready.set()
        model.note_bytes(life, await measured_bytes(pid))
        self.note_change()

    async def _end(self, lives: Sequence[WorkerLife]) -> None:
        for life in lives:
            life.scope.cancel()
        for life in lives:
            await life.ended.wait()

    def _lives(self) -> Iterator[WorkerLife]:
        return (life for model in self.models.values() for life in model.lives)

    # --- room ---

    async def _start_with_room(self, model: PooledModel) -> None:
        """Raises ExecutionError(code="LIMITS") when it could not be had by unloading others."""
        if self.start_if_fits(model):
            return
        async with self._rooms:
            impatient_at = trio.current_time() + self._settings.room_patience_s
            while True:
                self._check_possible(model)
                if self.fits(model):
                    self._start(model, self._emptiest_device())
                    self._end_draining()
                    return
                changed = self._changed
                leaving = self._least_needed(model)
                if leaving:
                    await self._end(leaving)
                    continue
                if trio.current_time() >= impatient_at:
                    self._drain_one(model)
                    impatient_at += self._settings.room_patience_s
                with trio.move_on_at(impatient_at):
                    await changed.wait()

    def _check_possible(self, model: PooledModel) -> None:
        budget = self._settings.budget_bytes
        if budget is None:
            return
        kept = sum(m.bytes_held for m in self.models.values() if m.keep and m is not model)
        if model.bytes_needed > budget - kept:
            text = too_large(model.bytes_needed, budget)
            if kept:
                text += ", of which those that are kept warm take a part ([execution] keep_warm)"
            raise ExecutionError(text, code="LIMITS")

    def _held(self) -> int:
        return sum(model.bytes_held for model in self.models.values())

    def _least_needed(self, wanting: PooledModel | None) -> list[WorkerLife]:
        """Workers that may go at once: one that is spare, else those of the model that was not used for longest."""
        for model in self.models.values():
            spare = [life for life in model.lives[1:] if life.loaded and not life.worker.busy]
            if spare:
                return spare[-1:]
        idle = [m for m in self.models.values() if m.lives and m.idle and not m.keep and m is not wanting]
        return list(min(idle, key=lambda m: m.used_at).lives) if idle else []

    def _drain_one(self, wanting: PooledModel) -> None:
        """All others are at work, and may be for ever: one of them makes a pause when its jobs under way are done."""
        able = [m for m in self.models.values() if m.lives and not m.keep and not m.jobs.drains and m is not wanting]
        if able and not any(m.jobs.drains for m in self.models.values()):
            min(able, key=lambda m: max(life.began_at for life in m.lives)).jobs.drains = True

    def _end_draining(self) -> None:
        """Room was found, perhaps elsewhere."""
        for model in self.models.values():
            if model.jobs.drains:
                model.jobs.drains = False
                model.jobs.resume()
        self.note_change()

    def _emptiest_device(self) -> ChosenDevice:
        held = dict.fromkeys(self.devices, 0)
        for life in self._lives():
            held[life.device] = held.get(life.device, 0) + life.bytes
        return min(self.devices, key=lambda device: held[device])

    # --- tending ---

    async def tend(self) -> None:
        """Unloads what is idle, and sees to replicas, until it is cancelled."""
        while True:
            await trio.sleep(self._settings.tend_s)
            now = trio.current_time()
            for model in list(self.models.values()):
                if model.problem and now - model.problem_at > PROBLEM_KEPT_S:
                    model.problem = ""  # memory comes and goes: it may be tried again
                if model.lives and not self._unload_idle(model, now):
                    self._end_idle_replicas(model, now)
                    self._start_replica(model, now)
            self._keep_within_budget()

    def _unload_idle(self, model: PooledModel, now: float) -> bool:
        after_s = self._settings.unload_idle_s
        if model.keep or not after_s or not model.idle or now - model.used_at < after_s:
            return False
        for life in model.lives:
            life.scope.cancel()
        return True

    def _end_idle_replicas(self, model: PooledModel, now: float) -> None:
        for life in model.lives:
            if life.worker.busy or not life.loaded:
                life.busy_at = now
        for life in model.lives[1:]:
            if now - life.busy_at >= self._settings.replica_idle_s:
                life.scope.cancel()

    def _start_replica(self, model: PooledModel, now: float) -> None:
        if not model.jobs.crowded or model.jobs.drains or not all(life.loaded for life in model.lives):
            model.crowded_since = None
            return
        model.crowded_since = model.crowded_since or now
        if now - model.crowded_since < self._settings.replica_after_s or now < model.no_replica_before:
            return
        device = self._device_for_replica(model)
        if device is not None and self.fits(model) and not self._rooms.locked():
            model.crowded_since = None
            model.no_replica_before = now + self._settings.replica_idle_s  # should it not load, not again at once
            self._start(model, device)

    def _device_for_replica(self, model: PooledModel) -> ChosenDevice | None:
        """One that does nothing and does not have the model; of a CPU as many as the operator says."""
        most = self._settings.replicas_max or len(self.devices)
        if len(model.lives) >= most:
            return None
        if len(self.devices) == 1:
            return self.devices[0] if self.devices[0].device.name == "cpu" else None
        at_work = {life.device for life in self._lives() if life.worker.busy}
        own = {life.device for life in model.lives}
        return next((device for device in self.devices if device not in at_work | own), None)

    def _keep_within_budget(self) -> None:
        """A model may have turned out larger than expected: then the one that was not used for longest goes."""
        budget = self._settings.budget_bytes
        if budget is not None and self._held() > budget:
            for life in self._least_needed(None):
                life.scope.cancel()


async def measured_bytes(pid: int) -> int | None:
    """What a worker takes of memory. In a thread: the kernel counts each page."""
    return await trio.to_thread.run_sync(process_bytes, pid)
