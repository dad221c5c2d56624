"""How many bytes may go now: a token bucket. Pure: the caller says what time it is."""

from __future__ import annotations

from math import inf

BURST_S = 1.0
"""So much of what was not used is kept."""


class Bandwidth:
    """`per_s` bytes a second; 0: no limit. What is spent beyond what is there is a debt, so that a piece larger than the
    bucket passes, too."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s * BURST_S
        self._at = -inf

    def allows(self, now: float) -> bool:
        """Whether something may be sent now."""
        return not self._per_s or self._refilled(now) > 0

    def spend(self, now: float, size: int) -> None:
        """`size` bytes go."""
        if self._per_s:
            self._left = self._refilled(now) - size

    def ready_at(self, now: float) -> float:
        """When `allows` will be true."""
        missing = -self._refilled(now) if self._per_s else -1.0
        # A clock of floats must get there: a microsecond's worth more than nothing.
        return now if missing < 0 else now + missing / self._per_s + 1e-6

    def _refilled(self, now: float) -> float:
        if now > self._at:
            elapsed_s = now - self._at if self._at > -inf else 0.0
            self._left = min(self._left + elapsed_s * self._per_s, self._per_s * BURST_S)
            self._at = now
        return self._left
