"""The simplest price: so much a job and so much an item, whatever the hour."""

from __future__ import annotations

from dataclasses import dataclass

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, ITEMS_PER_JOB_MAX
from cocoon_p2p.policy.price import Price, PriceFacts


@dataclass(frozen=True, slots=True)
class FixedPricing:
    """Nanogram. Raises ConfigError for a negative price, or one that the largest job would make too large to count."""

    price_base: int
    price_per_item: int

    def __post_init__(self) -> None:
        for key, value in (("price_base", self.price_base), ("price_per_item", self.price_per_item)):
            if value < 0:
                raise ConfigError(f"{key} is {value}: a price is 0 or more nanogram")
        if self.price_base + self.price_per_item * ITEMS_PER_JOB_MAX > AMOUNT_NANOGRAM_MAX:
            raise ConfigError(
                f"price_base and price_per_item are too large: a job of {ITEMS_PER_JOB_MAX} items would cost more than "
                f"{AMOUNT_NANOGRAM_MAX} nanogram"
            )

    def price(self, facts: PriceFacts) -> Price:
        return Price(self.price_base, self.price_per_item, self.price_base + self.price_per_item * facts.items)
