"""What the death of a provider costs: from `kill -9` in the middle of a job to the first byte from the next provider."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trio

from bench.figures import Figure, Result
from bench.nodes import ProviderProcess, client, make_home, provider
from bench.plan import Plan, say
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX as NO_LIMIT
from cocoon_p2p.node import Node, RunRequest, RunResult
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing.models import slow_model

MEASURES = (
    "from kill -9 (then: SIGSTOP) of the provider in the middle of a job of about half a second to the answer's first byte from "
    "the other of two providers; processes on loopback"
)
WORK_MS = 500.0
TURNS_TRIED = 200_000
LOOK_AGAIN_S = 0.001


@dataclass(slots=True)
class _Seen:
    """Milliseconds, a value a round."""

    first_byte: list[float] = field(default_factory=list)
    without_work: list[float] = field(default_factory=list)

    def add(self, ended: float, cut: float, result: RunResult) -> None:
        legs = result.timeline_ms
        first_byte = 1000 * (ended - cut) - legs["receipt"]
        self.first_byte.append(first_byte)
        self.without_work.append(first_byte - legs["queue"] - legs["execute"])


async def run(plan: Plan) -> Result:
    folder = plan.folder / "failover"
    model = slow_model(folder)
    homes = [folder / "one", folder / "two"]
    for home in homes:
        make_home(home, {"slow": model})
    killed, frozen = _Seen(), _Seen()
    for number in range(plan.rounds):
        for seen, how in ((killed, signal.SIGKILL), (frozen, signal.SIGSTOP)):
            await _one_death(folder / f"client-{how.name}-{number}", homes, how, seen)
        say(
            f"failover: round {number + 1} of {plan.rounds}: first byte {killed.first_byte[-1]:.0f} ms after the kill, "
            f"{killed.without_work[-1]:.1f} ms without the work"
        )
    return Result("failover", MEASURES, tuple(_figures(killed, frozen)), {"work_ms": WORK_MS})


def _figures(killed: _Seen, frozen: _Seen) -> list[Figure]:
    return [
        Figure("kill -9 to the first byte from the next", "ms", tuple(killed.first_byte)),
        Figure("the same without the next one's own work", "ms", tuple(killed.without_work)),
        Figure("frozen (SIGSTOP) to the first byte from the next", "ms", tuple(frozen.first_byte)),
    ]


async def _one_death(home: Path, homes: list[Path], how: signal.Signals, seen: _Seen) -> None:
    with provider(homes[0]) as one, provider(homes[1]) as two:
        async with client(home, one.address) as node:
            await node.connect(two.address)
            by_peer = {process.address.rpartition("/")[2]: process for process in (one, two)}
            payload = await _payload(node, list(by_peer))
            ended, cut, result, victim = await _run_and_cut(node, payload, by_peer, how)
            seen.add(ended, cut, result)
            victim.process.send_signal(signal.SIGCONT)


async def _payload(node: Node, providers: list[str]) -> Payload:
    """A job of about WORK_MS, of which each provider has done a smaller one: both are warm."""
    for peer in providers:
        tried = to_payload({"turns": np.int64(TURNS_TRIED)})
        result = await node.run_payload(RunRequest("slow", max_price=NO_LIMIT, provider=peer), tried)
    turns = int(TURNS_TRIED * WORK_MS / max(result.timeline_ms["execute"], 1.0))
    return to_payload({"turns": np.int64(turns)})


async def _run_and_cut(
    node: Node, payload: Payload, by_peer: dict[str, ProviderProcess], how: signal.Signals
) -> tuple[float, float, RunResult, ProviderProcess]:
    """(when the answer was there, when its first provider was hit, the answer, who was hit)."""
    done: list[tuple[float, RunResult]] = []

    async def run() -> None:
        result = await node.run_payload(RunRequest("slow", max_price=NO_LIMIT), payload)
        done.append((time.perf_counter(), result))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        while True:
            newest = node.jobs(1)
            if newest and newest[0]["state"] == "running":
                break
            await trio.sleep(LOOK_AGAIN_S)
        await trio.sleep(WORK_MS / 2000)
        victim = by_peer[newest[0]["peer_id"]]
        os.kill(victim.process.pid, how)
        cut = time.perf_counter()
    ended, result = done[0]
    return ended, cut, result, victim
