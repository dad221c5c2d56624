"""Memory for jobs' inputs: counted against a bound, wiped when it is given back."""

from __future__ import annotations

from collections.abc import Callable

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block, BlockPool, wipe
from cocoon_p2p.limits import JOB_BYTES_MAX, MIB, WORKER_INLINE_BYTES_MAX

_WIPED_HERE_BYTES_MAX = MIB
"""Wiping takes 0.1 ms a MB; more would hold up the node, and a fresh block comes wiped from the kernel."""


class InputBuffers:
    """Makes them, up to `bytes_max` bytes at a time."""

    def __init__(self, bytes_max: int, forget: Callable[[Block], None]) -> None:
        """`forget` tells the workers that know a block that it is no more."""
        self._bytes_max = bytes_max
        self._bytes = 0
        self._pool = BlockPool()
        self._forget = forget

    def take(self, size: int) -> WorkerInput:
        """Raises ExecutionError(code="LIMITS")."""
        if not 0 < size <= JOB_BYTES_MAX:
            raise ExecutionError(f"an input has 1 to {JOB_BYTES_MAX} bytes, not {size}", code="LIMITS")
        if self._bytes + size > self._bytes_max:
            raise ExecutionError(
                f"memory for inputs is used up: {self._bytes_max} bytes for all jobs", code="LIMITS", retryable=True
            )
        if size <= WORKER_INLINE_BYTES_MAX:
            self._bytes += size
            return WorkerInput(self, size, None)
        try:
            block = self._pool.take(size)
        except (OSError, MemoryError) as error:
            raise ExecutionError(
                "there is no memory for an input of this size", code="LIMITS", retryable=True
            ) from error
        self._bytes += size
        return WorkerInput(self, size, block)

    @property
    def bytes_in_use(self) -> int:
        return self._bytes

    def give(self, size: int, block: Block | None, *, wiped: bool) -> None:
        """Called by `WorkerInput.release`."""
        self._bytes -= size
        if block is None:
            return
        if not self._pool.keeps(block) or (not wiped and size > _WIPED_HERE_BYTES_MAX):
            self._forget(block)
            block.close()
            return
        if not wiped:
            block.wipe(size)
        self._pool.give(block)

    def close(self) -> None:
        self._pool.close()


class WorkerInput:
    """One job's input: implements `InputBuffer`."""

    def __init__(self, owner: InputBuffers, size: int, block: Block | None) -> None:
        self._owner: InputBuffers | None = owner
        self.size = size
        self.block = block
        self.inline: bytearray | None = None
        if block is None:
            self.inline = bytearray(size)
            self._view = memoryview(self.inline)
        else:
            self._view = block.view(size)
        self.wiped = False
        """Set when the worker has wiped the block."""

    @property
    def view(self) -> memoryview:
        return self._view

    def release(self) -> None:
        owner, self._owner = self._owner, None
        if owner is None:
            return
        if self.inline is not None:
            wipe(self._view)
        self._view = memoryview(b"")
        owner.give(self.size, self.block, wiped=self.wiped)
        self.inline = self.block = None
