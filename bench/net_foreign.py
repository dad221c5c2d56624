"""Large transfers between us, or py-libp2p as shipped, and js- and go-libp2p: there and back through an echo."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from bench.figures import Aim, Details, Figure
from bench.plan import Plan, say

_INTEROP = Path(__file__).parents[1] / "tests" / "interop"
sys.path.append(str(_INTEROP))
from foreign import ForeignError, open_json_lines_peer  # noqa: E402
from go_daemon import open_go_daemon  # noqa: E402
from makes import Unavailable, js_peer, wheel  # noqa: E402

FRAME_BYTES = 1 << 20
FRAMES = 32
"""js-libp2p takes about a second for this there and back."""
WE_ASK, IT_ASKS = "we ask", "it asks"
OURS, LIBRARY = "ours", "as shipped"
PATIENCE_S = 60.0
Open = Callable[[], AbstractAsyncContextManager[Any]]


async def foreign_figures(plan: Plan, details: Details) -> list[Figure]:
    figures: list[Figure] = []
    # p2pd closes a stream for both directions at once, and py-libp2p's echo ends by the other's end: they would wait for ever.
    for make, get, who_asks in (("js-libp2p", _js, (WE_ASK, IT_ASKS)), ("go-libp2p", _go, (WE_ASK,))):
        try:
            opener = get()
        except Unavailable as reason:
            say(f"net: without {make}: {reason}")
            details[make] = f"not measured: {reason}"
            continue
        figures += await _compare(make, opener, who_asks, plan, details)
    return figures


def _js() -> Open:
    return partial(open_json_lines_peer, js_peer())


def _go() -> Open:
    folder = wheel("go", "go-libp2p")
    (folder / "hivemind" / "hivemind_cli" / "p2pd").chmod(0o755)
    return partial(open_go_daemon, folder / "hivemind")


def _ours() -> AbstractAsyncContextManager[Any]:
    return open_json_lines_peer([sys.executable, _INTEROP / "our_peer.py"])


def _library() -> AbstractAsyncContextManager[Any]:
    return open_json_lines_peer([sys.executable, _INTEROP / "py_peer.py"])


async def _compare(make: str, opener: Open, who_asks: Sequence[str], plan: Plan, details: Details) -> list[Figure]:
    rates: dict[tuple[str, str], list[float]] = {}
    failed: Counter[str] = Counter()
    async with opener() as foreign, _ours() as ours:
        await _connect(ours, foreign)
        for number in range(plan.rounds):
            for who in who_asks:
                rates.setdefault((OURS, who), []).append(await _rate(ours, foreign, who))
                try:
                    # A new one each time: a stream that it reset spoils the next.
                    async with _library() as library:
                        await _connect(library, foreign)
                        rates.setdefault((LIBRARY, who), []).append(await _rate(library, foreign, who))
                except* (ForeignError, ValueError, trio.TooSlowError):
                    failed[who] += 1
                    rates.setdefault((LIBRARY, who), []).append(0.0)
            say(f"net: {make}, round {number + 1} of {plan.rounds}")
    if failed:
        details[f"{make}, as shipped"] = {f"{who}: failed rounds": count for who, count in failed.items()}
    return [figure for who in who_asks for figure in _figures(make, who, rates[OURS, who], rates[LIBRARY, who])]


def _figures(make: str, who: str, ours: list[float], shipped: list[float]) -> Iterator[Figure]:
    yield Figure(f"{make} echoes, {who}", "MB/s", tuple(ours))
    yield Figure("  as shipped (0: it failed)", "MB/s", tuple(shipped))
    whole = [(our, their) for our, their in zip(ours, shipped, strict=True) if their]
    if whole:
        yield Figure("  ours / as shipped", "", tuple(our / their for our, their in whole), Aim(">=", 1))


async def _connect(mine: Any, foreign: Any) -> None:
    await mine.call("connect", address=f"{foreign.addresses[0]}/p2p/{foreign.peer_id}")


async def _rate(mine: Any, foreign: Any, who: str) -> float:
    """MB/s, the bytes of both directions counted."""
    asking, asked = (mine, foreign) if who == WE_ASK else (foreign, mine)
    begun = time.perf_counter()
    with trio.fail_after(PATIENCE_S):
        same = await asking.call("echo", peer=asked.peer_id, sizes=[FRAME_BYTES] * FRAMES)
    if not same:
        raise ValueError("something else came back")
    return 2 * FRAME_BYTES * FRAMES / (time.perf_counter() - begun) / 1e6
