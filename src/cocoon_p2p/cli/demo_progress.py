"""What the demo is doing, on stderr: one line with a bar that is drawn again and again on a terminal, else a line a step."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TextIO

import trio

from cocoon_p2p.cli.output import paint, printable, terminal_columns

BAR_CHARS = 20
REDRAW_S = 0.25
_ERASE = "\r\x1b[K"


class Progress:
    """`begin` says what is under way, `done` that another of `total` steps is. Nothing is drawn before the first."""

    def __init__(self, total: int, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._stream = stream
        self._clock = clock
        self._started = clock()
        self._steps = 0
        self._doing = ""
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb"

    def begin(self, doing: str) -> None:
        self._doing = doing
        self._draw()

    def done(self, what: str) -> None:
        """Plain output has a line for what was done; a live line moves its bar."""
        self._steps += 1
        if self.live:
            self._draw()
        else:
            seconds = self._clock() - self._started
            print(
                f"cocoon-node: [{self._steps}/{self._total}] {printable(what)} ({seconds:.1f} s)",
                file=self._stream,
                flush=True,
            )

    def clear(self) -> None:
        """Take the live line away, to print something else; the next `begin`, `done` or redrawing shows it again."""
        if self.live and self._doing:
            print(_ERASE, end="", file=self._stream, flush=True)

    def finish(self) -> None:
        """Take the live line away for good."""
        self.clear()
        self._doing = ""

    async def redraw(self) -> None:
        """A task that keeps the seconds of a live line running."""
        while self.live:
            await trio.sleep(REDRAW_S)
            self._draw()

    def _draw(self) -> None:
        if self.live and self._doing:
            print(f"{_ERASE}{self._line()}", end="", file=self._stream, flush=True)

    def _line(self) -> str:
        full, empty = blocks(self._stream)
        filled = BAR_CHARS * min(self._steps, self._total) // self._total
        tail = f" {self._clock() - self._started:4.1f} s  {printable(self._doing)}"
        room = max(0, terminal_columns() - 1 - BAR_CHARS)
        bar = paint(full * filled, "green", self._stream) + paint(empty * (BAR_CHARS - filled), "dim", self._stream)
        return bar + (tail if len(tail) <= room else f"{tail[: room - 1]}…")


def blocks(stream: TextIO) -> tuple[str, str]:
    """What bars are drawn with, full and empty, in what `stream` can show."""
    return ("█", "░") if "utf" in (stream.encoding or "").lower() else ("#", ".")
