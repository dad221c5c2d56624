"""The registry of pricing policies, by the name that the configuration uses."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.policy.price import Price, PriceFacts, PricingPolicy
from cocoon_p2p.policy.pricing_fixed import FixedPricing

__all__ = ["PRICING", "FixedPricing", "Price", "PriceFacts", "PricingPolicy", "pricing_policy", "total_price"]

PRICING: dict[str, Callable[[int, int], PricingPolicy]] = {
    "fixed": FixedPricing,
}
"""name -> a maker that takes the model's base price and price per item."""


def pricing_policy(name: str, price_base: int, price_per_item: int) -> PricingPolicy:
    """Raises ConfigError for a name that is not registered, or prices that the policy does not take."""
    if name not in PRICING:
        nearest = difflib.get_close_matches(name, PRICING, n=1)
        raise ConfigError(
            f"there is no pricing policy {name[:64]!r}",
            hint=f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(sorted(PRICING))}",
        )
    return PRICING[name](price_base, price_per_item)


def total_price(price_base: int, price_per_item: int, items: int) -> int:
    """What a job of `items` costs at these prices, nanogram."""
    return price_base + price_per_item * items
