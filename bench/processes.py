"""What /proc says about processes: children, processor time, memory. Linux; elsewhere there is nothing to say."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def cpu_s(pid: int) -> float:
    """Processor seconds of all threads of a process so far; 0.0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_mb(pid: int) -> float | None:
    """Resident memory in 10^6 bytes, pages shared with others included; None when it cannot be read."""
    return _status_kib(Path(f"/proc/{pid}/status"), "VmRSS")


def own_share_mb(pid: int) -> float | None:
    """The same with each shared page divided by the number of processes that share it ("PSS")."""
    return _status_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def descendants(pid: int) -> list[int]:
    """Children, then theirs, in the order of their start."""
    found: list[int] = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*/children")):
        try:
            found += map(int, task.read_text().split())
        except OSError:
            continue
    return found + [below for child in found for below in descendants(child)]


def _status_kib(path: Path, field: str) -> float | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024 / 1e6
    return None
