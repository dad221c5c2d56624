"""A job within the engine, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.batching import BatchKey
from cocoon_p2p.execution.blocks import wipe
from cocoon_p2p.execution.input_buffers import WorkerInput


@dataclass(slots=True, eq=False)
class EngineJob:
    number: int
    buffer: WorkerInput
    items: int
    as_text: bool
    outputs: tuple[str, ...]
    key: BatchKey | None
    queued_at: float
    """trio's clock."""
    handed_at: float = 0.0
    ended: trio.Event = field(default_factory=trio.Event)
    result: EngineResult | None = None
    error: ExecutionError | None = None
    abandoned: bool = False
    """Nobody waits for it any more."""
    ending: bool = False
    """The worker was told to end its run, and said that it is in it."""

    suspect: bool = False
    """It was in a worker that died, with others: it runs alone, so that the guilty one is found and the others are not
    harmed by it."""
    verdict: ExecutionError | None = None
    """It took more than its share: what it fails with when its run has ended."""

    def finish(self, result: EngineResult) -> None:
        self.buffer.release()
        if self.abandoned:
            result.release()
        else:
            self.result = result
        self.ended.set()

    def fail(self, error: ExecutionError) -> None:
        self.buffer.release()
        self.error = error
        self.ended.set()


class EngineResult:
    """Implements `ExecutionResult`."""

    def __init__(
        self, payload: memoryview, items: int, queue_s: float, execute_s: float, give_back: Callable[[], None] | None
    ) -> None:
        """`give_back` returns shared memory to its worker; without it `payload` is this result's own, and writable."""
        self._payload = payload
        self._give_back = give_back
        self._released = False
        self.items = items
        self.queue_s = queue_s
        self.execute_s = execute_s

    @property
    def payload(self) -> memoryview:
        """The output's container, until `release`."""
        return self._payload

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        if self._give_back is None:
            wipe(self._payload)
        self._payload = memoryview(b"")
        if self._give_back is not None:
            self._give_back()

    def __enter__(self) -> EngineResult:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.release()
