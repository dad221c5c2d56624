"""Price and depth of one model over time, in a terminal (plotext).

Prices are integers of nanogram up to the place where a chart needs a number to draw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from cocoon_p2p.units import format_gram

CHART_LINES = 12
CHART_COLUMNS_MIN = 40
TICKS = 4
STEP_DEFAULT_MS = 60_000
GAP_STEPS = 3
"""So many samples must be missing for a line to be broken: the node was off, or nobody served the model."""
BEST, MEDIAN, FREE, TOTAL = "green+", "blue+", "cyan+", "gray"
_TIME_STEPS_S = (60, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000)


@dataclass(frozen=True, slots=True)
class Point:
    """The market of one model at one moment, or in a stretch of time. Prices in nanogram."""

    at_ms: int
    best: int
    median: int
    slots_free: int
    slots_total: int
    providers: int


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn."""

    title: str
    """"minilm 3b5a1c2d, sealed"."""
    unit: str
    points: tuple[Point, ...]
    from_ms: int
    until_ms: int


def stretches(points: Sequence[Point], gap_ms: int) -> list[list[Point]]:
    """The points, parted where nothing is known for longer than `gap_ms`."""
    parts: list[list[Point]] = []
    for point in points:
        if not parts or point.at_ms - parts[-1][-1].at_ms > gap_ms:
            parts.append([])
        parts[-1].append(point)
    return parts


