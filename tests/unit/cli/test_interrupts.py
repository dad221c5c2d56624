"""A command that is interrupted ends in order, whichever signal it was."""

from __future__ import annotations

import signal

import pytest
import trio

from cocoon_p2p.cli.interrupts import until_interrupted


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
