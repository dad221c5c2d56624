"""Charts in a terminal: their size, their axes, and what is drawn where nothing is known."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.cli.charts import (
    Chart,
    Point,
    gap_of,
    nice_ticks,
    stretches,
    terminal_charts,
    thinned,
    time_ticks,
)

START = 1_772_323_200_000
"""2026-03-01 00:00 UTC."""
MINUTE, HOUR = 60_000, 3_600_000


def point(at_ms: int, best: int = 100_000, median: int = 120_000, free: int = 5) -> Point:
    return Point(at_ms, best, median, free, 12, 3)


def chart(points: list[Point]) -> Chart:
    return Chart("minilm 3b5a1c2d, sealed", "item", tuple(points), points[0].at_ms, points[-1].at_ms + 1)


@pytest.mark.parametrize("columns", [40, 80, 120, 160])
def test_two_charts_fit_the_terminal(columns: int) -> None:
    rng = random.Random(columns)
    points = [
        point(START + i * MINUTE, rng.randrange(10**6), rng.randrange(10**6), rng.randrange(12)) for i in range(3000)
    ]
    lines = terminal_charts(chart(points), columns, colour=False)
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in "".join(lines)
    assert len(lines) < 28, "both within 80x24 and a bit"
    assert lines[0].startswith("minilm 3b5a1c2d")


def test_the_times_of_both_charts_stand_below_each_other() -> None:
    points = [point(START + i * MINUTE, best=1_234_567 + i, median=2_345_678) for i in range(600)]
    lines = terminal_charts(chart(points), 80, colour=False)
    first, second = (line for line in lines if len(re.findall(r"\d\d:\d\d", line)) > 2)
    assert first == second


def test_colours_only_when_asked_for() -> None:
    points = [point(START + i * MINUTE) for i in range(10)]
    coloured = terminal_charts(chart(points), 80, colour=True)
    assert any("\x1b[38;5;" in line for line in coloured)
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured] == terminal_charts(
        chart(points), 80, colour=False
    )


@pytest.mark.parametrize("price", [0, 1, 100_000, 2**63 - 1])
def test_a_single_sample_of_any_price(price: int) -> None:
    lines = terminal_charts(chart([Point(START, price, price, 0, 0, 1)]), 80, colour=False)
    assert max(map(len, lines)) <= 80


def test_where_nothing_is_known_no_line_is_drawn() -> None:
    points = [point(START + i * MINUTE) for i in (*range(60), *range(120, 180))]
    assert gap_of(points) == 3 * MINUTE
    assert [len(part) for part in stretches(points, gap_of(points))] == [60, 60]
    lines = terminal_charts(chart(points), 80, colour=False)
    assert sum(bool(re.search(r"[\u2801-\u28ff]{20,} {15,}[\u2801-\u28ff]{20,}", line)) for line in lines) == 2
    assert sum(bool(re.search("∙{20,} {15,}∙{20,}", line)) for line in lines) == 2


def test_many_samples_are_thinned_and_the_lowest_price_is_kept() -> None:
    points = [point(START + i * MINUTE, best=1 if i == 777 else 100, free=i % 2) for i in range(1000)]
    few = thinned(points, START, START + 1000 * MINUTE, 100)
    assert len(few) <= 100
    assert min(each.best for each in few) == 1
    assert thinned(points[:50], START, START + HOUR, 100) == points[:50]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**62), st.integers(1, 8))
def test_ticks_span_what_they_must(low: int, more: int, count: int) -> None:
    ticks = nice_ticks(low, low + more, count)
    assert ticks[0] <= low <= low + more <= max(ticks[-1], ticks[0] + 1)
    assert 2 <= len(ticks) <= count + 2
    assert len({after - before for before, after in pairwise(ticks)}) == 1


@pytest.mark.parametrize("hours", [0.05, 1, 6, 24, 168, 2000])
def test_times_are_at_full_hours_or_days(hours: float) -> None:
    until = START + int(hours * HOUR)
    places, labels = time_ticks(START, until, 6)
    assert 1 <= len(places) <= 7
    assert all(START <= place <= until for place in places)
    assert len(labels) == len(places)
    assert all(before != after for before, after in pairwise(labels))
