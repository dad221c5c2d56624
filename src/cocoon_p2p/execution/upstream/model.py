"""One upstream model: what it is, its queue, and its jobs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.engine_jobs import EngineResult
from cocoon_p2p.execution.port import Device, InputBuffer, ModelStatus
from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.execution.upstream.http import UpstreamHttp
from cocoon_p2p.execution.upstream.open_inference import OpenInference
from cocoon_p2p.execution.upstream.openai import OpenAI, check_possible
from cocoon_p2p.execution.upstream.openai_events import Event
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.execution.upstream.token_stream import UpstreamTokenStream
from cocoon_p2p.generation import GenerationRequest, request_of
from cocoon_p2p.limits import UPSTREAM_CHARS_A_TOKEN
from cocoon_p2p.models.check import check_inputs, output_names
from cocoon_p2p.models.manifest import (
    DYNAMIC,
    EMBEDDING,
    GENERATION,
    TENSOR,
    Manifest,
    ManifestError,
    TensorSpec,
    UpstreamClaim,
    parse_manifest,
)
from cocoon_p2p.models.upstream_claim import OPEN_INFERENCE
from cocoon_p2p.tensors import (
    STRING,
    TEXT_INPUT,
    Payload,
    PayloadError,
    decode_payload,
    payload_bytes,
    unpack_strings,
    write_payload,
)

EMBEDDING_OUTPUT = "embedding"
"""Name of the one output of an embedding model behind the OpenAI API."""
_AVERAGE_WEIGHT = 0.2
"""Of the newest job in the moving average of an item's time."""


@dataclass(frozen=True, slots=True)
class UpstreamBounds:
    output_bytes_max: int
    queue_max: int
    """Jobs of one model that wait."""


class UpstreamModel:
    """Made by `describe`, which asks the cluster what it serves."""

    def __init__(
        self,
        settings: UpstreamSettings,
        http: UpstreamHttp,
        manifest: Manifest,
        api: OpenInference | OpenAI,
        bounds: UpstreamBounds,
    ) -> None:
        self.settings = settings
        self.manifest = manifest
        self.model_id = manifest.model_id
        self._http = http
        self._api = api
        self._bounds = bounds
        self._places = trio.Semaphore(settings.parallel)
        self._scopes: set[trio.CancelScope] = set()
        self._streams: set[UpstreamTokenStream] = set()
        self._queued = 0
        self._running = 0
        self._jobs_done = 0
        self._items_done = 0
        self._item_s: float | None = None
        self._rate = RateMeter()

    def status(self) -> ModelStatus:
        return ModelStatus(
            model_id=self.model_id,
            device=Device("upstream", f"a cluster of the operator's own, by {self.settings.kind}"),
            loaded=self._http.healthy,
            queued=self._queued,
            running=self._running,
            jobs_done=self._jobs_done,
            item_s=self._item_s,
            pid=None,
            items_done=self._items_done,
            best_items_s=self._rate.best_items_s(trio.current_time()),
            wait_s=0.0 if self._running < self.settings.parallel else None,
        )

    async def run(self, buffer: InputBuffer, *, items_max: int) -> EngineResult:
        """One job. Raises ExecutionError."""
        payload, items = self._checked(buffer, items_max)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                return await self._run(payload, items)
            finally:
                self._scopes.discard(scope)
        raise _unloaded()

    async def _run(self, payload: Payload, items: int) -> EngineResult:
        asked = trio.current_time()
        async with self._place():
            started = trio.current_time()
            answer = await self._answer(payload)
            execute_s = trio.current_time() - started
        size, size_max = payload_bytes(answer), self._bounds.output_bytes_max
        if size > size_max:
            raise ExecutionError(f"the output has {size} bytes; at most {size_max} are sent", code="LIMITS")
        encoded = memoryview(bytearray(size))
        write_payload(answer, encoded)
        self._note(items, execute_s)
        return EngineResult(encoded, items, started - asked, execute_s, None)

    def begin(
        self, buffer: InputBuffer, nursery: trio.Nursery, *, items_max: int, items_allowed: int
    ) -> UpstreamTokenStream:
        """Start an answer, as a task of `nursery`. Raises ExecutionError."""
        if self.manifest.kind != GENERATION or not isinstance(self._api, OpenAI):
            raise ExecutionError("this model generates no text", code="INPUT")
        request = request_of(_decoded(buffer))
        check_possible(request)
        if self.settings.context:
            items_max = min(items_max, self.settings.context)
        stream = UpstreamTokenStream(
            prompt_estimate=_estimated_tokens(request),
            tokens_max=min(request.max_tokens, items_max),
            items_max=items_max,
            allowed=items_allowed,
        )
        events = self._api.stream(request, stream.tokens_max)
        nursery.start_soon(self._generate, stream, events)
        return stream

    async def _generate(self, stream: UpstreamTokenStream, events: AsyncGenerator[Event]) -> None:
        self._streams.add(stream)
        try:
            await stream.pump(events, self._place())
        finally:
            self._streams.discard(stream)
            if stream.error is None:
                self._note(stream.worked, stream.worked_s)

    async def aclose(self) -> None:
        await self._http.aclose()

    def end_jobs(self) -> None:
        """They fail with SHUTTING_DOWN."""
        for scope in self._scopes:
            scope.cancel()
        for stream in self._streams:
            stream.fail(_unloaded())

    def _checked(self, buffer: InputBuffer, items_max: int) -> tuple[Payload, int]:
        payload = _decoded(buffer)
        if self.manifest.kind == GENERATION:
            raise ExecutionError("a model that generates text answers token by token only", code="INPUT")
        items = check_inputs(self.manifest, payload)
        if items > items_max:
            raise ExecutionError(f"the input has {items} items; {items_max} were agreed", code="ITEMS")
        return payload, items

    async def _answer(self, payload: Payload) -> Payload:
        try:
            if isinstance(self._api, OpenInference):
                return await self._api.infer(self.manifest, payload, output_names(self.manifest, payload))
            (text,) = payload.tensors
            (output,) = self.manifest.outputs
            assert output.shape is not None
            texts = unpack_strings(text)
            return Payload((await self._api.embed(output.name, texts, output.shape[1]),))
        except PayloadError as error:
            raise ExecutionError(str(error), code="INPUT") from error

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """One of the requests that may go on at the same time. Raises ExecutionError(code="BUSY")."""
        if self._queued >= self._bounds.queue_max:
            raise ExecutionError(f"{self._queued} jobs wait for this model already", code="BUSY", retryable=True)
        self._queued += 1
        try:
            await self._places.acquire()
        finally:
            self._queued -= 1
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            self._places.release()

    def _note(self, items: int, work_s: float) -> None:
        self._jobs_done += 1
        self._items_done += items
        self._rate.add(items, trio.current_time())
        if items:
            old, new = self._item_s, work_s / items
            self._item_s = new if old is None else old + _AVERAGE_WEIGHT * (new - old)