def thinned(points: Sequence[Point], from_ms: int, until_ms: int, count: int) -> list[Point]:
    """At most `count` points at even distances: of each stretch of time the lowest price, the mean of the medians, and the
    mean depth."""
    width = max(1, math.ceil((until_ms - from_ms + 1) / count))
    if len(points) <= count:
        return list(points)
    groups: dict[int, list[Point]] = {}
    for point in points:
        groups.setdefault((point.at_ms - from_ms) // width, []).append(point)
    return [_mean(group) for _, group in sorted(groups.items())]


def gap_of(points: Sequence[Point]) -> int:
    """Milliseconds without a sample after which a line is broken."""
    steps = sorted(after.at_ms - before.at_ms for before, after in pairwise(points))
    usual = steps[len(steps) // 2] if steps else STEP_DEFAULT_MS
    return GAP_STEPS * max(usual, STEP_DEFAULT_MS)


def terminal_charts(chart: Chart, columns: int, *, colour: bool) -> list[str]:
    """Two charts below each other, at most `columns` wide."""
    width = max(CHART_COLUMNS_MIN, columns)
    points = thinned(chart.points, chart.from_ms, chart.until_ms, 2 * width)
    parts = stretches(points, gap_of(points))
    price = _Figure(width, chart, f"{chart.title}: GRAM for a job of one {chart.unit}; ⣀⣀ best, ∙∙ median", colour)
    depth = _Figure(width, chart, "slots: ⣀⣀ free, ∙∙ in all", colour)
    for part in parts:
        times = [point.at_ms for point in part]
        price.dots(times, [point.median for point in part], MEDIAN)
        price.line(times, [point.best for point in part], BEST)
        depth.dots(times, [point.slots_total for point in part], TOTAL)
        depth.line(times, [point.slots_free for point in part], FREE)
    prices = [value for point in points for value in (point.best, point.median)]
    amounts, amount_texts = _price_ticks(min(prices), max(prices))
    slots = nice_ticks(0, max(1, *(point.slots_total for point in points)), TICKS)
    slot_texts = [str(tick) for tick in slots]
    widest = max(map(len, amount_texts + slot_texts))  # the same for both: so their times stand below each other
    price.y_ticks(amounts, [text.rjust(widest) for text in amount_texts])
    depth.y_ticks(slots, [text.rjust(widest) for text in slot_texts])
    return [*price.lines(), "", *depth.lines()]


class _Figure:
    """One chart of plotext's, which has a single one that everything is drawn into."""

    def __init__(self, width: int, chart: Chart, title: str, colour: bool) -> None:
        import plotext

        self._plotext = plotext
        self._figure = plotext.figure
        self._colour = colour
        self._figure.clear()
        self._drawn: list[Any] = []
        self._width = width
        self._title = title if len(title) <= width else f"{title[: width - 1]}…"
        self._chart = chart
        self._ticks: tuple[Sequence[int], Sequence[str]] = ((), ())

    def line(self, times: Sequence[int], values: Sequence[int], colour: str) -> None:
        self._drawn.append((times, values, "braille", colour))

    def dots(self, times: Sequence[int], values: Sequence[int], colour: str) -> None:
        self._drawn.append((times, values, "∙", colour))

    def y_ticks(self, places: Sequence[int], labels: Sequence[str]) -> None:
        self._ticks = (places, labels)

    def lines(self) -> list[str]:
        """Drawn now, since plotext has only one figure at a time."""
        figure, chart = self._figure, self._chart
        figure.clear()
        figure.theme("colorless")
        figure.plot_size(self._width, CHART_LINES)
        for times, values, symbol, colour in self._drawn:
            marker = self._plotext.marker(symbol, colour) if self._colour else self._plotext.marker(symbol)
            signal = figure.signal(list(times), list(values), marker=marker)
            figure.draw(signal.lines() if len(times) > 1 else signal)
        places, labels = self._ticks
        figure.ruler("x").lim(chart.from_ms, chart.until_ms)
        figure.ruler("x").ticks(*time_ticks(chart.from_ms, chart.until_ms, max(3, self._width // 14)))
        figure.ruler("y").lim(places[0], places[-1])
        figure.ruler("y").ticks(list(places), list(labels))
        text = str(figure.build().string(not self._colour))
        figure.clear()
        return [self._title, *(line.rstrip() for line in text.splitlines())]


def nice_ticks(low: int, high: int, count: int) -> list[int]:
    """Whole numbers at even distances of 1, 2 or 5 times a power of ten, the first at most `low`, the last at least
    `high`."""
    raw = max(1, (high - low) / count)
    power = 10 ** math.floor(math.log10(raw))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= raw)
    first = low // step * step
    ticks = [first]
    while ticks[-1] < high:
        ticks.append(ticks[-1] + step)
    return ticks if len(ticks) > 1 else [first, first + step]


def time_ticks(from_ms: int, until_ms: int, count: int) -> tuple[list[int], list[str]]:
    """At most about `count` moments at full hours or days of local time, and what they are called."""
    span_s = max(1.0, (until_ms - from_ms) / 1000)
    step_s = next((step for step in _TIME_STEPS_S if span_s / step <= count), _TIME_STEPS_S[-1])
    offset = datetime.fromtimestamp(until_ms / 1000).astimezone().utcoffset()
    offset_s = 0 if offset is None else int(offset.total_seconds())
    first_s = -(-(from_ms // 1000 + offset_s) // step_s) * step_s - offset_s
    places = list(range(first_s * 1000, until_ms + 1, step_s * 1000))
    form = "%H:%M" if step_s < 86_400 and span_s <= 86_400 else "%a %H:%M" if step_s < 86_400 else "%d %b"
    return places, [datetime.fromtimestamp(place / 1000).astimezone().strftime(form) for place in places]


def _price_ticks(low: int, high: int) -> tuple[list[int], list[str]]:
    """A price that never moves gets some room, too."""
    room = max(1, (high - low) // 10, high // 20 if low == high else 0)
    ticks = nice_ticks(max(0, low - room), high + room, TICKS)
    return ticks, [gram_text(tick) for tick in ticks]


def gram_text(nanogram: int) -> str:
    """An amount of GRAM without the word."""
    return format_gram(nanogram).removesuffix(" GRAM")


def _mean(group: Sequence[Point]) -> Point:
    count = len(group)
    return Point(
        at_ms=sum(point.at_ms for point in group) // count,
        best=min(point.best for point in group),
        median=sum(point.median for point in group) // count,
        slots_free=sum(point.slots_free for point in group) // count,
        slots_total=sum(point.slots_total for point in group) // count,
        providers=sum(point.providers for point in group) // count,
    )


def wants_colour(stream: Any) -> bool:
    """As for `output.paint`."""
    return bool(stream.isatty()) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
