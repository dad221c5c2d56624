"""(h) How fast a model comes from a peer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.blob_port import take
from bench.figures import Aim, Figure, Result, ratios
from bench.nodes import CpuMeter, NodeFailed, make_home, provider, stop
from bench.plan import Plan, say
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.model_pull import PullProgress
from cocoon_p2p.limits import MIB
from cocoon_p2p.models.registry import InstalledModel, Offer
from cocoon_p2p.node import Node
from cocoon_p2p.testing.noise_model import noise_model

MEASURES = (
    "MB/s of a model of one file from one holder to one fetcher on loopback, each piece verified and written, and until it is installed; "
    "beside frames of the same size through the network port, encrypted as pieces are, and sealed, which travel as they are"
)
FACTOR = 4
"""Times --megabytes: 1 GiB unless that is said."""


async def run(plan: Plan) -> Result:
    megabytes = FACTOR * plan.megabytes
    home = plan.folder / "blob" / "holder"
    make_home(home, {})
    (home / "node.toml").write_text('[network]\nlisten = ["/ip4/127.0.0.1/tcp/0"]\n[provider]\nserve = false\n')
    model = noise_model(home, [megabytes * MIB], offer=Offer("noise", serve=False))
    pulls: list[float] = []
    installs: list[float] = []
    ports: dict[bool, list[float]] = {False: [], True: []}
    with provider(home) as process, _port() as port:
        meter = CpuMeter(process)
        for number in range(plan.rounds):
            for sealed, rates in ports.items():
                rates.append(await take(port, megabytes, sealed=sealed))
            with meter:
                pulled, installed = await _pull(plan.folder / "blob" / f"fetcher-{number}", process.address, model)
            pulls.append(pulled)
            installs.append(installed)
            say(f"blob: round {number + 1} of {plan.rounds}: {pulls[-1]:.0f} MB/s, the port {ports[False][-1]:.0f}")
    return Result(
        "blob",
        MEASURES,
        (
            Figure("model, every piece verified and written", "MB/s", tuple(pulls)),
            Figure("model, installed and flushed to the disk", "MB/s", tuple(installs)),
            Figure("port, encrypted", "MB/s", tuple(ports[False])),
            Figure("port, sealed", "MB/s", tuple(ports[True])),
            Figure("model / port, encrypted", "", ratios(pulls, ports[False]), Aim(">=", 0.5)),
            Figure("model / port, sealed", "", ratios(pulls, ports[True])),
        ),
        {"megabytes": megabytes, "cpu_ms_per_pull": meter.ms_per_job(plan.rounds)},
    )


async def _pull(home: Path, address: str, model: InstalledModel) -> tuple[float, float]:
    """MB/s until the last piece was verified and written, and until the model was installed."""
    config = NodeConfig().as_client([address])
    config = replace(config, models=replace(config.models, share=False))
    whole = 0.0

    def note(progress: PullProgress) -> None:
        nonlocal whole
        if not whole and progress.done_bytes == model.manifest.size:
            whole = time.perf_counter()

    async with Node.open(home, config=config) as node:
        begun = time.perf_counter()
        await node.pull(model.model_id, source=address, progress=note)
        ended = time.perf_counter()
    shutil.rmtree(home)
    megabytes = model.manifest.size / 1e6
    return megabytes / ((whole or ended) - begun), megabytes / (ended - begun)


@contextmanager
def _port() -> Iterator[str]:
    """The address of bench.blob_port in a process."""
    process = subprocess.Popen([sys.executable, "-m", "bench.blob_port"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        if not address:
            raise NodeFailed("bench.blob_port did not start")
        yield address
    finally:
        stop(process)
