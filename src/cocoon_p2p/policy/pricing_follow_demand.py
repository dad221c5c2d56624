"""A price that rises while the machine is in demand and falls while it idles: every PRICE_TICK_S

    p ← clamp(p · (1 + k · (utilisation − target)), floor, ceiling),   k = 0.1, target = 0.7, at most 5 % a step.

Integers only: `level` is what the price is multiplied by, in billionths of the listed one. Base and price per item move
together."""

from __future__ import annotations

from cocoon_p2p.policy.price import UNIT_LEVEL, ListedPrice, Price, PriceFacts

TARGET = 7 * UNIT_LEVEL // 10
"""Busy slots at which the price stays, in billionths: some must be free, or newcomers find none."""
GAIN_DIVISOR = 10
"""1/k."""
STEP_MAX = UNIT_LEVEL // 20
"""At most 5 % a step."""


class FollowDemand:
    """Raises ConfigError as `ListedPrice` does. Implements `KeepsLevel`."""

    def __init__(self, listed: ListedPrice) -> None:
        self._listed = listed
        self._floor = listed.floor_percent * UNIT_LEVEL // 100
        self._ceiling = listed.ceiling_percent * UNIT_LEVEL // 100
        self._level = UNIT_LEVEL

    @property
    def level(self) -> int:
        """Billionths of the listed price."""
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        """Also one that was kept under another floor and ceiling."""
        self._level = min(max(level, self._floor), self._ceiling)

    def price(self, facts: PriceFacts) -> Price:
        base, per_item = self._listed.at(self._level)
        return Price(base, per_item, base + per_item * facts.items)

    def observe(self, utilisation: float) -> bool:
        before = self._listed.at(self._level)
        busy = round(min(max(0.0, utilisation), 1.0) * UNIT_LEVEL)
        step = min(max((busy - TARGET) // GAIN_DIVISOR, -STEP_MAX), STEP_MAX)
        self.level = self._level * (UNIT_LEVEL + step) // UNIT_LEVEL
        return self._listed.at(self._level) != before
