"""The registry of pricing policies, by the name that the configuration uses."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX
from cocoon_p2p.policy.price import KeepsLevel, ListedPrice, Price, PriceFacts, PricingPolicy
from cocoon_p2p.policy.pricing_fixed import FixedPricing
from cocoon_p2p.policy.pricing_follow_demand import FollowDemand

__all__ = [
    "PRICING",
    "FixedPricing",
    "FollowDemand",
    "KeepsLevel",
    "ListedPrice",
    "Price",
    "PriceFacts",
    "PricingMaker",
    "PricingPolicy",
    "problem_of_price",
    "total_price",
    "unknown_policy",
]

PricingMaker = Callable[[ListedPrice], PricingPolicy]

PRICING: dict[str, PricingMaker] = {
    "fixed": FixedPricing.of,
    "follow-demand": FollowDemand,
}
"""name -> what makes a model's policy from its listed price."""


AMOUNT_MAX = AMOUNT_NANOGRAM_MAX // 10
"""Of an own policy's numbers: a tenth leaves room for an `open_percent` of 1000."""


def unknown_policy(name: str, installed: Iterable[str] = ()) -> ConfigError:
    """The error for a policy that is neither here nor among those of `installed` packages."""
    known = sorted({*PRICING, *installed})
    nearest = difflib.get_close_matches(name, known, n=1)
    return ConfigError(
        f"[provider] pricing: there is no policy {name[:64]!r}",
        hint=f"did you mean {nearest[0]!r}?" if nearest else f"known: {', '.join(known)}",
    )


def total_price(price_base: int, price_per_item: int, items: int) -> int:
    """What a job of `items` costs at these prices, nanogram."""
    return price_base + price_per_item * items


def problem_of_price(price: object, items: int) -> str | None:
    """What is wrong with what an operator's own policy asks for a job of `items`; None when it can be quoted."""
    if not isinstance(price, Price):
        return f"price() returned a {type(price).__name__}; it must be a cocoon_p2p.policy.price.Price"
    amounts = {"base": price.base, "per_item": price.per_item, "max_total": price.max_total}
    for name, amount in amounts.items():
        if type(amount) is not int:
            return f"{name} is a {type(amount).__name__}; it must be an int of nanogram"
        if not 0 <= amount <= AMOUNT_MAX:
            return f"{name} is {amount}; it must be from 0 to {AMOUNT_MAX} nanogram"
    if price.max_total != total_price(price.base, price.per_item, items):
        return f"max_total is {price.max_total}; it must be base + per_item x {items} items"
    return None
