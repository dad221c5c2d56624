"""Which providers a client asks: out of a few random offers that fit, the one with the best price × time ÷ reliability.

Taking the best of several random candidates, and not the best of all, keeps the clients of a network from all running to
the same provider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import PeerId, Tier
from cocoon_p2p.limits import SELECTION_SAMPLE
from cocoon_p2p.units import format_nanogram

LATENCY_UNKNOWN_MS = 100.0
"""A round trip between continents: somebody whose latency was never measured is not preferred for it."""
ITEM_UNKNOWN_US = 10_000
"""Work per item where a provider announces none."""
RELIABILITY_MIN = 0.01


class Random(Protocol):
    """The part of `random.Random` that is used here; it is handed in, so that a seed repeats a decision."""

    def sample(self, population: Sequence[int], k: int) -> list[int]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """The job that needs a provider."""

    tier: Tier
    items: int
    input_bytes: int
    max_total: int | None = None
    """The most to pay, nanogram; None for no limit."""
    provider: PeerId | None = None
    """Only this one."""
    networks: frozenset[int] = frozenset({0})
    """Settlement networks that we can pay on."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One provider's offer of the model, and what we know of the provider."""

    peer_id: PeerId
    price_base: int
    price_per_item: int
    tiers: frozenset[Tier]
    items_max: int
    input_bytes_max: int
    networks: frozenset[int] = frozenset({0})
    queue_ms: int = 0
    item_us: int = 0
    """Announced work per item; 0 for unknown."""
    latency_ms: float | None = None
    reliability: float = 0.5
    """0 … 1, of `policy.reputation.reliability`."""
    banned: bool = False

    def price(self, items: int) -> int:
        """Nanogram."""
        return self.price_base + self.price_per_item * items


@dataclass(frozen=True, slots=True)
class Excluded:
    """A candidate that does not fit, why, and the number that would make it fit (as in `errors.PeerRefused`)."""

    candidate: Candidate
    reason: RefusalReason
    detail: str
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    chosen: tuple[Candidate, ...]
    """The one to ask first, first."""
    excluded: tuple[Excluded, ...]


def select(wanted: Wanted, candidates: Sequence[Candidate], *, count: int, rng: Random) -> Selection:
    """Up to `count` candidates, each the best of `limits.SELECTION_SAMPLE` random ones of those that are left."""
    fitting: list[Candidate] = []
    excluded: list[Excluded] = []
    for candidate in candidates:
        misfit = why_not(wanted, candidate)
        if misfit is None:
            fitting.append(candidate)
        else:
            excluded.append(misfit)
    chosen: list[Candidate] = []
    while fitting and len(chosen) < count:
        drawn = rng.sample(range(len(fitting)), min(SELECTION_SAMPLE, len(fitting)))
        best = min(drawn, key=lambda i: score(wanted, fitting[i]))
        chosen.append(fitting[best])
        fitting[best] = fitting[-1]
        fitting.pop()
    return Selection(tuple(chosen), tuple(excluded))


def score(wanted: Wanted, candidate: Candidate) -> float:
    """Price × expected time ÷ reliability; lower is better. One nanogram is added to the price, so that time still
    counts between offers that cost nothing."""
    item_us = candidate.item_us or ITEM_UNKNOWN_US
    latency_ms = LATENCY_UNKNOWN_MS if candidate.latency_ms is None else candidate.latency_ms
    time_ms = 1 + latency_ms + candidate.queue_ms + wanted.items * item_us / 1000
    return (candidate.price(wanted.items) + 1) * time_ms / max(candidate.reliability, RELIABILITY_MIN)


def why_not(wanted: Wanted, candidate: Candidate) -> Excluded | None:
    """None when the candidate fits. The price comes last: it is what the client may want to change."""
    if wanted.provider is not None and candidate.peer_id != wanted.provider:
        return Excluded(candidate, RefusalReason.LIMITS, "another provider was asked for")
    if candidate.banned:
        return Excluded(candidate, RefusalReason.STANDING, "it broke the rules of the protocols too often")
    if wanted.tier not in candidate.tiers:
        offered = ", ".join(tier.name.lower() for tier in sorted(candidate.tiers)) or "no tier"
        return Excluded(candidate, RefusalReason.TIER, f"offers {offered}, not {wanted.tier.name.lower()}")
    if not wanted.networks & candidate.networks:
        taken = ", ".join(map(str, sorted(candidate.networks))) or "none"
        return Excluded(candidate, RefusalReason.PAYMENT, f"takes payments on network {taken}")
    if wanted.items > candidate.items_max:
        return Excluded(
            candidate,
            RefusalReason.LIMITS,
            f"takes {candidate.items_max} items a job, not {wanted.items}",
            candidate.items_max,
        )
    if wanted.input_bytes > candidate.input_bytes_max:
        return Excluded(
            candidate,
            RefusalReason.LIMITS,
            f"takes {candidate.input_bytes_max} bytes of input, not {wanted.input_bytes}",
            candidate.input_bytes_max,
        )
    price = candidate.price(wanted.items)
    if wanted.max_total is not None and price > wanted.max_total:
        return Excluded(
            candidate,
            RefusalReason.PRICE,
            f"costs {format_nanogram(price)}; the limit is {format_nanogram(wanted.max_total)}",
            price,
        )
    return None


def cheapest(wanted: Wanted, candidates: Sequence[Candidate]) -> Candidate | None:
    """The lowest price among those that would fit at any price: what a refusal by price should name."""
    unlimited = Wanted(wanted.tier, wanted.items, wanted.input_bytes, None, wanted.provider, wanted.networks)
    fitting = [candidate for candidate in candidates if why_not(unlimited, candidate) is None]
    return min(fitting, key=lambda candidate: candidate.price(wanted.items), default=None)
