"""A line on a terminal that shows how far a copy or a download is, how fast it goes, and how long it will take."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from cocoon_p2p.cli.output import printable, terminal_columns
from cocoon_p2p.cli.waiting import MOMENT_S
from cocoon_p2p.cli.words import duration, size

_REDRAW_S = 0.1
_SPEED_WINDOW_S = 5.0
_BAR_MAX, _BAR_MIN = 24, 6
_CLEAR = "\r\x1b[K"


class TransferBar:
    """A `models.source.Progress`. Nothing is shown where stderr is no terminal, nor of what takes less than a moment. A context
    manager: leaving it clears the line."""

    def __init__(self, stream: TextIO | None = None, *, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._now = now
        self._lock = threading.Lock()
        self._watched = self._stream.isatty()
        self._shown = False
        self._what, self._size, self._done = "", 0, 0
        self._began = self._drawn = now()
        self._samples: deque[tuple[float, int]] = deque([(self._began, 0)])

    def __enter__(self) -> TransferBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._clear()

    def begin(self, what: str, size: int) -> None:
        with self._lock:
            self._clear()
            self._start(what, size)

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = self._now()
            if self._watched and now - self._began >= MOMENT_S and now - self._drawn >= _REDRAW_S:
                self._samples.append((now, self._done))
                while len(self._samples) > 2 and now - self._samples[0][0] > _SPEED_WINDOW_S:
                    self._samples.popleft()
                self._drawn, self._shown = now, True
                line = transfer_line(self._what, self._done, self._size, self._speed(), terminal_columns() - 1)
                self._stream.write(f"{_CLEAR}{line}")
                self._stream.flush()

    def _start(self, what: str, size: int) -> None:
        self._what, self._size, self._done = what, size, 0
        self._began = self._drawn = self._now()
        self._samples = deque([(self._began, 0)])

    def _speed(self) -> float:
        (earlier, before), (later, after) = self._samples[0], self._samples[-1]
        return max(0.0, (after - before) / (later - earlier)) if later > earlier else 0.0

    def _clear(self) -> None:
        if self._shown:
            self._stream.write(_CLEAR)
            self._stream.flush()
            self._shown = False


def transfer_line(what: str, done: int, total: int, speed: float, width: int) -> str:
    """ "copying model.onnx [######....] 60%  1.2 of 2.0 GB  310.0 MB/s  2 s left" in at most `width` characters. `speed` in bytes a
    second; without a `total` there is no end to be told."""
    parts = [_of(done, total)] if total else [size(done)] if done else []
    if speed > 0:
        parts.append(f"{size(speed)}/s")
    if total and speed > 0:
        parts.append(f"{duration(max(0, total - done) / speed + 1)} left")
    told, head = "  ".join(parts), printable(what)
    room = width - len(head) - len(told) - len("  [] 100%  ")
    if total and room >= _BAR_MIN:
        share = min(1.0, done / total)
        length = min(_BAR_MAX, room)
        filled = int(share * length)
        told = f"[{'#' * filled}{'.' * (length - filled)}] {int(share * 100):3d}%  {told}"
    return f"{head}  {told}".rstrip()[: max(width, 0)]


def _of(done: int, total: int) -> str:
    """ "1.2 of 2.0 GB", "900.0 MB of 2.0 GB"."""
    little, whole = size(done), size(total)
    number, _, unit = little.partition(" ")
    return f"{number if unit == whole.partition(' ')[2] else little} of {whole}"
