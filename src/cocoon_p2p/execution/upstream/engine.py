"""The port `Engine` with clusters behind it: models are added by asking an upstream what it serves; nothing is loaded here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.input_buffers import InputBuffers
from cocoon_p2p.execution.port import ExecutionResult, InputBuffer, ModelStatus, TokenStream
from cocoon_p2p.execution.upstream.http import Complaints, UpstreamHttp
from cocoon_p2p.execution.upstream.model import UpstreamBounds, UpstreamModel, describe
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import ENGINE_QUEUE_MAX, JOB_BYTES_IN_FLIGHT_MAX, JOB_BYTES_MAX
from cocoon_p2p.models.manifest import Manifest


@asynccontextmanager
async def open_upstream_engine(
    *,
    bytes_in_flight_max: int = JOB_BYTES_IN_FLIGHT_MAX,
    output_bytes_max: int = JOB_BYTES_MAX,
    queue_max: int = ENGINE_QUEUE_MAX,
) -> AsyncIterator[UpstreamEngine]:
    """An engine without models; `add` names them. At the end every request that still goes on is broken off."""
    raised: CocoonError | None = None
    async with trio.open_nursery() as nursery:
        engine = UpstreamEngine(nursery, UpstreamBounds(output_bytes_max, queue_max), bytes_in_flight_max)
        try:
            yield engine
        except CocoonError as error:
            raised = error  # leaves this block as it is, not in a group
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await engine.close()
    if raised is not None:
        raise raised


class UpstreamEngine:
    """Implements `Engine`; made by `open_upstream_engine`."""

    def __init__(self, nursery: trio.Nursery, bounds: UpstreamBounds, bytes_in_flight_max: int) -> None:
        self._nursery = nursery
        self._inputs = InputBuffers(bytes_in_flight_max, lambda block: None)
        self._bounds = bounds
        self._known: dict[ModelId, UpstreamModel] = {}
        self._loaded: dict[ModelId, UpstreamModel] = {}
        self._complaints: dict[str, Complaints] = {}

    async def add(self, settings: UpstreamSettings) -> Manifest:
        """Ask an upstream what it serves; afterwards its model can be loaded. Of two that serve the same the later one does the
        work from then on. Raises ConfigError, ExecutionError."""
        http = UpstreamHttp(settings, self._complaints.setdefault(settings.name, Complaints(settings.name)))
        model: UpstreamModel | None = None
        try:
            model = await describe(settings, http, self._bounds)
        finally:
            if model is None:
                with trio.CancelScope(shield=True):
                    await http.aclose()
        before = self._known.get(model.model_id)
        self._known[model.model_id] = model
        if model.model_id in self._loaded:
            self._loaded[model.model_id] = model
        if before is not None:
            before.end_jobs()
            await before.aclose()
        return model.manifest

    def complaint(self, name: str) -> str:
        """What the operator was told last of the upstream of this name, in words that quote no request; "" when nothing was."""
        complaints = self._complaints.get(name)
        return "" if complaints is None else complaints.last

    def knows(self, model_id: ModelId) -> bool:
        return model_id in self._known

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        """Of a model that was added; `folder` does not matter. Raises ExecutionError."""
        model = self._known.get(model_id)
        if model is None:
            raise ExecutionError("no upstream serves this model", code="MODEL")
        self._loaded[model_id] = model
        return model.status()

    async def unload(self, model_id: ModelId) -> None:
        """Its jobs fail with SHUTTING_DOWN."""
        model = self._loaded.pop(model_id, None)
        if model is not None:
            model.end_jobs()

    def models(self) -> tuple[ModelStatus, ...]:
        return tuple(model.status() for model in self._loaded.values())

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        return self._inputs.take(payload_bytes)

    async def run(
        self, model_id: ModelId, payload: InputBuffer, *, items_max: int, client: PeerId | None = None
    ) -> ExecutionResult:
        """As `Engine.run`; `payload` may be another engine's buffer."""
        try:
            return await self._model(model_id).run(payload, items_max=items_max)
        finally:
            payload.release()

    async def generate(
        self,
        model_id: ModelId,
        payload: InputBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> TokenStream:
        """As `Engine.generate`; an answer cannot be resumed (INPUT)."""
        try:
            stream = self._model(model_id).begin(
                payload, self._nursery, items_max=items_max, items_allowed=items_allowed
            )
        finally:
            payload.release()
        good = False
        try:
            await stream.begun.wait()
            stream.check_begun()
            good = True
        finally:
            if not good:
                await stream.__aexit__()
        return stream

    async def close(self) -> None:
        """Close every connection."""
        for model in self._known.values():
            await model.aclose()
        self._inputs.close()

    def _model(self, model_id: ModelId) -> UpstreamModel:
        model = self._loaded.get(model_id)
        if model is None:
            raise ExecutionError("the model is not loaded", code="MODEL", retryable=True)
        return model
