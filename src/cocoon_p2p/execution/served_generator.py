"""The answers of one generation model, whichever of its workers makes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.answer_wait import steps_until_place
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.endings import cancelled
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.generator_worker import GeneratorWorker
from cocoon_p2p.execution.model_queue import ModelQueue
from cocoon_p2p.execution.port import InputBuffer
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.generation import GENERATE_INPUT, is_generation
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.limits import GENERATION_KV_BYTES_MAX, GENERATION_REQUEST_BYTES_MAX, GENERATION_ROWS_MAX
from cocoon_p2p.models.generation_spec import GenerationSpec
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.tensors import PayloadError, decode_payload, unpack_strings

_OWN = b"own"
"""Instead of a client's name, for this node's own answers: shorter than any."""


class ServedGenerator(ModelQueue[GeneratorStream, GeneratorWorker]):
    """Implements `ModelJobs`. Answers come by `submit`."""

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
        settings = worker_settings(manifest.generation, settings, rows_max, kv_bytes_max)
        super().__init__(model_id, manifest, settings)
        self._context, self._token_bytes = manifest.generation.context, manifest.generation.kv_bytes_per_token
        self._next = 1

    @property
    def crowded(self) -> bool:
        waiting = self._settings.batch_items_max * max(1, len(self.workers))
        return self.queued + self.running > waiting

    @property
    def wait_s(self) -> float | None:
        needs = self._needs()
        return steps_until_place(self._places(), needs) * self._step_s

    @property
    def next_end_s(self) -> float | None:
        needs = self._needs()[: self._places()]
        return min(needs) * self._step_s if needs else None

    def submit(
        self, payload: InputBuffer, *, items_max: int, items_allowed: int, client: PeerId | None = None
    ) -> GeneratorStream:
        """An answer to be made, as `Engine.generate`; await its `begun`. Takes over `payload`. Raises ExecutionError: INPUT, BUSY,
        SHUTTING_DOWN."""
        try:
            request = _request_text(payload)
        finally:
            payload.release()
        number, self._next = self._next, self._next + 1
        name = _OWN if client is None else client.encode()
        stream = GeneratorStream(
            number, request, client=name, items_max=items_max, items_allowed=items_allowed, maker=self
        )
        self._enqueue(stream, self.queued + self.running, "answers of this model are being made")
        return stream

    def add_worker(self, folder: Path, device: ChosenDevice) -> GeneratorWorker:
        """One more, that is yet to run."""
        worker = GeneratorWorker(folder, self.manifest, device, self._settings, self)
        self.workers.append(worker)
        return worker

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
        self.hand_over()

    def settled(self, stream: GeneratorStream, items: int, execute_s: float) -> None:
        self.last_used = trio.current_time()
        self._note_done(items, execute_s)

    def hand_over(self) -> None:
        """Give all that waits to the workers: each decodes what it has together, so the one with least gets the next."""
        if self.drains:
            return
        ready = [worker for worker in self.workers if worker.pid is not None]
        while ready and self._queue:
            min(ready, key=lambda worker: len(worker.handed)).hand(self._queue.popleft())

    def _needs(self) -> list[int]:
        """The tokens that each answer may still need, but for those that wait to be paid or read: whoever comes gets the place of
        such a one."""
        handed = (stream for worker in self.workers for stream in worker.handed.values() if stream.awaits_work)
        return [stream.items_left(self._context) for stream in (*sorted(handed, key=_by_number), *self._queue)]

    def _places(self) -> int:
        """Answers that the workers decode together now: fewer where they are so long that memory for keys and values is short."""
        longest = max((stream.items_held for worker in self.workers for stream in worker.handed.values()), default=0)
        in_memory = self._settings.output_bytes_max // ((longest + 1) * self._token_bytes)
        loaded = sum(worker.pid is not None for worker in self.workers)
        return max(1, min(self._settings.batch_items_max, in_memory)) * max(1, loaded)

    @property
    def _step_s(self) -> float:
        """Of the slowest worker; 0 before it has made two steps."""
        return max((worker.pace.step_s or 0.0 for worker in self.workers), default=0.0)


def _by_number(stream: GeneratorStream) -> int:
    return stream.number


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
