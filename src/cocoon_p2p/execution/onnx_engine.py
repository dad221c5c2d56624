"""The port `Engine` with ONNX Runtime behind it: models in worker processes, one or more for each loaded model.

The node's own process loads neither ONNX Runtime nor numpy; a model that crashes, hangs or eats memory takes its worker
along, and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.batching import batch_key
from cocoon_p2p.execution.device import ChosenDevice, check_setting, choose_devices
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.engine_pool import EnginePool
from cocoon_p2p.execution.input_buffers import InputBuffers, WorkerInput
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.pooled_model import PooledModel
from cocoon_p2p.execution.port import ExecutionResult, InputBuffer, ModelStatus, TokenStream
from cocoon_p2p.execution.served_generator import ServedGenerator, kv_bytes
from cocoon_p2p.execution.served_model import ServedModel
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import (
    BATCH_ITEMS_MAX,
    ENGINE_QUEUE_MAX,
    GENERATION_KV_BYTES_MAX,
    JOB_BYTES_IN_FLIGHT_MAX,
    JOB_BYTES_MAX,
    JOB_RUN_SECONDS_DEFAULT,
    KV_BUDGET_SHARE,
)
from cocoon_p2p.models.check import check_inputs, output_names, takes_text
from cocoon_p2p.models.layout import ModelDamaged, read_manifest
from cocoon_p2p.tensors import PayloadError, decode_payload


@asynccontextmanager
async def open_engine(
    *,
    threads: int | None = None,
    batch_items_max: int = BATCH_ITEMS_MAX,
    device: str = "auto",
    bytes_in_flight_max: int = JOB_BYTES_IN_FLIGHT_MAX,
    output_bytes_max: int = JOB_BYTES_MAX,
    queue_max: int = ENGINE_QUEUE_MAX,
    job_seconds: float = JOB_RUN_SECONDS_DEFAULT,
    job_memory_bytes: int | None = None,
    pool: PoolSettings | None = None,
    devices: Sequence[ChosenDevice] = (),
) -> AsyncIterator[OnnxEngine]:
    """`threads` of each worker's runs (None: all processors); `device` "auto", "cpu" or "cuda"; `devices` takes the place of
    what would be found for it (for tests). Nothing is started before the first `load`. Raises ConfigError for a `device`
    that is not known."""
    check_setting(device)
    raised: CocoonError | None = None
    settings = ModelSettings(threads or 0, batch_items_max, output_bytes_max, queue_max, job_seconds, job_memory_bytes)
    async with trio.open_nursery() as nursery:
        processes = WorkerProcesses(nursery)
        models = EnginePool(nursery, processes, pool or PoolSettings())
        models.devices = devices
        engine = OnnxEngine(processes, models, settings, device, bytes_in_flight_max)
        if pool is not None and pool.budget_bytes is not None:
            engine.kv_bytes_max = min(GENERATION_KV_BYTES_MAX, int(pool.budget_bytes * KV_BUDGET_SHARE))
        nursery.start_soon(models.tend)
        try:
            yield engine
        except CocoonError as error:
            raised = error  # leaves this block as it is, not in a group
        finally:
            with trio.CancelScope(shield=True):
                await engine.close()
                await processes.close()
            nursery.cancel_scope.cancel()
    if raised is not None:
        raise raised


class OnnxEngine:
    """Implements `Engine`; made by `open_engine`."""

    def __init__(
        self,
        processes: WorkerProcesses,
        pool: EnginePool,
        settings: ModelSettings,
        device_setting: str,
        bytes_in_flight_max: int,
    ) -> None:
        self._processes = processes
        self._pool = pool
        self._settings = settings
        self._device_setting = device_setting
        self._choosing = trio.Lock()
        self._inputs = InputBuffers(bytes_in_flight_max, pool.forget_block)
        self._next_job = 1
        self.kv_bytes_max = GENERATION_KV_BYTES_MAX
        """Of keys and values of one worker of a model that generates."""

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        """As `Engine.load`; also ConfigError when the configuration asks for a device that does not work here."""
        async with self._choosing:
            if not self._pool.devices:
                self._pool.devices = await choose_devices(self._device_setting, self._processes)
        model, new = await self._known(model_id, folder)
        model.keep = keep is True
        try:
            if keep or (keep is None and self._pool.start_if_fits(model)):
                await self._pool.warm(model)
        except ExecutionError:
            if new:
                await self._pool.remove(model)
            raise
        return model.status(self._pool.devices)

    async def unload(self, model_id: ModelId) -> None:
        """Its jobs fail with SHUTTING_DOWN. Nothing to do for a model that is not known."""
        model = self._pool.models.get(model_id)
        if model is not None:
            await self._pool.remove(model)

    def models(self) -> tuple[ModelStatus, ...]:
        return tuple(model.status(self._pool.devices) for model in self._pool.models.values())

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        return self._inputs.take(payload_bytes)

    async def run(
        self, model_id: ModelId, payload: InputBuffer, *, items_max: int, client: PeerId | None = None
    ) -> ExecutionResult:
        assert isinstance(payload, WorkerInput)
        model = self._pool.models.get(model_id)
        try:
            jobs = _tensor_jobs(model)
            job = self._make_job(jobs, payload, items_max)
            jobs.submit(job)
        except ExecutionError:
            payload.release()
            raise
        assert model is not None
        self._pool.want(model)
        try:
            await job.ended.wait()
        except trio.Cancelled:
            if not job.ended.is_set():
                jobs.abandon(job)
            elif job.result is not None:
                job.result.release()
            raise
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    async def generate(
        self,
        model_id: ModelId,
        payload: InputBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> TokenStream:
        model = self._pool.models.get(model_id)
        if model is None or not isinstance(model.jobs, ServedGenerator):
            payload.release()
            raise _not_loaded() if model is None else ExecutionError("this model does not generate text", code="MODEL")
        stream = model.jobs.submit(payload, items_max=items_max, items_allowed=items_allowed, client=client)
        self._pool.want(model)
        await stream.begun()
        return stream

    async def close(self) -> None:
        """End all workers."""
        await self._pool.close()
        self._inputs.close()

    async def _known(self, model_id: ModelId, folder: Path) -> tuple[PooledModel, bool]:
        """The model, and whether it was not known before. Raises ExecutionError."""
        known = self._pool.models.get(model_id)
        if known is not None:
            return known, False
        try:
            manifest = await trio.to_thread.run_sync(read_manifest, folder, model_id)
        except ModelDamaged as error:
            raise ExecutionError(error.message, code="MODEL", hint=error.hint) from error
        known = self._pool.models.get(model_id)  # another load may have come first
        if known is not None:
            return known, False
        jobs: ServedModel | ServedGenerator
        if manifest.generation is None:
            jobs, beside_weights = ServedModel(model_id, manifest, self._settings), 0
        else:
            jobs = ServedGenerator(model_id, manifest, self._settings, kv_bytes_max=self.kv_bytes_max)
            beside_weights = kv_bytes(manifest.generation, kv_bytes_max=self.kv_bytes_max)
        jobs.rested = self._pool.note_change
        model = PooledModel(model_id, folder, manifest, jobs, beside_weights=beside_weights)
        self._pool.add(model)
        return model, True

    def _make_job(self, model: ServedModel, buffer: WorkerInput, items_max: int) -> EngineJob:
        """Raises ExecutionError(code="INPUT" or "ITEMS")."""
        try:
            payload = decode_payload(buffer.view)
        except PayloadError as error:
            raise ExecutionError(str(error), code="INPUT") from error
        items = check_inputs(model.manifest, payload)
        if items > items_max:
            raise ExecutionError(f"the input has {items} items; {items_max} were agreed", code="ITEMS")
        as_text = takes_text(model.manifest, payload)
        number, self._next_job = self._next_job, self._next_job + 1
        return EngineJob(
            number=number,
            buffer=buffer,
            items=items,
            as_text=as_text,
            outputs=output_names(model.manifest, payload),
            key=None if as_text else batch_key(model.manifest, payload, self._settings.batch_items_max),
            queued_at=trio.current_time(),
        )


def _tensor_jobs(model: PooledModel | None) -> ServedModel:
    """Raises ExecutionError for a model that takes no tensors."""
    if model is None:
        raise _not_loaded()
    if not isinstance(model.jobs, ServedModel):
        raise ExecutionError("this model generates text: ask it for that", code="INPUT")
    return model.jobs


def _not_loaded() -> ExecutionError:
    return ExecutionError("the model is not loaded", code="MODEL", retryable=True)
