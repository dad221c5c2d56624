"""Price and depth of one model over time, as a picture. matplotlib draws it, which is optional and imported only here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

from cocoon_p2p.cli.charts import Chart, Point, gap_of, gram_text, stretches
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.units import NANOGRAM_PER_GRAM

BEST, MEDIAN, FREE, TOTAL, GRID = "#1f9d55", "#3b7dd8", "#17a2b8", "#9aa5b1", "#d9dde2"
LINE = 1.6
INCHES, DOTS_PER_INCH = (10, 6), 120


def write_png(chart: Chart, file: Path) -> None:
    """Raises ConfigError: matplotlib is not installed, or the file cannot be written."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            "pictures need matplotlib, which is not installed",
            code="NO_MATPLOTLIB",
            hint="pip install 'cocoon-p2p[plot]'; without --png the charts are drawn in the terminal",
        ) from error
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    price, depth = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    zone = datetime.now().astimezone().tzinfo
    for number, part in enumerate(stretches(chart.points, gap_of(chart.points))):
        times = [datetime.fromtimestamp(point.at_ms / 1000, zone) for point in part]
        _draw_prices(price, times, part, named=number == 0)
        _draw_depth(depth, times, part, named=number == 0)
    figure.suptitle(chart.title.replace("$", r"\$"), fontsize=13, fontweight="bold")  # a name is no mathematics
    _scale_prices(price, chart)
    _scale_depth(depth, chart, zone)
    for axes in (price, depth):
        axes.grid(visible=True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0.2, fontsize=9)
    try:
        figure.savefig(file, format="png")
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error


def _draw_prices(axes: Any, times: Sequence[datetime], part: Sequence[Point], *, named: bool) -> None:
    best = [point.best / NANOGRAM_PER_GRAM for point in part]
    median = [point.median / NANOGRAM_PER_GRAM for point in part]
    dot = {"marker": "o", "markersize": 4} if len(part) == 1 else {}  # a single point is no line
    axes.fill_between(times, best, median, color=MEDIAN, alpha=0.12, linewidth=0)
    axes.plot(times, median, color=MEDIAN, linewidth=LINE, label="median" if named else "_", **dot)
    axes.plot(times, best, color=BEST, linewidth=LINE, label="best" if named else "_", **dot)


def _draw_depth(axes: Any, times: Sequence[datetime], part: Sequence[Point], *, named: bool) -> None:
    total, free = [point.slots_total for point in part], [point.slots_free for point in part]
    for values, colour, alpha, name in ((total, TOTAL, 0.30, "all slots"), (free, FREE, 0.75, "free slots")):
        label = name if named else "_"
        axes.fill_between(times, values, color=colour, alpha=alpha, linewidth=0, step="post", label=label)


def _scale_prices(axes: Any, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_ylabel(f"GRAM for a job of one {chart.unit}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: gram_text(round(value * NANOGRAM_PER_GRAM))))


def _scale_depth(axes: Any, chart: Chart, zone: tzinfo | None) -> None:
    from matplotlib import dates
    from matplotlib.ticker import MaxNLocator

    axes.set_ylabel("slots")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"local time ({datetime.now().astimezone().tzname()})")
    locator = dates.AutoDateLocator(tz=zone)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=zone))  # type: ignore[no-untyped-call]
    axes.set_xlim(*(datetime.fromtimestamp(at / 1000, zone) for at in (chart.from_ms, chart.until_ms)))
