"""Announced prices are firm: what this provider announced lately, and so has to take from a client that submits. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.limits import FIRM_GRACE_S, FIRM_PRICES_MAX
from cocoon_p2p.policy.pricing import Price
from cocoon_p2p.wire.capacity import Offer, Unit
from cocoon_p2p.wire.job import QuoteBody, decode_quote_body, quoted_total

_GRACE_MS = int(FIRM_GRACE_S * 1000)
_Key = tuple[ModelId, Tier, Unit, int, int]


class FirmOffers:
    """The prices of all announcements of ours that have not expired for more than limits.FIRM_GRACE_S."""

    # SPEC job/1 §3.12
    def __init__(self, *, kept_max: int = FIRM_PRICES_MAX) -> None:
        self._kept_max = kept_max
        self._until_ms: OrderedDict[_Key, int] = OrderedDict()
        """(model, tier, unit, base, per unit) -> when the promise ends; the one announced longest ago first."""

    def __len__(self) -> int:
        return len(self._until_ms)

    def announced(self, offers: Sequence[Offer], expires_at_ms: int) -> None:
        """An announcement with these offers goes out."""
        until_ms = expires_at_ms + _GRACE_MS
        for offer in offers:
            if offer.unit is Unit.GPU_MS:
                continue  # a job's terms are in items, which are tokens where a model generates
            for price in offer.prices:
                key = (offer.model_id, price.tier, offer.unit, price.base, price.per_unit)
                self._until_ms[key] = max(until_ms, self._until_ms.get(key, 0))
                self._until_ms.move_to_end(key)
        while len(self._until_ms) > self._kept_max:
            self._until_ms.popitem(last=False)

    def covers(self, terms: QuoteBody, now_ms: int) -> bool:
        """Whether the terms pay at least a price that was promised and still holds."""
        for key in [key for key, until_ms in self._until_ms.items() if until_ms < now_ms]:
            del self._until_ms[key]
        asked = (terms.model_id, terms.tier, Unit.TOKEN if terms.instalment else Unit.ITEM)
        return any(
            (model_id, tier, unit) == asked and reaches(terms, base, per_item)
            for model_id, tier, unit, base, per_item in self._until_ms
        )


def reaches(terms: QuoteBody, base: int, per_item: int) -> bool:
    """Whether a job on these terms pays at least these prices, however many of its items are worked on: a price is a line,
    so one item and all of them tell."""
    return all(
        quoted_total(terms.price_base, terms.price_per_item, items) >= quoted_total(base, per_item, items)
        for items in (1, terms.items)
    )


def at_least(terms: QuoteBody, price: Price) -> bool:
    return reaches(terms, price.base, price.per_item)


def read_terms(raw: bytes, *, provider: PeerId, client: PeerId, job_id: JobId) -> QuoteBody:
    """The terms that a client wrote for this job. Raises RemoteProtocolError: QUOTE, MALFORMED, BOUND."""
    # SPEC job/1 §3.12
    terms = decode_quote_body(raw)
    if (terms.provider, terms.client, terms.job_id) != (provider, client, job_id):
        raise RemoteProtocolError("the terms are another provider's, client's or job's", code="QUOTE")
    if terms.max_total != quoted_total(terms.price_base, terms.price_per_item, terms.items):
        raise RemoteProtocolError("the terms' total is not the sum of their prices", code="QUOTE")
    if terms.queue_ms or terms.payee_key or terms.seal_key_record:
        raise RemoteProtocolError("the terms hold what only a provider can say", code="QUOTE")
    return terms
