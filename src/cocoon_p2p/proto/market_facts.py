"""Announced offers as the facts of an order book (policy/order_book.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cocoon_p2p.policy.order_book import OfferFacts
from cocoon_p2p.proto.market import BookOffer
from cocoon_p2p.wire.capacity import DeviceClass, Offer

ExpectedMs = Callable[[BookOffer], float | None]
_UPSTREAM = "upstream"
"""What the engine calls the device of a model that a cluster of the operator's own runs (execution/upstream)."""


def announced_ms(each: BookOffer) -> float | None:
    """What the provider's own numbers make of a job of one unit: waiting and work, without the way there and back. None
    when it has not worked yet."""
    offer = each.offer
    return None if offer.item_us == 0 else offer.queue_ms + offer.item_us / 1000


def offer_facts(
    offers: Iterable[BookOffer], *, now_ms: int, expected_ms: ExpectedMs = announced_ms
) -> list[OfferFacts]:
    """One for each tier of each offer, at the Unix time `now_ms`."""
    return [
        OfferFacts(
            peer=each.peer,
            model_id=each.offer.model_id,
            name=each.offer.name,
            tier=price.tier,
            unit=each.offer.unit.name.lower(),
            price=price.total(1),
            slots_free=each.offer.slots_free,
            slots_total=each.offer.slots_total,
            device_class=_device_word(each.offer),
            age_ms=max(0, now_ms - each.issued_at_ms),
            expected_ms=expected_ms(each),
        )
        for each in offers
        for price in each.offer.prices
    ]


def _device_word(offer: Offer) -> str:
    if offer.device_class is DeviceClass.OTHER and offer.device == _UPSTREAM:
        return _UPSTREAM
    return offer.device_class.name.lower()
