"""Results as JSON and as a table, and what machine they are from."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Figure, Result

RESULTS = Path(__file__).parent / "results"
_LIBRARIES = ("cocoon-p2p", "libp2p", "trio", "cryptography", "onnxruntime-gpu", "onnxruntime", "hypercorn")
_HEADINGS = ("", "MEDIAN", "MIN – MAX", "AIM", "")


def as_json(results: Sequence[Result], command: str) -> dict[str, Any]:
    return {
        "format": 1,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(),
        "benchmarks": [result.as_json() for result in results],
    }


def machine() -> dict[str, Any]:
    """Where this runs, and how busy it was: figures of a busy machine are worth little."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "libraries": {name: version for name in _LIBRARIES if (version := _version(name))},
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "revision": _revision(),
    }


def write(report: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Into a file named by the time and the benchmarks."""
    folder.mkdir(parents=True, exist_ok=True)
    names = "-".join(each["name"] for each in report["benchmarks"])
    stamp = report["created_at"].replace(":", "").replace("-", "")[:15]
    path = folder / f"{stamp}-{names}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    return path


def table(results: Sequence[Result]) -> str:
    rows = [list(_HEADINGS)]
    for result in results:
        rows += [_row(figure) for figure in result.figures]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    lines = [_line(rows[0], widths)]
    position = 1
    for result in results:
        lines += ["", f"{result.name}: {result.measures}"]
        lines += [_line(row, widths) for row in rows[position : position + len(result.figures)]]
        position += len(result.figures)
    return "\n".join(lines)


def _row(figure: Figure) -> list[str]:
    unit = f" {figure.unit}" if figure.unit else ""
    span = f"{number(min(figure.rounds))} – {number(max(figure.rounds))}"
    verdict = {None: "", True: "met", False: "missed"}[figure.met]
    return [f"  {figure.name}", f"{number(figure.median)}{unit}", span, str(figure.aim or ""), verdict]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first = row[0].ljust(widths[0])
    return "  ".join(
        [first, *(cell.rjust(width) for cell, width in zip(row[1:4], widths[1:4], strict=True)), row[4]]
    ).rstrip()


def number(value: float) -> str:
    """With as many digits as one looks at: 1234, 56.7, 1.23, 0.0045."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.2g}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    """The commit, with + when files differ from it; None outside of a clone."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+"],
            cwd=RESULTS.parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return described.stdout.strip() or None
