"""SIGTERM as Ctrl-C, for commands that go on until somebody ends them, and both for work that must end in order."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

if TYPE_CHECKING:
    import trio

Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")


def run_async(work: Callable[[*Arguments], Awaitable[Result]], *arguments: *Arguments) -> Result:
    """`trio.run`, in which Ctrl-C is raised where the main task waits and nowhere else. As a rule trio raises it between any
    two instructions of any task, those of `Nursery.start_soon` included: the nursery then waits for a child that never
    began, and the command for ever."""
    import trio

    return trio.run(work, *arguments, restrict_keyboard_interrupt_to_checkpoints=True)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Within the block SIGTERM is Ctrl-C: `timeout 10 cocoon-node ping` gets a summary, too. Within `run_async` it comes up where
    Ctrl-C does. Ctrl-C is heard here even if it was ignored, as scripts have it for what they start with &: SIGTERM would be lost."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


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
