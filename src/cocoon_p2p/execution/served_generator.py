"""The answers of one generation model, whichever of its workers makes them: their queue, and what was seen of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.generator_worker import GeneratorWorker
from cocoon_p2p.execution.port import InputBuffer
from cocoon_p2p.execution.rate import RateMeter
from cocoon_p2p.execution.replica import cancelled, copy_of, unloaded
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.generation import GENERATE_INPUT, is_generation
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import GENERATION_KV_BYTES_MAX, GENERATION_REQUEST_BYTES_MAX, GENERATION_ROWS_MAX
from cocoon_p2p.models.generation_spec import GenerationSpec
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.tensors import PayloadError, decode_payload, unpack_strings

_AVERAGE_WEIGHT = 0.2
"""Of the newest answer in the moving average of an item's time."""
_OWN = b"own"
"""Instead of a client's name, for this node's own answers: shorter than any."""


class ServedGenerator:
    """Implements `ModelJobs`. Answers come by `submit`. Workers come and go (execution/engine_pool.py): without one, they wait."""

    def __init__(
        self,
        model_id: ModelId,
        manifest: Manifest,
        settings: ModelSettings,
        *,
        rows_max: int = GENERATION_ROWS_MAX,
        kv_bytes_max: int = GENERATION_KV_BYTES_MAX,
    ) -> None:
        """`rows_max`: answers decoded together; `kv_bytes_max`: of keys and values of all answers of one worker."""
        assert manifest.generation is not None
        self.model_id = model_id
        self.manifest = manifest
        self.workers: list[GeneratorWorker] = []
        self.drains = False
        """Another model needs the room: no worker gets any more answers to make for now."""
        self.last_used: float | None = None
        self.jobs_done = 0
        self.items_done = 0
        self.item_s: float | None = None
        self.rested: Callable[[], None] = lambda: None
        """Called when a worker has become idle."""
        self._settings = worker_settings(manifest.generation, settings, rows_max, kv_bytes_max)
        self._queue: deque[GeneratorStream] = deque()
        self._rate = RateMeter()
        self._next = 1
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def running(self) -> int:
        return sum(len(worker.handed) for worker in self.workers)

    @property
    def crowded(self) -> bool:
        waiting = self._settings.batch_items_max * max(1, len(self.workers))
        return self.queued + self.running > waiting

    @property
    def best_items_s(self) -> float:
        return self._rate.best_items_s(trio.current_time())

    def submit(
        self, payload: InputBuffer, *, items_max: int, items_allowed: int, client: PeerId | None = None
    ) -> GeneratorStream:
        """An answer to be made, as `Engine.generate`; await its `begun`. Takes over `payload`. Raises ExecutionError: INPUT, BUSY,
        SHUTTING_DOWN."""
        try:
            request = _request_text(payload)
        finally:
            payload.release()
        if self._closed:
            raise unloaded()
        waiting = self.queued + self.running
        if waiting >= self._settings.queue_max:
            raise ExecutionError(f"{waiting} answers of this model are being made already", code="BUSY", retryable=True)
        self.last_used = trio.current_time()
        number, self._next = self._next, self._next + 1
        name = _OWN if client is None else client.encode()
        stream = GeneratorStream(
            number, request, client=name, items_max=items_max, items_allowed=items_allowed, maker=self
        )
        self._queue.append(stream)
        self._hand_over()
        return stream

    def add_worker(self, folder: Path, device: ChosenDevice) -> GeneratorWorker:
        """One more, that is yet to run."""
        worker = GeneratorWorker(folder, self.manifest, device, self._settings, self)
        self.workers.append(worker)
        return worker

    def drop_worker(self, worker: object) -> None:
        self.workers = [other for other in self.workers if other is not worker]

    def resume(self) -> None:
        self._hand_over()

    def fail_queued(self, error: ExecutionError) -> None:
        """No worker can be had for them."""
        while self._queue:
            self._queue.popleft().fail(copy_of(error))

    def close(self) -> None:
        """To be called when no worker is left."""
        self._closed = True
        self.fail_queued(unloaded())

    # --- answers that wait: implements `generator_stream.Maker` ---

    def allow(self, stream: GeneratorStream, items: int) -> None:
        """It is told when a worker gets the answer."""

    def stop(self, stream: GeneratorStream) -> None:
        self.abandon(stream)

    def abandon(self, stream: GeneratorStream) -> None:
        if stream in self._queue:
            self._queue.remove(stream)
        stream.fail(cancelled())

    # --- what workers tell: implements `generator_worker.Streams` ---

    def loaded(self, worker: GeneratorWorker) -> None:
        self._hand_over()

    def settled(self, stream: GeneratorStream, items: int, execute_s: float) -> None:
        self.last_used = trio.current_time()
        self.jobs_done += 1
        self.items_done += items
        self._rate.add(items, self.last_used)
        if items > 0:
            item_s = execute_s / items
            self.item_s = item_s if self.item_s is None else self.item_s + _AVERAGE_WEIGHT * (item_s - self.item_s)

    def at_rest(self) -> None:
        self.rested()

    def could_not_return(self, error: ExecutionError) -> None:
        if not any(worker.pid is not None for worker in self.workers):
            self.fail_queued(error)

    def _hand_over(self) -> None:
        """Give all that waits to the workers: each decodes what it has together, so the one with least gets the next."""
        if self.drains:
            return
        ready = [worker for worker in self.workers if worker.pid is not None]
        while ready and self._queue:
            min(ready, key=lambda worker: len(worker.handed)).hand(self._queue.popleft())


def worker_settings(spec: GenerationSpec, settings: ModelSettings, rows_max: int, kv_bytes_max: int) -> ModelSettings:
    """What a worker of a generation model is told: `batch_items_max` are the answers decoded together, `output_bytes_max` the bytes
    of their keys and values, which also come on top of what jobs may take."""
    kept = kv_bytes(spec, rows_max=rows_max, kv_bytes_max=kv_bytes_max)
    memory = None if settings.job_memory_bytes is None else settings.job_memory_bytes + kept
    return replace(settings, batch_items_max=rows_max, output_bytes_max=kept, job_memory_bytes=memory)


def kv_bytes(
    spec: GenerationSpec, *, rows_max: int = GENERATION_ROWS_MAX, kv_bytes_max: int = GENERATION_KV_BYTES_MAX
) -> int:
    """What keys and values of one worker may take beside the weights."""
    return min(kv_bytes_max, rows_max * spec.context * spec.kv_bytes_per_token)


def _request_text(payload: InputBuffer) -> str:
    """The request within a payload, not yet read. Raises ExecutionError(code="INPUT")."""
    try:
        decoded = decode_payload(payload.view)
        if not is_generation(decoded):
            text = f"a model that generates text takes one string tensor {GENERATE_INPUT!r} with a request in JSON"
            raise ExecutionError(text, code="INPUT")
        tensor = decoded.tensors[0]
        if len(tensor.data) > GENERATION_REQUEST_BYTES_MAX + 4:
            raise ExecutionError(f"a request has at most {GENERATION_REQUEST_BYTES_MAX} bytes", code="INPUT")
        texts = unpack_strings(tensor)
    except PayloadError as error:
        raise ExecutionError(str(error), code="INPUT") from error
    if len(texts) != 1:
        raise ExecutionError(f"{GENERATE_INPUT!r} must hold one text, not {len(texts)}", code="INPUT")
    return texts[0]
