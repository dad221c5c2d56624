"""What is measured on every stack, on anything that can send and receive."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import trio

from bench.figures import percentile

Step = Callable[[], Awaitable[Any]]
OpenStep = Callable[[], AbstractAsyncContextManager[Step]]
"""A step on a stream that is open as long as the context."""
PIECE_BYTES = 1 << 20
WARM_UP_STEPS = 50


def summary(took_ms: list[float]) -> dict[str, float]:
    return {"p50_ms": percentile(took_ms, 50), "p99_ms": percentile(took_ms, 99)}


async def timed_each(step: Step, count: int) -> list[float]:
    """Milliseconds of each of `count` steps, one after the other, after a warm-up."""
    for _ in range(min(WARM_UP_STEPS, count)):
        await step()
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        await step()
        took.append((time.perf_counter() - begun) * 1000)
    return took


async def rate(open_step: OpenStep, in_flight: int, seconds: float) -> float:
    """Steps a second with so many in flight, each on a stream of its own."""
    done = 0
    end = 0.0

    async def repeat(step: Step) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await step()
            done += 1

    async with AsyncExitStack() as stack:
        steps = [await stack.enter_async_context(open_step()) for _ in range(in_flight)]
        for step in steps:
            await step()
        begun = time.perf_counter()
        end = begun + seconds
        async with trio.open_nursery() as nursery:
            for step in steps:
                nursery.start_soon(repeat, step)
        return done / (time.perf_counter() - begun)


async def beside(step: Step, bulk: Step, pause_s: float = 0.002) -> list[float]:
    """Milliseconds of a step that is repeated, with pauses, while `bulk` runs."""
    took: list[float] = []

    async def repeat() -> None:
        while True:
            begun = time.perf_counter()
            await step()
            took.append((time.perf_counter() - begun) * 1000)
            await trio.sleep(pause_s)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(repeat)
        await bulk()
        nursery.cancel_scope.cancel()
    return took
