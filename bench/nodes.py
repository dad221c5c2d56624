"""The two ends of a job: a provider in a process of its own, as an operator starts it, and a client in this process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench.figures import rounded
from bench.processes import cpu_s, descendants
from cocoon_p2p import Node
from cocoon_p2p.config import NodeConfig

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_NODE_TOML = """[network]
listen = ["/ip4/127.0.0.1/tcp/0"]
[provider]
slots = 64
price_base = 1000
price_per_item = 10
"""
"""More slots than the 32 jobs in flight: a slot is free again only once its receipt is on disk. Prices so that a wallet's
grant outlasts any run."""


class NodeFailed(Exception):
    """A process that we started did not do its part; the text is what it wrote on stderr."""


@dataclass(frozen=True, slots=True)
class ProviderProcess:
    process: subprocess.Popen[str]
    address: str
    """Multiaddr with the peer id."""
    ready_s: float
    """From the start of the process to its `ready` line."""

    def worker_pids(self) -> list[int]:
        """Of the fork server, then of the workers."""
        return descendants(self.process.pid)

    def worker_cpu_s(self) -> float:
        return sum(map(cpu_s, self.worker_pids()))


class CpuMeter:
    """Processor time of a client in this process, of a provider and of its workers, in the `with` blocks so far."""

    def __init__(self, process: ProviderProcess) -> None:
        self._process = process
        self._spent = [0.0, 0.0, 0.0]
        self._before = [0.0, 0.0, 0.0]

    def __enter__(self) -> None:
        self._before = self._now()

    def __exit__(self, *exc_info: object) -> None:
        self._spent = [
            spent + after - before for spent, after, before in zip(self._spent, self._now(), self._before, strict=True)
        ]

    def ms_per_job(self, jobs: int) -> dict[str, float]:
        return {
            who: rounded(spent / jobs * 1000)
            for who, spent in zip(("client", "provider", "worker"), self._spent, strict=True)
        }

    def _now(self) -> list[float]:
        return [time.process_time(), cpu_s(self._process.process.pid), self._process.worker_cpu_s()]


def cocoon_node(*arguments: str) -> list[str]:
    """The command line of `cocoon-node`, of the environment that this process runs in."""
    return [str(Path(sys.executable).parent / "cocoon-node"), *arguments]


def make_home(home: Path, models: Mapping[str, Path]) -> None:
    """What an operator does once: init, then `models add`. Raises NodeFailed."""
    _run_to_end(cocoon_node("init", "--home", str(home)))
    (home / "node.toml").write_text(_NODE_TOML)
    for name, path in models.items():
        _run_to_end(cocoon_node("models", "add", str(path), "--name", name, "--home", str(home)))


@contextmanager
def provider(home: Path) -> Iterator[ProviderProcess]:
    """`cocoon-node up` on a home made by `make_home`, from its start to its end. Raises NodeFailed."""
    with (home / "stderr.txt").open("w") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            cocoon_node("up", "--json", "--home", str(home)), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            line = _first_line(process)
            ready_s = time.perf_counter() - started
            if not line:
                raise NodeFailed((home / "stderr.txt").read_text()[-2000:])
            yield ProviderProcess(process, json.loads(line)["addresses"][0], ready_s)
        finally:
            stop(process)


@asynccontextmanager
async def client(home: Path, address: str) -> AsyncIterator[Node]:
    """A node in this process that serves nothing and knows the provider as its bootstrap."""
    async with Node.open(home, config=NodeConfig().as_client([address])) as node:
        yield node


def stop(process: subprocess.Popen[str]) -> None:
    """End a process of ours."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


@contextmanager
def python_server(module: str, *arguments: str) -> Iterator[int]:
    """The port of a baseline: `python -m module arguments`, which prints it. Raises NodeFailed."""
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        line = _first_line(process)
        if not line:
            raise NodeFailed(f"{module} did not start")
        yield int(line)
    finally:
        stop(process)


def _run_to_end(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise NodeFailed(ended.stderr)


def _first_line(process: subprocess.Popen[str]) -> str:
    """Of what it prints; "" when it ended instead."""
    output: IO[str] | None = process.stdout
    assert output is not None
    return output.readline()
