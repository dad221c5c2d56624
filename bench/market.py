"""The market at scale: whole nodes over the simulated network, in virtual time, counted exactly under a seed."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
import trio.testing

from bench.figures import Aim, Figure, Result, percentile
from bench.mesh import bytes_on_the_wire
from bench.plan import Plan, say
from bench.price import PricePlan, price_of_a_short_supply
from bench.town import Seen, Town, TownPlan, jain, with_size
from cocoon_p2p.testing.simulation import Simulation

MEASURES = (
    "simulated peers with churn, loss and delay: exact counts in virtual time, the same again under the same seed"
)
_FILES = 8
"""Open files of one simulated node, and some room."""


def clock() -> trio.abc.Clock:
    """Virtual time."""
    return trio.testing.MockClock(autojump_threshold=0)


async def run(plan: Plan) -> Result:
    say("market: what gossip costs on the wire, on real nodes")
    copies = await trio.to_thread.run_sync(bytes_on_the_wire)
    town_plan = with_size(TownPlan(), plan.peers, plan.minutes, plan.seed)
    _allow_files(_FILES * plan.peers)
    with _in_memory() as folder:
        sim = Simulation(folder / "town", seed=plan.seed, latency_s=town_plan.latency_s, loss=town_plan.loss)
        say(f"market: {plan.peers} peers for {plan.minutes:g} virtual minutes, seed {plan.seed}")
        async with sim:
            seen = await Town(town_plan, sim, folder / "models").run()
        say("market: the price of a model in short supply")
        price = await price_of_a_short_supply(PricePlan(seed=plan.seed), folder / "price")
    figures = [*_figures(town_plan, seen, copies), *price.figures()]
    details = {"plan": _as_json(town_plan), "failed": dict(seen.failed), "traffic_bytes": dict(seen.traffic)}
    return Result("market", MEASURES, tuple(figures), details | {"price": price.as_json()})


def _figures(plan: TownPlan, seen: Seen, copies: float) -> list[Figure]:
    """One value each: nothing varies under a seed."""
    round_trip = 2 * plan.latency_s
    failed = sum(seen.failed.values())
    served = sorted(seen.served.values())
    seconds = 60 * seen.node_minutes
    gossip = seen.traffic["gossip"] / seconds
    capacity = sum(size for what, size in seen.traffic.items() if "capacity" in what) / seconds
    dht = seen.traffic["dht"] / seconds
    rows = [
        ("jobs", "", seen.jobs, None),
        ("jobs that succeed", "%", 100 * (1 - failed / max(seen.jobs, 1)), Aim(">=", 99.9)),
        ("of them at a second provider or later", "%", 100 * seen.retried / max(seen.jobs, 1), None),
        ("a job, p50", "s", percentile(seen.job_s, 50), None),
        ("a job, p99", "s", percentile(seen.job_s, 99), None),
        ("first fitting offer of a cold client, p50", "round trips", percentile(seen.cold_s, 50) / round_trip, None),
        (
            "first fitting offer of a cold client, p99",
            "round trips",
            percentile(seen.cold_s, 99) / round_trip,
            Aim("<=", 9),
        ),
        ("age of an offer in a book, p50", "s", percentile(seen.offer_age_s, 50), None),
        ("age of an offer in a book, p99", "s", percentile(seen.offer_age_s, 99), None),
        ("offers in a book, median", "", percentile(seen.known, 50), None),
        ("offers of the dead, of all in books", "%", 100 * len(seen.ghost_s) / max(len(seen.offer_age_s), 1), None),
        ("longest that one stayed", "s", max(seen.ghost_s, default=0.0), Aim("<=", 60)),
        ("announcements by gossip, received", "bytes/s a node", gossip, None),
        ("bytes on the wire for each of them (60 real nodes)", "", copies, None),
        ("announcements asked for", "bytes/s a node", capacity, None),
        ("records in the DHT", "bytes/s a node", dht, None),
        ("announcements in all", "bytes/s a node", copies * gossip + capacity + dht, Aim("<=", 1000)),
        ("load of equal providers: Jain's index", "", jain(served), None),
        ("load of equal providers: p90 / median", "", percentile(served, 90) / max(percentile(served, 50), 1), None),
    ]
    return [Figure(name, unit, (float(value),), aim) for name, unit, value, aim in rows]


def _as_json(plan: TownPlan) -> dict[str, Any]:
    return {name: getattr(plan, name) for name in plan.__slots__}


@contextmanager
def _in_memory() -> Iterator[Path]:
    """A folder for thousands of small databases, in memory where the system has a place for that."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-", dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def _allow_files(count: int) -> None:
    """Raise this process's limit of open files as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
