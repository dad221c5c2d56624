"""A market as the local API tells of it, and a node that answers with it."""

from __future__ import annotations

from typing import Any

import trio

from cocoon_p2p.ids import Tier

PEERS = (
    "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N",
    "12D3KooWHzLJWKydMCzqv5Do9eWTbQwSHstrWQbUwo2g22VHQ7He",
    "12D3KooWGRUfvjWAyCUYpzdvMxCv4iQ8dCvVqGTT4Xbsm9sQxGcu",
)
MINILM, LLAMA = "3b5a1c2d" * 8, "77aa1c2d" * 8


def offer(peer: int = 0, **changes: Any) -> dict[str, Any]:
    """One offer of minilm at 0.0001 GRAM a job and 0.00001 an item, sealed or open."""
    price = {"base_nanogram": 100_000, "per_unit_nanogram": 10_000}
    return {
        "model_id": MINILM, "name": "minilm", "peer_id": PEERS[peer], "agent": "", "addresses": [], "unit": "item",
        "prices": {"open": price, "sealed": price}, "slots_free": 31, "slots_total": 32, "queue_ms": 150,
        "item_us": 2000, "items_max": 64, "input_bytes_max": 1024, "device": "cpu", "device_class": "cpu",
        "throughput_items_s": 123.4, "region": "de", "settlement_network": 0, "latency_ms": 0.412,
        "reliability": 0.98, "tries": 41, "expected_ms": 3.2, "age_ms": 12_000,
        **changes,
    }  # fmt: skip


def line(tier: str = "sealed", **changes: Any) -> dict[str, Any]:
    """One line of the book."""
    return {
        "model_id": MINILM, "name": "minilm", "tier": tier, "unit": "item", "providers": 1, "slots_free": 31,
        "slots_total": 32, "best_nanogram": 110_000, "median_nanogram": 120_000, "fastest_ms": 3.2,
        "devices": {"cpu": 1}, "age_ms": 12_000,
        **changes,
    }  # fmt: skip


def answer(offers: list[dict[str, Any]] | None = None, *, version: str = "a", **changes: Any) -> dict[str, Any]:
    """What GET /v1/offers gives; one offer, when nothing else is said."""
    offers = [offer()] if offers is None else offers
    book = [line("sealed"), line("open")] if offers else []
    return {"book": book, "offers": offers, "version": version, "empty": None, **changes}


class MarketNode:
    """Answers with `now`, at once or when `show` gives it something else; remembers what it was asked."""

    def __init__(self, now: dict[str, Any] | None = None) -> None:
        self.now = answer() if now is None else now
        self.asked: list[tuple[str | None, Tier | None]] = []
        self.waits: list[tuple[str, float]] = []
        self.waiting = trio.Event()
        self._changed = trio.Event()

    def show(self, now: dict[str, Any]) -> None:
        self.now = now
        self.waiting = trio.Event()
        self._changed.set()
        self._changed = trio.Event()

    async def market(self, model: str | None = None, *, tier: Tier | None = None) -> dict[str, Any]:
        self.asked.append((model, tier))
        return self.now

    async def market_after(
        self, version: str, wait_s: float, model: str | None = None, *, tier: Tier | None = None
    ) -> dict[str, Any]:
        self.waits.append((version, wait_s))
        with trio.move_on_after(wait_s):
            while version == self.now["version"]:
                self.waiting.set()
                await self._changed.wait()
        return await self.market(model, tier=tier)