async def describe(settings: UpstreamSettings, http: UpstreamHttp, bounds: UpstreamBounds) -> UpstreamModel:
    """What the cluster serves. Raises ConfigError (it cannot be served, or is another than node.toml says), ExecutionError (it
    does not answer, which may pass)."""
    claim = UpstreamClaim(settings.kind, settings.model)
    api: OpenInference | OpenAI
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    if settings.kind == OPEN_INFERENCE:
        kind = TENSOR
        api = OpenInference(settings, http, bounds.output_bytes_max)
        inputs, outputs = await api.signature()
    else:
        kind = settings.task
        api = OpenAI(settings, http)
        if not await api.knows_model():
            raise ConfigError(
                f"upstream {settings.name}: {settings.url} does not list a model {settings.model!r}",
                hint=f"{settings.url}/v1/models shows what it serves",
            )
        if kind == EMBEDDING:
            width = (await api.embed(EMBEDDING_OUTPUT, ["."], None)).shape[1]
            inputs = (TensorSpec(TEXT_INPUT, STRING, (DYNAMIC,)),)
            outputs = (TensorSpec(EMBEDDING_OUTPUT, "float32", (DYNAMIC, width)),)
    manifest = Manifest(kind, (), "", inputs, outputs, (), upstream=claim)
    try:
        manifest = parse_manifest(manifest.encode())
    except (ManifestError, UnicodeEncodeError) as error:
        raise ConfigError(f"upstream {settings.name} cannot be served: {error}") from error
    return UpstreamModel(settings, http, manifest, api, bounds)


def _decoded(buffer: InputBuffer) -> Payload:
    try:
        return decode_payload(buffer.view)
    except PayloadError as error:
        raise ExecutionError(str(error), code="INPUT") from error


def _estimated_tokens(request: GenerationRequest) -> int:
    return max(1, len(request.encode()) // UPSTREAM_CHARS_A_TOKEN)


def _unloaded() -> ExecutionError:
    return ExecutionError("the model was unloaded", code="SHUTTING_DOWN", retryable=True)
