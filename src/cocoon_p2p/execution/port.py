"""The port `Engine`: payload in, payload out, on whatever device this machine has.

Payloads are the containers of `cocoon_p2p.tensors` (payload/1). An engine runs each loaded model in a worker process of
its own; `cocoon_p2p.testing.engine_contract` holds the tests that every engine passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cocoon_p2p.ids import ModelId, PeerId


@dataclass(frozen=True, slots=True)
class Device:
    """What a model runs on, and why that."""

    name: str
    """"cpu", "cuda:0" …, as announced."""
    reason: str
    """One sentence for people: what was probed and what came of it."""


@dataclass(frozen=True, slots=True)
class ModelStatus:
    model_id: ModelId
    device: Device
    loaded: bool
    queued: int
    running: int
    jobs_done: int
    item_s: float | None
    """Moving average of seconds of work for one item; None before the first job."""
    pid: int | None
    items_done: int = 0
    best_items_s: float = 0.0
    """Items a second in the best ten seconds of the last ten minutes (execution/rate.py); 0 when nothing was done."""
    warm: bool = True
    """A worker has it, or is being started again; otherwise the next job waits for a load."""
    loading: bool = False
    load_s: float | None = None
    """For a job that came now: how long until the model is loaded, as far as can be told. None when it is loaded."""
    replicas: int = 1
    """Workers that have it loaded."""
    devices: tuple[Device, ...] = ()
    """Of each worker; empty while there is none."""
    memory_bytes: int | None = None
    """What its workers take, measured after the load; before the first load, what they are expected to take."""
    last_used: float | None = None
    """trio's clock: when its last job came or ended; None before the first."""
    problem: str = ""
    """Why it could not be loaded the last time; empty when it could."""
    wait_s: float | None = None
    """Of a model whose answers are made together: how long one that came now would wait for its place among them, the load apart;
    0 when there is a place. None for one whose jobs wait for all before them."""
    next_end_s: float | None = None
    """Until the first of the answers under way may be at its end; None when there is none, or they are not made together."""


class InputBuffer(Protocol):
    """Memory for one job's input, in the form that the worker reads it (shared memory above a bound)."""

    @property
    def view(self) -> memoryview:
        """Writable, exactly as long as was asked for."""

    def release(self) -> None:
        """Give it back, wiped. Idempotent. The engine releases by itself the buffer of a job that it ran."""


class ExecutionResult(Protocol):
    """A finished job's output payload. Read `payload`, then `release()`; usable as a context manager."""

    @property
    def payload(self) -> memoryview: ...

    @property
    def items(self) -> int:
        """Items that were worked on, counted by the rule of job/1 §5: the price's measure."""

    @property
    def queue_s(self) -> float: ...

    @property
    def execute_s(self) -> float: ...

    def release(self) -> None: ...

    def __enter__(self) -> ExecutionResult: ...

    def __exit__(self, *exc_info: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Produced:
    """Some tokens of an answer, as soon as they are there."""

    data: bytes
    """An encoded `generation.Piece`: what one frame carries."""
    items: int
    """Tokens worked on until now, those of the prompt among them: the price's measure."""
    final: bool
    execute_s: float = 0.0
    """Work on this answer until now: its share of each run."""


class TokenStream(Protocol):
    """An answer under way. An async context manager; leaving it ends the work within 100 ms."""

    @property
    def prompt_items(self) -> int:
        """Tokens of the prompt (and of what the answer goes on behind): worked on before the first token comes."""

    @property
    def queue_s(self) -> float: ...

    async def receive(self) -> Produced:
        """The next tokens; whatever came since the last call together. Not to be called after the final one. Raises ExecutionError as
        `Engine.run`."""

    def allow(self, items: int) -> None:
        """Work on so many items in all, and pause there until more are allowed: what is paid for. Never fewer than before."""

    def stop(self) -> None:
        """End after the token that is being made: the final piece comes with finish "caller"."""

    async def __aenter__(self) -> TokenStream: ...

    async def __aexit__(self, *exc_info: object) -> None: ...


class Engine(Protocol):
    """Made by an async context manager; on exit every worker process has ended."""

    async def load(self, model_id: ModelId, folder: Path, *, keep: bool | None = None) -> ModelStatus:
        """Make the model known whose verified files stand in `folder` (`models.layout`), and start a worker for it. Idempotent.
        `keep` None: only when there is room beside the others, and until it is idle for long, or the room is needed; a job that comes
        when it is not loaded waits until it is. True: at once, and for good. False: not before the first job.
        Raises ExecutionError: not an ONNX model, the worker died (with its reason), LIMITS (larger than the memory for models)."""

    async def unload(self, model_id: ModelId) -> None: ...

    def models(self) -> tuple[ModelStatus, ...]: ...

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        """Raises ExecutionError(code="LIMITS") when memory for inputs is used up."""

    async def run(
        self, model_id: ModelId, payload: InputBuffer, *, items_max: int, client: PeerId | None = None
    ) -> ExecutionResult:
        """Queue, run and return. Cancelling takes the job from the queue, or ends its run. Takes over `payload`. `client` is whose
        job it is (None: this node's own): what stays from one job to the next is kept apart by it.
        Raises ExecutionError with code INPUT (what the model wants instead), ITEMS (more than items_max), BUSY (queue
        full), MODEL (the run failed), WORKER (the worker died; it is started again), LIMITS (output too large)."""

    async def generate(
        self,
        model_id: ModelId,
        payload: InputBuffer,
        *,
        items_max: int,
        items_allowed: int,
        client: PeerId | None = None,
    ) -> TokenStream:
        """For a model of kind "generation": read the request (`generation.request_of`), and begin. Returns when the prompt's tokens
        are counted. `items_max` bounds prompt and answer together: an answer ends there with finish "length"; `items_allowed` is as in
        `TokenStream.allow`, `client` as in `run`. Takes over `payload`. Raises ExecutionError: INPUT, ITEMS (the prompt alone has more
        than items_max, or than the model's context), BUSY, MODEL, WORKER, LIMITS."""
