"""Going no faster than agreed: a token bucket that is waited for instead of dropping what comes too early."""

from __future__ import annotations


class Pace:
    """`burst` at once, and `per_s` a second on average. Times are the caller's seconds."""

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._tokens = burst
        self._at = now

    def available(self, now: float) -> float:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._per_s)
        self._at = max(self._at, now)
        return self._tokens

    def spend(self, now: float, cost: float = 1.0) -> None:
        """The caller has waited; what it spends beyond that is a debt."""
        self._tokens = self.available(now) - cost

    def wait_s(self, now: float, wanted: float = 1.0) -> float:
        """How long until `wanted` (at most the burst) are there; 0 when they are."""
        return max(0.0, min(wanted, self._burst) - self.available(now)) / self._per_s
