"""The port `Engine`: payload in, payload out, on whatever device this machine has.

Payloads are the containers of `cocoon_p2p.tensors` (payload/1). An engine runs each loaded model in a worker process of
its own; `cocoon_p2p.testing.engine_contract` holds the tests that every engine passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cocoon_p2p.ids import ModelId


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


class Engine(Protocol):
    """Made by an async context manager; on exit every worker process has ended."""

    async def load(self, model_id: ModelId, folder: Path) -> ModelStatus:
        """Start a worker for the model whose verified files stand in `folder` (`models.layout`). Idempotent.
        Raises ExecutionError: not an ONNX model, not enough memory, the worker died (with its reason)."""

    async def unload(self, model_id: ModelId) -> None: ...

    def models(self) -> tuple[ModelStatus, ...]: ...

    def input_buffer(self, payload_bytes: int) -> InputBuffer:
        """Raises ExecutionError(code="LIMITS") when memory for inputs is used up."""

    async def run(self, model_id: ModelId, payload: InputBuffer, *, items_max: int) -> ExecutionResult:
        """Queue, run and return. Cancelling takes the job from the queue, or ends its run. Takes over `payload`.
        Raises ExecutionError with code INPUT (what the model wants instead), ITEMS (more than items_max), BUSY (queue
        full), MODEL (the run failed), WORKER (the worker died; it is started again), LIMITS (output too large)."""
