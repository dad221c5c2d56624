"""Pricing policies by name: those of this project, and an operator's own, from installed packages (docs/OPERATORS.md).

An own policy is code of strangers to this program: what it raises or returns is checked, and one that fails is replaced
by the listed price until the node is started again. It never ends the node."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.net.supervisor import call_guarded, foreign_errors
from cocoon_p2p.policy.pricing import (
    PRICING,
    FixedPricing,
    KeepsLevel,
    ListedPrice,
    Price,
    PriceFacts,
    PricingMaker,
    PricingPolicy,
    problem_of_price,
    unknown_policy,
)

log = logging.getLogger(__name__)

Result = TypeVar("Result")

PRICING_GROUP = "cocoon_p2p.pricing"
"""The entry point group in which a package names its policies."""
_WHAT_IS_RIGHT = "it must be a class or function that takes a ListedPrice and returns a policy (docs/OPERATORS.md)"


def pricing_maker(name: str) -> PricingMaker:
    """What makes the policy of this name for each model. Raises ConfigError: no package has it, or the package that has it
    does not load."""
    if name in PRICING:
        return PRICING[name]
    installed = entry_points(group=PRICING_GROUP)
    found = next((point for point in installed if point.name == name), None)
    if found is None:
        raise unknown_policy(name, installed.names)
    where = f"the pricing policy {name!r} of the package {_package(found)} ({found.value})"
    made = _loaded(found, where)
    if not callable(made):
        raise ConfigError(f"{where} is of type {type(made).__name__}", hint=_WHAT_IS_RIGHT)

    def make(listed: ListedPrice) -> PricingPolicy:
        try:
            with foreign_errors(where, outcome_known=True):
                policy = made(listed)
        except TransportError as error:
            raise ConfigError(f"{error.message}: it cannot be made", hint=_WHAT_IS_RIGHT) from error.__cause__
        for method in ("price", "observe"):
            if not callable(getattr(policy, method, None)):
                raise ConfigError(f"{where} has no method {method}()", hint=_WHAT_IS_RIGHT)
        return GuardedPricing(policy, FixedPricing.of(listed), where)

    return make


def _loaded(found: EntryPoint, where: str) -> object:
    try:
        with foreign_errors(where, outcome_known=True):
            return found.load()
    except TransportError as error:
        raise ConfigError(
            f"{error.message}: it cannot be loaded",
            hint='mend or remove that package, or set pricing = "fixed" in [provider] of node.toml',
        ) from error.__cause__


def _package(found: EntryPoint) -> str:
    return found.dist.name if found.dist is not None else "of an unknown name"


class GuardedPricing:
    """An own policy behind its checks, with a fixed price behind that. Implements `KeepsLevel` as far as the policy does:
    0 is no level."""

    def __init__(self, policy: PricingPolicy, fallback: FixedPricing, where: str) -> None:
        self._policy: PricingPolicy = policy
        self._fallback = fallback
        self._where = where
        self._counters: Counter[str] = Counter()

    @property
    def failed(self) -> bool:
        """Whether the fixed price took over."""
        return self._policy is self._fallback

    @property
    def level(self) -> int:
        def read() -> int:
            level = self._policy.level if isinstance(self._policy, KeepsLevel) else 0
            return level if type(level) is int and 0 < level < 2**63 else 0

        return self._guarded(read) or 0

    @level.setter
    def level(self, level: int) -> None:
        def write() -> bool:
            if isinstance(self._policy, KeepsLevel):
                self._policy.level = level
            return True

        self._guarded(write)

    def price(self, facts: PriceFacts) -> Price:
        def ask() -> Price:
            price = self._policy.price(facts)
            problem = problem_of_price(price, facts.items)
            if problem is not None:
                raise TypeError(problem)
            return price

        return self._guarded(ask) or self._fallback.price(facts)

    def observe(self, utilisation: float) -> bool:
        return bool(self._guarded(lambda: bool(self._policy.observe(utilisation))))

    def _guarded(self, call: Callable[[], Result]) -> Result | None:
        """None when it failed; then the fixed price takes over."""
        before = sum(self._counters.values())
        result = call_guarded(self._where, call, None, self._counters)
        if sum(self._counters.values()) > before:
            log.error("%s failed: the listed price holds until the node is started again", self._where)
            self._policy = self._fallback
        return result
