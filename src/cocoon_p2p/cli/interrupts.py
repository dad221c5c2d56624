"""SIGTERM as Ctrl-C, for commands that go on until somebody ends them, and both for work that must end in order."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import trio

Result = TypeVar("Result")


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM raises KeyboardInterrupt: `timeout 10 cocoon-node ping` gets a summary, too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def until_interrupted(work: Callable[[], Awaitable[Result]]) -> Result | None:
    """What `work` returns; None after SIGINT or SIGTERM, which cancel it, so that it ends in order: a KeyboardInterrupt
    would come up in the midst of whatever trio does."""
    import trio

    from cocoon_p2p.drivers.plain_nursery import open_plain_nursery

    found: Result | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(_cancel_at_signal, signals, nursery.cancel_scope)
            found = await work()
            nursery.cancel_scope.cancel()
    return found


async def _cancel_at_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    await anext(signals)
    scope.cancel()
