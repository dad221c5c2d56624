"""What is thrown away is stopped wherever memory happens to be collected: in another thread, and after trio's end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
import trio.testing

from cocoon_p2p.drivers.stream_answer import Answer
from cocoon_p2p.ids import JobId
from cocoon_p2p.node_generate import Generation
from cocoon_p2p.node_map import MapItem, Spread, Work


async def forever(index: int, given: Any) -> MapItem:
    await trio.sleep_forever()
    raise AssertionError


def spread(nursery: trio.Nursery) -> tuple[Spread, trio.Event]:
    work = Work(range(10), forever, lambda: 3)
    nursery.start_soon(work.run)
    return Spread(nursery, work), work.stopped


def generation(nursery: trio.Nursery) -> tuple[Generation, trio.Event]:
    answer = Answer(JobId(bytes(16)), started=0.0)
    return Generation(nursery, cast(Any, None), cast(Any, None), answer), answer.stop_wanted


@pytest.mark.parametrize("begun", [spread, generation])
async def test_what_another_thread_throws_away_is_stopped(
    begun: Callable[[trio.Nursery], tuple[object, trio.Event]],
) -> None:
    async with trio.open_nursery() as nursery:
        holder, stopped = begun(nursery)
        held = [holder]
        del holder
        nursery.start_soon(stopped.wait)
        await trio.testing.wait_all_tasks_blocked()
        thread = threading.Thread(target=held.clear)
        thread.start()
        with trio.fail_after(5):
            await stopped.wait()
        thread.join()


def test_nothing_is_left_to_be_stopped_after_the_end() -> None:
    async def main() -> tuple[object, trio.Event]:
        async with trio.open_nursery() as nursery:
            return generation(nursery)

    holder, stopped = trio.run(main)
    del holder  # a warning of what was raised meanwhile would be an error
    assert not stopped.is_set()
