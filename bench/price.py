"""What a price does under `follow-demand`: one model, a few providers, and a demand that comes and goes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import trio

from bench.figures import Aim, Figure
from bench.town import BASE_NANOGRAM, ITEM_NANOGRAM
from cocoon_p2p.config import NodeConfig, ProviderSection
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import RunRequest
from cocoon_p2p.testing import models
from cocoon_p2p.testing.simulation import RunningNode, Simulation


@dataclass(frozen=True, slots=True)
class PricePlan:
    """Times in virtual seconds."""

    providers: int = 4
    slots: int = 4
    execute_s: float = 4.0
    """One job at a time: so many a second and provider are all that there is."""
    clients: int = 40
    calm_s: float = 600.0
    rush_s: float = 1800.0
    after_s: float = 1800.0
    calm_share: float = 0.2
    """Of what the providers can do, asked for before and after the rush."""
    rush_share: float = 1.5
    floor_percent: int = 50
    ceiling_percent: int = 400
    look_every_s: float = 10.0
    seed: int = 1

    @property
    def listed(self) -> int:
        """nanogram a job of one item."""
        return BASE_NANOGRAM + ITEM_NANOGRAM


@dataclass(slots=True)
class PriceSeen:
    plan: PricePlan
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)
    """(time, best, median, free slots of all)."""
    done: int = 0
    refused: int = 0

    def figures(self) -> list[Figure]:
        plan = self.plan
        rush, end = plan.calm_s, plan.calm_s + plan.rush_s
        before = [median for at, _, median, _ in self.samples if rush / 2 < at < rush]
        during = [median for at, _, median, _ in self.samples if end - 300 < at < end]
        after = [median for at, _, median, _ in self.samples if at > end + plan.after_s - 300]
        rows = [
            ("price before the rush / listed", before[-1] / plan.listed, Aim("<=", 1.0)),
            ("price at the end of the rush / listed", during[-1] / plan.listed, Aim(">=", 1.5)),
            ("price long after the rush / listed", after[-1] / plan.listed, Aim("<=", 0.6)),
        ]
        return [Figure(f"short supply: {name}", "", (value,), aim) for name, value, aim in rows]

    def as_json(self) -> dict[str, Any]:
        plan = {name: getattr(self.plan, name) for name in (*self.plan.__slots__, "listed")}
        return {"plan": plan, "done": self.done, "refused": self.refused, "samples": self.samples}


async def price_of_a_short_supply(plan: PricePlan, folder: Path) -> PriceSeen:
    source = models.copy_model(folder / "source", "float32", ("batch", 4))
    model = ModelRegistry(folder / "home").add(
        source, name="scarce", price_base=BASE_NANOGRAM, price_per_item=ITEM_NANOGRAM
    )
    seen = PriceSeen(plan)
    begun = trio.current_time()
    config = NodeConfig(
        provider=ProviderSection(
            slots=plan.slots,
            pricing="follow-demand",
            price_floor_percent=plan.floor_percent,
            price_ceiling_percent=plan.ceiling_percent,
        )
    )
    async with Simulation(folder / "town", seed=plan.seed, latency_s=0.02) as sim, trio.open_nursery() as nursery:
        await sim.start("bootstrap")
        for number in range(plan.providers):
            await sim.start(f"p{number}", model=model.folder, execute_s=plan.execute_s, config=config)
        clients = [await sim.start(f"c{number}") for number in range(plan.clients)]
        for number, client in enumerate(clients):
            rng = random.Random(f"price {plan.seed} {number}")
            nursery.start_soon(_demand, plan, seen, client, rng, begun)
        nursery.start_soon(_look, plan, seen, clients[0], begun)
        await trio.sleep(plan.calm_s + plan.rush_s + plan.after_s)
        nursery.cancel_scope.cancel()
    return seen


async def _demand(plan: PricePlan, seen: PriceSeen, client: RunningNode, rng: random.Random, begun: float) -> None:
    """One client's share of what is asked for at the time."""
    payload = to_payload({"x": np.ones((1, 4), np.float32)})
    supply = plan.providers / plan.execute_s
    async with trio.open_nursery() as nursery:
        while True:
            at = trio.current_time() - begun
            share = plan.rush_share if plan.calm_s <= at < plan.calm_s + plan.rush_s else plan.calm_share
            await trio.sleep(rng.expovariate(share * supply / plan.clients))
            nursery.start_soon(_one_job, seen, client, payload)


async def _one_job(seen: PriceSeen, client: RunningNode, payload: Any) -> None:
    try:
        await client.node.run_payload(RunRequest("scarce", max_price=10**9, timeout_s=120.0), payload)
    except CocoonError:
        seen.refused += 1
    else:
        seen.done += 1


async def _look(plan: PricePlan, seen: PriceSeen, client: RunningNode, begun: float) -> None:
    while True:
        await trio.sleep(plan.look_every_s)
        offers = await client.node.offers("scarce")
        prices = sorted(
            offer["prices"]["sealed"]["base_nanogram"] + offer["prices"]["sealed"]["per_unit_nanogram"]
            for offer in offers
        )
        if prices:
            free = sum(offer["slots_free"] for offer in offers)
            seen.samples.append((trio.current_time() - begun, prices[0], prices[len(prices) // 2], free))
