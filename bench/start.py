"""(d) How soon a node can take jobs, and what it weighs when it has none."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import trio

from bench.figures import Aim, Details, Figure, Result, rounded
from bench.nodes import ProviderProcess, cocoon_node, make_home, provider
from bench.plan import Plan, say
from bench.processes import own_share_mb, resident_mb
from cocoon_p2p.models.minilm import build_minilm

MEASURES = (
    "seconds from the start of `cocoon-node up` to its ready line (without a model, and with MiniLM in its worker), its "
    "resident memory when idle, and seconds of `cocoon-node --help`"
)
SETTLE_S = 3.0
"""After the ready line, for what goes on in the background at first; then memory is read."""


async def run(plan: Plan) -> Result:
    return await trio.to_thread.run_sync(_run, plan)


def _run(plan: Plan) -> Result:
    folder = plan.folder / "start"
    bare, serving = folder / "bare", folder / "minilm"
    make_home(bare, {})
    make_home(serving, {"minilm": build_minilm(folder / "model")})
    ready: dict[Path, list[float]] = {bare: [], serving: []}
    idle: dict[Path, list[float]] = {bare: [], serving: []}
    help_s, python_s = [], []
    memory: Details = {}
    for number in range(plan.rounds):
        for home in (bare, serving):
            with provider(home) as process:
                time.sleep(SETTLE_S)
                ready[home].append(process.ready_s)
                idle[home].append(resident_mb(process.process.pid) or 0.0)
                memory[home.name] = _memory(process)
        python_s.append(_seconds_of([sys.executable, "-c", "pass"]))
        help_s.append(_seconds_of(cocoon_node("--help")))
        say(
            f"start: round {number + 1} of {plan.rounds}: ready in {ready[bare][-1]:.2f} and {ready[serving][-1]:.2f} s"
        )
    return Result(
        "start",
        MEASURES,
        (
            Figure("ready, no model", "s", tuple(ready[bare]), Aim("<=", 2.5)),
            Figure("ready, MiniLM", "s", tuple(ready[serving]), Aim("<=", 2.5)),
            Figure("idle node process, no model", "MB", tuple(idle[bare]), Aim("<=", 120.0)),
            Figure("idle node process, MiniLM", "MB", tuple(idle[serving]), Aim("<=", 120.0)),
            Figure("cocoon-node --help", "s", tuple(help_s), Aim("<=", 0.2)),
            Figure("python -c pass", "s", tuple(python_s)),
        ),
        {"memory_mb": memory},
    )


def _memory(node: ProviderProcess) -> Details:
    """Of the node's process, its fork server and its workers: resident, and with shared pages divided."""
    below = node.worker_pids()
    rows = {"node": [node.process.pid], "fork_server": below[:1], "workers": below[1:]}
    return {
        name: [{"resident": _rounded(resident_mb(pid)), "own_share": _rounded(own_share_mb(pid))} for pid in pids]
        for name, pids in rows.items()
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else rounded(value)


def _seconds_of(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
