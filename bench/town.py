"""A simulated town of nodes for `bench.market`: providers and clients of several models, that come, go and die."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import trio

from cocoon_p2p.config import NodeConfig, ProviderSection
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import RunRequest
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulation import RunningNode, Simulation

BASE_NANOGRAM, ITEM_NANOGRAM = 1000, 10
WIDTH = 4


@dataclass(frozen=True, slots=True)
class TownPlan:
    """Times in virtual seconds."""

    peers: int = 1000
    providers_share: float = 0.3
    models: int = 5
    minutes: float = 10.0
    warm_up_s: float = 60.0
    """Before anything is counted."""
    churn_a_minute: float = 0.10
    """Of all peers: half of them are killed, half say goodbye; as many new ones come."""
    latency_s: float = 0.04
    """One way."""
    loss: float = 0.01
    think_s: float = 20.0
    """Mean time between two jobs of a client."""
    execute_s: float = 0.5
    slots: int = 4
    cold_every_s: float = 10.0
    look_every_s: float = 15.0
    looked_at: int = 20
    """Books that are looked at each time."""
    seed: int = 1

    @property
    def end_s(self) -> float:
        return self.warm_up_s + 60 * self.minutes


@dataclass(slots=True)
class Seen:
    """What was counted after the warm-up."""

    jobs: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retried: int = 0
    job_s: list[float] = field(default_factory=list)
    cold_s: list[float] = field(default_factory=list)
    """To the first fitting offer of a client that has just joined; infinite where none was found."""
    offer_age_s: list[float] = field(default_factory=list)
    ghost_s: list[float] = field(default_factory=list)
    """For each offer in a book whose provider is dead: how long it has been dead."""
    known: list[int] = field(default_factory=list)
    """Offers in a book, of all models."""
    came: int = 0
    went: int = 0
    traffic: Counter[str] = field(default_factory=Counter)
    """Bytes of all nodes together, by what they were for."""
    node_minutes: float = 0.0
    served: dict[str, int] = field(default_factory=dict)
    """Jobs of each provider that was there all the time."""


class Town:
    def __init__(self, plan: TownPlan, sim: Simulation, folder: Path) -> None:
        self.plan = plan
        self.sim = sim
        self.seen = Seen()
        self._rng = random.Random(f"town {plan.seed}")
        self._models = [_install(folder, number) for number in range(plan.models)]
        self._nodes: dict[str, bool] = {}
        """Name -> whether it serves."""
        self._dead_since: dict[str, float] = {}
        """By peer id."""
        self._scopes: dict[str, trio.CancelScope] = {}
        self._number = 0
        self._nursery: trio.Nursery

    @property
    def _counting(self) -> bool:
        return trio.current_time() >= self.plan.warm_up_s

    async def run(self) -> Seen:
        plan = self.plan
        async with trio.open_nursery() as self._nursery:
            await self.sim.start("bootstrap")
            for number in self._rng.sample(range(plan.peers), plan.peers):
                await self._come(serves=number < plan.peers * plan.providers_share)
                await trio.sleep(plan.warm_up_s / 2 / plan.peers)
            old = {name for name, serves in self._nodes.items() if serves}
            self._nursery.start_soon(self._churn)
            await trio.sleep_until(plan.warm_up_s)
            before, traffic = self._jobs_done(), self._traffic()
            self._nursery.start_soon(self._cold_clients)
            self._nursery.start_soon(self._look)
            await trio.sleep_until(plan.end_s)
            after = self._jobs_done()
            self.seen.served = {name: after[name] - before[name] for name in old if name in after}
            self.seen.traffic = self._traffic()
            self.seen.traffic.subtract(traffic)
            self.seen.node_minutes = plan.peers * plan.minutes
            self._nursery.cancel_scope.cancel()
        return self.seen

    # --- coming and going ---

    async def _come(self, *, serves: bool) -> None:
        self._number += 1
        name = f"{'p' if serves else 'c'}{self._number}"
        config = NodeConfig(provider=ProviderSection(slots=self.plan.slots))
        model = self._rng.choice(self._models) if serves else None
        node = await self.sim.start(name, model=model, execute_s=self.plan.execute_s, config=config)
        self._nodes[name] = serves
        if not serves:
            self._nursery.start_soon(self._be_client, name, node)

    async def _churn(self) -> None:
        rate = self.plan.peers * self.plan.churn_a_minute / 60
        while True:
            await trio.sleep(self._rng.expovariate(rate))
            name = self._rng.choice(list(self._nodes))
            serves = self._nodes.pop(name)
            peer = self.sim.nodes[name].node.peer_id
            if name in self._scopes:
                self._scopes.pop(name).cancel()
            if self._rng.random() < 0.5:
                await self.sim.kill(name)
            else:
                await self.sim.nodes.pop(name).leave()
            self._dead_since[peer] = trio.current_time()
            await self._come(serves=serves)
            self.seen.came += 1
            self.seen.went += 1

    # --- what clients do ---

    async def _be_client(self, name: str, node: RunningNode) -> None:
        with trio.CancelScope() as scope:
            self._scopes[name] = scope
            rng = random.Random(f"{self.plan.seed} {name}")
            number = rng.randrange(len(self._models))
            payload = to_payload({"x": np.ones((1, WIDTH + number), np.float32)})
            while True:
                await trio.sleep(rng.expovariate(1 / self.plan.think_s))
                await self._one_job(node, self._models[number].name, payload)

    async def _one_job(self, node: RunningNode, model: str, payload: Payload) -> None:
        started, counts = trio.current_time(), self._counting
        try:
            result = await node.node.run_payload(RunRequest(model, timeout_s=60.0), payload)
        except CocoonError as error:
            if counts:
                self.seen.jobs += 1
                self.seen.failed[error.code] += 1
        else:
            if counts:
                self.seen.jobs += 1
                self.seen.retried += bool(result.attempts)
                self.seen.job_s.append(trio.current_time() - started)

    async def _cold_clients(self) -> None:
        """Somebody new asks for a model: how long until the first offer that fits."""
        while True:
            await trio.sleep(self.plan.cold_every_s)
            self._number += 1
            name = f"cold{self._number}"
            node = await self.sim.start(name)
            started = trio.current_time()
            found = await node.node.offers(self._rng.choice(self._models).name)
            self.seen.cold_s.append(trio.current_time() - started if found else float("inf"))
            await self.sim.nodes.pop(name).leave()

    # --- looking ---

    async def _look(self) -> None:
        while True:
            await trio.sleep(self.plan.look_every_s)
            names = self._rng.sample(sorted(self._nodes), min(self.plan.looked_at, len(self._nodes)))
            for name in names:
                self._look_at(self.sim.nodes[name])

    def _look_at(self, node: RunningNode) -> None:
        offers = node.node._parts.market.offers()  # what it knows now, without asking anybody
        now = trio.current_time()
        self.seen.known.append(len(offers))
        for offer in offers:
            self.seen.offer_age_s.append(node.clock.unix() - offer.issued_at_ms / 1000)
            if offer.peer in self._dead_since:
                self.seen.ghost_s.append(now - self._dead_since[offer.peer])

    def _jobs_done(self) -> dict[str, int]:
        return {name: self.sim.nodes[name].engine.jobs_done for name, serves in self._nodes.items() if serves}

    def _traffic(self) -> Counter[str]:
        return Counter(self.sim.hub.traffic)


def _install(folder: Path, number: int) -> Path:
    """The folder of an installed model; each is wider than the one before, so that they are different models."""
    source = models.copy_model(folder / f"source{number}", "float32", ("batch", WIDTH + number))
    registry = ModelRegistry(folder / f"home{number}")
    added = registry.add(source, name=f"model-{number}", price_base=BASE_NANOGRAM, price_per_item=ITEM_NANOGRAM)
    return added.folder


def jain(values: list[int]) -> float:
    """Jain's fairness index: 1 when all have the same, 1/n when one has everything (Jain, Chiu, Hawe 1984)."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values)) if any(values) else 0.0


def with_size(plan: TownPlan, peers: int, minutes: float, seed: int) -> TownPlan:
    return replace(plan, peers=peers, minutes=minutes, seed=seed)
