"""How much memory there is, what models may take of it, and what a process takes."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from cocoon_p2p.limits import (
    GIB,
    JOB_MEMORY_MIN_BYTES,
    JOB_MEMORY_SHARE,
    KIB,
    MEMORY_BUDGET_MIN_BYTES,
    MEMORY_BUDGET_SHARE,
    MIB,
    MODEL_BYTES_FACTOR,
    WORKER_BYTES,
)

AUTO = "auto"
_AMOUNT = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(KiB|MiB|GiB|TiB|kB|MB|GB|TB)", re.IGNORECASE)
_UNITS = {
    "kib": KIB, "mib": MIB, "gib": GIB, "tib": 1024 * GIB,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4,
}  # fmt: skip
_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def problem_of_amount(text: str) -> str | None:
    """What is wrong with an amount of memory in node.toml; None when it is right."""
    if text == AUTO or _AMOUNT.fullmatch(text):
        return None
    return f'{text!r} is no amount of memory; one looks like "6 GiB", or is "auto"'


def amount_bytes(text: str) -> int | None:
    """Bytes of a right amount; None for "auto"."""
    found = _AMOUNT.fullmatch(text)
    return None if found is None else int(float(found[1]) * _UNITS[found[2].lower()])


def machine_bytes(cgroup: Path = _CGROUP) -> int | None:
    """Memory that this machine has, or that its container may use; None where that cannot be told."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" is no number
            found.append(int((cgroup / name).read_text()))
    found = [each for each in found if each > 0]
    return min(found) if found else None


def model_budget(setting: str, machine: int | None) -> int | None:
    """Bytes that all loaded models together may take; None for no bound. `setting` is [execution] memory_budget."""
    given = amount_bytes(setting)
    if given is not None or machine is None:
        return given
    return max(int(machine * MEMORY_BUDGET_SHARE), MEMORY_BUDGET_MIN_BYTES)


def job_budget(setting: str, machine: int | None) -> int | None:
    """Bytes by which one run may make its worker grow; None for no bound. `setting` is [execution] job_memory."""
    given = amount_bytes(setting)
    if given is not None or machine is None:
        return given
    return max(int(machine * JOB_MEMORY_SHARE), JOB_MEMORY_MIN_BYTES)


def expected_bytes(files_bytes: int, kept_bytes: int = 0) -> int:
    """What a model takes that was never loaded here; `kept_bytes` is what it keeps beside its weights (keys and values)."""
    return WORKER_BYTES + int(files_bytes * MODEL_BYTES_FACTOR) + kept_bytes


def too_large(needed: int, budget: int) -> str:
    """Why a model is not served, and what it would need: a clause."""
    wanted, there = _shown(needed), _shown(budget)
    if wanted == there:  # they differ by less than is shown
        wanted, there = f"{needed / MIB:.0f} MiB", f"{budget / MIB:.0f} MiB"
    return f"it would take about {wanted} of memory, and models may take {there} here ([execution] memory_budget)"


def advice_on_size(files_bytes: int, setting: str) -> str | None:
    """For whoever adds a model of files of this size: why it will not be served here; None when it will."""
    budget = model_budget(setting, machine_bytes())
    needed = expected_bytes(files_bytes)
    return too_large(needed, budget) if budget is not None and needed > budget else None


def process_bytes(pid: int) -> int | None:
    """What a process takes: its own pages, and its part of those that it shares with others (PSS); where the kernel does
    not tell that, all its pages. None when it cannot be told."""
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * KIB
    found = _statm(pid)
    return None if found is None else found[0]


def private_bytes(pid: int) -> int | None:
    """Pages of a process that belong to no file and no shared memory: what a run makes grow. Cheaper than
    `process_bytes`."""
    found = _statm(pid)
    return None if found is None else found[0] - found[1]


def out_of_memory_kills() -> int | None:
    """How many processes the kernel has ended for want of memory since it started; None where it does not tell."""
    with suppress(OSError, ValueError):
        for line in (_PROC / "vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _statm(pid: int) -> tuple[int, int] | None:
    """Bytes of all resident pages, and of those that are shared or of files."""
    with suppress(OSError, ValueError, IndexError):
        pages = (_PROC / str(pid) / "statm").read_text().split()
        size = os.sysconf("SC_PAGE_SIZE")
        return int(pages[1]) * size, int(pages[2]) * size
    return None


def _shown(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
