"""(a) What one small job costs beside running the model directly."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import trio

from bench.figures import Aim, Figure, Result, percentile, rounded
from bench.nodes import CpuMeter, client, make_home, provider
from bench.plan import Plan, say
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.execution.session import OnnxModel, run_options
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import Node, RunRequest
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing.models import copy_model

MEASURES = (
    "milliseconds that a warm, sealed, paid job of 1 KB, one after the other between two processes on loopback, takes more "
    "than session.run on the same model"
)
INPUT = np.arange(256, dtype=np.float32).reshape(1, 256)
WARM_UP_JOBS = 30
LEGS = ("discover", "quote", "seal", "queue", "execute", "return", "receipt", "total")


@dataclass(slots=True)
class _Rounds:
    direct_ms: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    jobs: int = 0
    legs_ms: dict[str, list[float]] = field(default_factory=lambda: {leg: [] for leg in LEGS})


async def run(plan: Plan) -> Result:
    folder = plan.folder / "job"
    home = folder / "provider"
    make_home(home, {"copy": copy_model(folder, "float32", ["batch", 256])})
    installed = ModelRegistry(home).get("copy")
    model = OnnxModel(installed.folder, installed.manifest, provider="CPUExecutionProvider", threads=1)
    rounds = _Rounds()
    with provider(home) as process:
        async with client(folder / "client", process.address) as node:
            payload, meter = to_payload({"x": INPUT}), CpuMeter(process)
            for _ in range(WARM_UP_JOBS):
                await node.run_payload(RunRequest("copy", max_price=NO_LIMIT), payload)
            for number in range(plan.rounds):
                direct = _run_directly(model, plan.seconds_a_round / 4)
                with meter:
                    took = await _run_jobs(node, payload, plan.seconds_a_round, rounds)
                rounds.direct_ms.append(direct)
                rounds.p50_ms.append(percentile(took, 50) - direct)
                rounds.p99_ms.append(percentile(took, 99) - direct)
                say(f"job: round {number + 1} of {plan.rounds}: {rounds.p50_ms[-1]:.2f} ms more than {direct:.4f} ms")
    return Result(
        "job",
        MEASURES,
        (
            Figure("session.run, p50", "ms", tuple(rounds.direct_ms)),
            Figure("added by a job, p50", "ms", tuple(rounds.p50_ms), Aim("<=", 2.0)),
            Figure("added by a job, p99", "ms", tuple(rounds.p99_ms)),
        ),
        {
            "jobs": rounds.jobs,
            "input_bytes": INPUT.nbytes,
            "cpu_ms_per_job": meter.ms_per_job(rounds.jobs),
            "timeline_ms_p50": {leg: rounded(percentile(values, 50)) for leg, values in rounds.legs_ms.items()},
        },
    )


def _run_directly(model: OnnxModel, seconds: float) -> float:
    """Milliseconds of session.run, the median."""
    took: list[float] = []
    options = run_options()
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        begun = time.perf_counter()
        model.run({"x": INPUT}, ["y"], options)
        took.append((time.perf_counter() - begun) * 1000)
    return percentile(took, 50)


async def _run_jobs(node: Node, payload: Payload, seconds: float, rounds: _Rounds) -> list[float]:
    """Milliseconds of each job, one after the other."""
    took: list[float] = []
    request = RunRequest("copy", max_price=NO_LIMIT)
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        begun = time.perf_counter()
        result = await node.run_payload(request, payload)
        took.append((time.perf_counter() - begun) * 1000)
        for leg, milliseconds in result.timeline_ms.items():
            rounds.legs_ms[leg].append(milliseconds)
        await trio.lowlevel.checkpoint()
    rounds.jobs += len(took)
    return took
