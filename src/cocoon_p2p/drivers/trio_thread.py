"""Having something done in the trio thread by code that may run anywhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import trio


def in_trio_thread(call: Callable[[], object]) -> Callable[[], None]:
    """What has `call` called soon in the thread that asks for this, which is trio's. It may be said in any thread and in the middle
    of anything, as by `__del__`, which runs where memory happens to be collected; once trio has ended nothing is left to be done."""
    token = trio.lowlevel.current_trio_token()

    def say() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(call)

    return say
