"""Tells the pricing policies how busy this node is, keeps their state across restarts, and has moved prices announced.

The share of busy slots is a mean over time that each begin and end of a job adds to: nothing wakes up but the tick, and
that only when prices can move."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import trio

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import PRICE_TICK_S
from cocoon_p2p.policy.pricing import KeepsLevel, PricingPolicy
from cocoon_p2p.proto.provider_desk import ProviderDesk
from cocoon_p2p.store.values import Values

log = logging.getLogger(__name__)


class PriceLevels:
    """The levels of prices on the disk, by model and name of the policy: another policy's level means something else."""

    def __init__(self, values: Values, pricing: str) -> None:
        self._values = values
        self._pricing = pricing
        self._kept: dict[ModelId, int] = {}

    def restore(self, model_id: ModelId, policy: PricingPolicy) -> None:
        """Take the price up where it was."""
        kept = self._values.get(self._name(model_id))
        if kept > 0 and isinstance(policy, KeepsLevel):
            policy.level = self._kept[model_id] = kept

    def keep(self, model_id: ModelId, policy: PricingPolicy) -> None:
        """Written only when it is another one."""
        level = policy.level if isinstance(policy, KeepsLevel) else 0
        if level > 0 and level != self._kept.get(model_id):
            self._values.set(self._name(model_id), level)
            self._kept[model_id] = level

    def _name(self, model_id: ModelId) -> str:
        return f"price-level:{self._pricing}:{model_id}"


class PriceKeeper:
    """`run` it in a task when prices can move."""

    def __init__(self, desk: ProviderDesk, levels: PriceLevels) -> None:
        self._desk = desk
        self._busy = _BusyTime(desk.slots)
        self.levels = levels

    async def run(self, moved: Callable[[], None]) -> None:
        """Runs until cancelled. Calls `moved` when a price did."""
        self._on_load()
        self._desk.load_changed = self._on_load
        try:
            while True:
                await trio.sleep(PRICE_TICK_S)
                if self._tick():
                    moved()
        finally:
            self._desk.load_changed = _nothing

    def _on_load(self) -> None:
        self._busy.note(self._desk.running, trio.current_time())

    def _tick(self) -> bool:
        self._on_load()
        utilisation = self._busy.take()
        if self._desk.rests is not None or utilisation is None:
            return False  # nobody could have come: that says nothing about demand
        policies: Mapping[ModelId, PricingPolicy] = {each.model_id: each.pricing for each in self._desk.models.values()}
        moved = [model_id for model_id, policy in policies.items() if policy.observe(utilisation)]
        for model_id, policy in policies.items():
            self.levels.keep(model_id, policy)
        if moved:
            log.info("%.0f %% of the slots were busy: the prices of %d models moved", 100 * utilisation, len(moved))
        return bool(moved)


class _BusyTime:
    """The integral of busy slots over time."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running = 0
        self._since: float | None = None
        self._busy = 0.0
        self._elapsed = 0.0

    def note(self, running: int, now: float) -> None:
        """From now on so many slots are busy."""
        if self._since is not None:
            passed = max(0.0, now - self._since)
            self._busy += passed * min(self._running, self._slots)
            self._elapsed += passed
        self._running, self._since = running, now

    def take(self) -> float | None:
        """The mean share of busy slots since this was asked last; None when no time has passed."""
        busy, elapsed = self._busy, self._elapsed
        self._busy = self._elapsed = 0.0
        return busy / (elapsed * self._slots) if elapsed > 0 else None


def _nothing() -> None:
    pass
