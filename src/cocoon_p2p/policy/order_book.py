"""The order book: single offers, as announced, summed up by model and tier. What people see of a market, and what is sampled.

All numbers are what providers say of themselves; only `expected_ms` may come from the node's own experience.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX


@dataclass(frozen=True, slots=True)
class OfferFacts:
    """One model of one provider in one tier."""

    peer: PeerId
    model_id: ModelId
    name: str
    """What this provider calls the model."""
    tier: Tier
    unit: str
    """What the second part of the price is asked for: "item", "token", "gpu_ms"."""
    price: int
    """Nanogram of a job of one unit."""
    slots_free: int
    slots_total: int
    device_class: str
    """"cpu", "gpu", "npu", "upstream" (a cluster of the provider's own), "other"."""
    age_ms: int
    """Since the announcement was issued."""
    expected_ms: float | None = None
    """How long a job of one unit is expected to take; None when nobody can tell."""


@dataclass(frozen=True, slots=True)
class BookLine:
    """All offers of one model in one tier (and by one unit: prices by different units do not compare)."""

    model_id: ModelId
    name: str
    """What most providers call the model."""
    tier: Tier
    unit: str
    providers: int
    slots_free: int
    slots_total: int
    best: int
    """The lowest price of a job of one unit, nanogram."""
    median: int
    """Half of the providers ask no more than this, nanogram; between the middle two when their number is even."""
    fastest_ms: float | None
    devices: tuple[tuple[str, int], ...]
    """Device classes with the number of providers, the most frequent first."""
    age_ms: int
    """Of the newest announcement."""


def order_book(facts: Iterable[OfferFacts]) -> list[BookLine]:
    """One line for each model, tier and unit, by name and then by tier, the most private first."""
    groups: dict[tuple[ModelId, Tier, str], list[OfferFacts]] = defaultdict(list)
    for each in facts:
        groups[each.model_id, each.tier, each.unit].append(each)
    lines = [_line(offers) for offers in groups.values()]
    return sorted(lines, key=lambda line: (line.name, line.model_id, -line.tier, line.unit))


def median_price(prices: Sequence[int]) -> int:
    """Nanogram, rounded down: of an even number the middle of the middle two."""
    ordered = sorted(prices)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2


def _line(offers: Sequence[OfferFacts]) -> BookLine:
    # A sum of two amounts may pass what an amount may be: whoever asks that much asks for "more than anybody has".
    prices = [min(offer.price, AMOUNT_NANOGRAM_MAX) for offer in offers]
    times = [offer.expected_ms for offer in offers if offer.expected_ms is not None]
    first = offers[0]
    return BookLine(
        model_id=first.model_id,
        name=_most_frequent(offer.name for offer in offers)[0][0],
        tier=first.tier,
        unit=first.unit,
        providers=len({offer.peer for offer in offers}),
        slots_free=sum(min(offer.slots_free, offer.slots_total) for offer in offers),
        slots_total=sum(offer.slots_total for offer in offers),
        best=min(prices),
        median=median_price(prices),
        fastest_ms=min(times, default=None),
        devices=tuple(_most_frequent(offer.device_class for offer in offers)),
        age_ms=min(offer.age_ms for offer in offers),
    )


def _most_frequent(words: Iterable[str]) -> list[tuple[str, int]]:
    """The most frequent first; in alphabetical order among equals, so that two nodes show the same."""
    return sorted(Counter(words).items(), key=lambda each: (-each[1], each[0]))
