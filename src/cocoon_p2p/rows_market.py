"""The market as the rows that the API, the command line and `Node` give out: dicts that are JSON as they stand (rows.py).

Money is nanogram in keys that end in _nanogram; times are milliseconds in keys that end in _ms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cocoon_p2p.ids import Tier
from cocoon_p2p.policy.order_book import BookLine, order_book
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.proto.market_facts import ExpectedMs, announced_ms, offer_facts
from cocoon_p2p.rows import Row
from cocoon_p2p.store.market_journal import MarketSample


def book_row(line: BookLine) -> Row:
    """One model in one tier: what all providers offer together."""
    return {
        "model_id": line.model_id,
        "name": line.name,
        "tier": line.tier.name.lower(),
        "unit": line.unit,
        "providers": line.providers,
        "slots_free": line.slots_free,
        "slots_total": line.slots_total,
        "best_nanogram": line.best,
        "median_nanogram": line.median,
        "fastest_ms": _milliseconds(line.fastest_ms),
        "devices": dict(line.devices),
        "age_ms": line.age_ms,
    }


def offer_row(
    each: BookOffer,
    *,
    now_ms: int,
    latency_ms: float | None = None,
    reliability: float | None = None,
    tries: int = 0,
    expected_ms: float | None = None,
) -> Row:
    """One model of one provider as announced, and what this node knows of the provider: the round trip to it as measured,
    the share of this node's jobs that it did well (None before the first of `tries`), and how long a job of one unit is
    expected to take."""
    offer = each.offer
    return {
        "model_id": offer.model_id,
        "name": offer.name,
        "peer_id": each.peer,
        "agent": each.agent,
        "addresses": list(each.addresses),
        "unit": offer.unit.name.lower(),
        "prices": {
            price.tier.name.lower(): {"base_nanogram": price.base, "per_unit_nanogram": price.per_unit}
            for price in offer.prices
        },
        "slots_free": offer.slots_free,
        "slots_total": offer.slots_total,
        "queue_ms": offer.queue_ms,
        "warm": offer.warm,
        "load_ms": offer.load_ms,
        "item_us": offer.item_us,
        "items_max": offer.items_max,
        "input_bytes_max": offer.input_bytes_max,
        "device": offer.device,
        "device_class": offer.device_class.name.lower(),
        "throughput_items_s": offer.throughput / 1000,
        "region": each.region or None,
        "settlement_network": each.settlement_networks[0] if each.settlement_networks else None,
        "latency_ms": _milliseconds(latency_ms),
        "reliability": None if reliability is None or tries == 0 else round(reliability, 4),
        "tries": tries,
        "expected_ms": _milliseconds(expected_ms),
        "age_ms": max(0, now_ms - each.issued_at_ms),
    }


def sample_row(sample: MarketSample) -> Row:
    """One model in one tier at one moment of the past."""
    return {
        "at_ms": sample.at_ms,
        "providers": sample.providers,
        "slots_free": sample.slots_free,
        "slots_total": sample.slots_total,
        "best_nanogram": sample.best,
        "median_nanogram": sample.median,
    }


def market_rows(
    offers: Sequence[BookOffer],
    *,
    now_ms: int,
    tier: Tier | None = None,
    expected_ms: ExpectedMs = announced_ms,
    row: Callable[[BookOffer], Row] | None = None,
) -> Row:
    """{"book", "offers"}: the order book and what it is made of, in one tier or in all. `row` makes an offer's row; as
    announced, without it."""
    book = order_book(offer_facts(offers, now_ms=now_ms, expected_ms=expected_ms))
    of_tier = [each for each in offers if tier is None or each.offer.price(tier) is not None]
    of_tier.sort(key=lambda each: (each.offer.name, lowest(each, tier), each.peer))
    make = row or (lambda each: offer_row(each, now_ms=now_ms, expected_ms=expected_ms(each)))
    return {
        "book": [book_row(line) for line in book if tier is None or line.tier is tier],
        "offers": [make(each) for each in of_tier],
    }


def lowest(each: BookOffer, tier: Tier | None) -> int:
    """Nanogram of a job of one unit, in this tier or in the cheapest."""
    return min((price.total(1) for price in each.offer.prices if tier in (None, price.tier)), default=0)


def _milliseconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
