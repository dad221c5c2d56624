"""What every pricing policy is given and gives back. Whole nanogram; no money is ever a float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
    """A new policy is one file with a class like this, and one line in `policy.pricing.PRICING`."""

    def price(self, facts: PriceFacts) -> Price: ...
