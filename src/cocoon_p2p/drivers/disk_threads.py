"""What blocks on the disk, or hashes a megabyte, in threads of its own; in a simulation, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import trio

from cocoon_p2p.limits import BLOB_CHECKS_AT_ONCE

Given = ParamSpec("Given")
Result = TypeVar("Result")


class DiskThreads:
    """`real` false: no threads, since virtual time would not wait for them."""

    def __init__(self, *, real: bool, at_once: int = BLOB_CHECKS_AT_ONCE) -> None:
        self._real = real
        self._limiter = trio.CapacityLimiter(at_once)

    @property
    def is_real(self) -> bool:
        """Whether there are threads."""
        return self._real

    def reporting(self, told: Callable[[], object]) -> Callable[[], None]:
        """What work in a thread calls to have `told` called by the task that waits for it, soon; what it says several times
        meanwhile is heard once. Without threads nothing is said before the work's end."""
        if not self._real:
            return lambda: None
        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(told, idempotent=True)

    async def run(self, work: Callable[Given, Result], *given: Given.args, **named: Given.kwargs) -> Result:
        """`work(*given, **named)`, which is waited for to its end even when the caller is cancelled."""
        if not self._real:
            await trio.lowlevel.checkpoint()
            return work(*given, **named)
        return await trio.to_thread.run_sync(lambda: work(*given, **named), limiter=self._limiter)
