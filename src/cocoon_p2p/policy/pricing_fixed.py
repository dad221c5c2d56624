"""The simplest price: so much a job and so much an item, whatever the hour."""

from __future__ import annotations

from cocoon_p2p.policy.price import ListedPrice, Price, PriceFacts


class FixedPricing:
    """Nanogram. Raises ConfigError as `ListedPrice` does."""

    def __init__(self, price_base: int, price_per_item: int) -> None:
        self._listed = ListedPrice(price_base, price_per_item)

    @classmethod
    def of(cls, listed: ListedPrice) -> FixedPricing:
        """Its floor and ceiling do not matter."""
        return cls(listed.base, listed.per_item)

    def price(self, facts: PriceFacts) -> Price:
        listed = self._listed
        return Price(listed.base, listed.per_item, listed.base + listed.per_item * facts.items)

    def observe(self, utilisation: float) -> bool:
        """It never moves."""
        del utilisation
        return False
