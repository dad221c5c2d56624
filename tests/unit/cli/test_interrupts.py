"""A command that is interrupted ends in order, whichever signal it was."""

from __future__ import annotations

import signal
from collections.abc import Coroutine
from typing import Any

import pytest
import trio

from cocoon_p2p.cli.interrupts import run_async, sigterm_as_ctrl_c, until_interrupted


async def test_what_is_not_interrupted_gives_its_result() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def work() -> int:
        return 7

    assert await until_interrupted(work) == 7
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_cancels_it_and_it_tidies_up(number: signal.Signals) -> None:
    tidied = []

    async def work() -> int:
        try:
            signal.raise_signal(number)
            await trio.sleep_forever()
        finally:
            tidied.append(number)

    assert await until_interrupted(work) is None
    assert tidied == [number]


def test_ctrl_c_while_a_task_is_started_loses_no_task() -> None:
    """As trio has it by default the signal would come up within `start_soon`, in a task other than the main one, and the
    nursery would wait for a task that never began."""
    began = []
    signalled = trio.Event()

    async def child() -> None:
        began.append("child")
        await trio.sleep_forever()

    def starting() -> Coroutine[Any, Any, None]:
        signal.raise_signal(signal.SIGINT)
        began.append("the rest of what starts it")
        return child()

    async def starter() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(starting)
            began.append("the rest of the task that starts it")
            signalled.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(starter)
            await signalled.wait()
            await trio.sleep_forever()

    with pytest.RaisesGroup(KeyboardInterrupt, allow_unwrapped=True, flatten_subgroups=True):
        run_async(main)
    assert began == ["the rest of what starts it", "the rest of the task that starts it", "child"]


def test_sigterm_comes_up_where_ctrl_c_does() -> None:
    began = []

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        began.append("the rest until the main task waits")
        await trio.sleep_forever()

    with sigterm_as_ctrl_c(), pytest.raises(KeyboardInterrupt):
        run_async(main)
    assert began


def test_sigterm_is_heard_where_ctrl_c_is_ignored() -> None:
    """As scripts have it for what they start with &."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def main() -> None:
        signal.raise_signal(signal.SIGTERM)
        with trio.fail_after(5):
            await trio.sleep_forever()

    try:
        with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
            run_async(main)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
