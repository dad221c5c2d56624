"""What every pricing policy is given and gives back. Whole nanogram; no money is ever a float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, ITEMS_PER_JOB_MAX

UNIT_LEVEL = 1_000_000_000
"""The level of a price that is what the operator listed: levels are billionths, so that rounding never holds one fast."""


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """What the operator lists for a model, nanogram, and how far its price may go from there. Raises ConfigError for a
    negative price, or one that the largest job at the highest price would make too large to count."""

    base: int
    per_item: int
    floor_percent: int = 100
    ceiling_percent: int = 100

    def __post_init__(self) -> None:
        for key, value in (("price_base", self.base), ("price_per_item", self.per_item)):
            if value < 0:
                raise ConfigError(f"{key} is {value}: a price is 0 or more nanogram")
        if not 1 <= self.floor_percent <= 100 <= self.ceiling_percent:
            raise ConfigError("the floor of a price is 1 to 100 percent of the listed one, the ceiling 100 or more")
        if (self.base + self.per_item * ITEMS_PER_JOB_MAX) * self.ceiling_percent > 100 * AMOUNT_NANOGRAM_MAX:
            raise ConfigError(
                f"price_base and price_per_item are too large: a job of {ITEMS_PER_JOB_MAX} items would cost more than "
                f"{AMOUNT_NANOGRAM_MAX} nanogram"
            )

    def at(self, level: int) -> tuple[int, int]:
        """(base, per item) at a level; what is not free at the listed price is not free at any."""
        return _scaled(self.base, level), _scaled(self.per_item, level)


def _scaled(amount: int, level: int) -> int:
    return max(min(amount, 1), (amount * level + UNIT_LEVEL // 2) // UNIT_LEVEL)


@dataclass(frozen=True, slots=True)
class PriceFacts:
    """What a price may depend on."""

    items: int
    """By the rule of job/1 §5."""
    input_bytes: int
    slots_total: int
    slots_free: int


@dataclass(frozen=True, slots=True)
class Price:
    """The numbers of a quote, nanogram: the job costs `base` and `per_item` for each item done, `max_total` at most."""

    base: int
    per_item: int
    max_total: int


class PricingPolicy(Protocol):
    """Prices one model. A new policy of the project is one file with a class like this, and one line in
    `policy.pricing.PRICING`; an operator's own is a package (docs/OPERATORS.md). Both are made from a `ListedPrice`.

    Both methods answer at once: the whole node waits for them."""

    def price(self, facts: PriceFacts) -> Price:
        """Of a sealed job, as it would be quoted now."""

    def observe(self, utilisation: float) -> bool:
        """Called every PRICE_TICK_S with the mean share of busy slots since the last call, 0 to 1. True when the price is
        another one now."""


@runtime_checkable
class KeepsLevel(Protocol):
    """A policy whose state is one whole number from 1 up; the node keeps it across restarts and sets it before use."""

    level: int
