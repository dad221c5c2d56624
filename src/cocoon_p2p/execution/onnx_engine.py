"""The port `Engine` with ONNX Runtime behind it: one worker process for each loaded model.

The node's own process loads neither ONNX Runtime nor numpy; a model that crashes, hangs or eats memory takes its worker
along, and nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.batching import batch_key
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice, check_setting, choose_device
from cocoon_p2p.execution.engine_jobs import EngineJob
from cocoon_p2p.execution.input_buffers import InputBuffers, WorkerInput
from cocoon_p2p.execution.port import ExecutionResult, InputBuffer, ModelStatus
from cocoon_p2p.execution.served_model import ServedModel
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import BATCH_ITEMS_MAX, ENGINE_QUEUE_MAX, JOB_BYTES_IN_FLIGHT_MAX, JOB_BYTES_MAX
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
) -> AsyncIterator[OnnxEngine]:
    """`threads` of each model's runs (None: all processors); `device` "auto", "cpu" or "cuda". Nothing is started before
    the first `load`. Raises ConfigError for a `device` that is not known."""
    check_setting(device)
    raised: CocoonError | None = None
    settings = ModelSettings(threads or 0, batch_items_max, output_bytes_max, queue_max)
    async with trio.open_nursery() as nursery:
        processes = WorkerProcesses(nursery)
        engine = OnnxEngine(nursery, processes, settings, device, bytes_in_flight_max)
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
        nursery: trio.Nursery,
        processes: WorkerProcesses,
        settings: ModelSettings,
        device_setting: str,
        bytes_in_flight_max: int,
    ) -> None:
        self._nursery = nursery
        self._processes = processes
        self._settings = settings
        self._device_setting = device_setting
        self._device: ChosenDevice | None = None
        self._choosing = trio.Lock()
        self._inputs = InputBuffers(bytes_in_flight_max, self._forget_block)
        self._models: dict[ModelId, _Running] = {}
        self._next_job = 1

    async def load(self, model_id: ModelId, folder: Path) -> ModelStatus:
        """As `Engine.load`; also ConfigError when the configuration asks for a device that does not work here."""
        device = await self._chosen_device()
        running = self._models.get(model_id)
        if running is None:
            try:
                manifest = await trio.to_thread.run_sync(read_manifest, folder, model_id)
            except ModelDamaged as error:
                raise ExecutionError(error.message, code="MODEL", hint=error.hint) from error
            running = self._models.get(model_id)  # another load may have come first
            if running is None:
                running = _Running(ServedModel(model_id, folder, manifest, device, self._settings))
                self._models[model_id] = running
                self._nursery.start_soon(self._keep, running)
        await running.model.first_load.wait()
        if running.model.load_error is not None:
            raise running.model.load_error
        return running.model.status()

    async def unload(self, model_id: ModelId) -> None:
        """Its jobs fail with SHUTTING_DOWN. Nothing to do for a model that is not loaded."""
        running = self._models.get(model_id)
        if running is not None:
            running.scope.cancel()
            await running.ended.wait()

    def models(self) -> tuple[ModelStatus, ...]:
        return tuple(running.model.status() for running in self._models.values())

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        return self._inputs.take(payload_bytes)

    async def run(self, model_id: ModelId, payload: InputBuffer, *, items_max: int) -> ExecutionResult:
        assert isinstance(payload, WorkerInput)
        running = self._models.get(model_id)
        try:
            if running is None:
                raise ExecutionError("the model is not loaded", code="MODEL", retryable=True)
            job = self._make_job(running.model, payload, items_max)
            running.model.submit(job)
        except ExecutionError:
            payload.release()
            raise
        try:
            await job.ended.wait()
        except trio.Cancelled:
            if not job.ended.is_set():
                running.model.abandon(job)
            elif job.result is not None:
                job.result.release()
            raise
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    async def close(self) -> None:
        """End all workers."""
        for running in self._models.values():
            running.scope.cancel()
        for running in list(self._models.values()):
            await running.ended.wait()
        self._inputs.close()

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

    async def _chosen_device(self) -> ChosenDevice:
        async with self._choosing:
            if self._device is None:
                self._device = await choose_device(self._device_setting, self._processes)
            return self._device

    async def _keep(self, running: _Running) -> None:
        try:
            with running.scope:
                await running.model.run(self._processes)
        finally:
            del self._models[running.model.model_id]
            running.ended.set()

    def _forget_block(self, block: Block) -> None:
        for running in self._models.values():
            running.model.forget_block(block)


class _Running:
    """A model and the task that keeps it."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
