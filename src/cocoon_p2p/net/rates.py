"""How often something may happen: token buckets, one that is waited for, and many, one a source. Pure: the caller says what
time it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cocoon_p2p.limits import RATE_KEYS_MAX

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Rate:
    """`burst` at once, and `per_s` a second on average."""

    per_s: float
    burst: float


def _refilled(tokens: float, seconds: float, rate: Rate) -> float:
    return min(rate.burst, tokens + max(0.0, seconds) * rate.per_s)


_ROUNDING = 1e-6


class Pace:
    """One bucket, of somebody who waits instead of dropping what comes too early."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._rate = Rate(per_s, burst)
        self._tokens = burst
        self._at = now

    def available(self, now: float) -> float:
        self._tokens = _refilled(self._tokens, now - self._at, self._rate)
        self._at = max(self._at, now)
        return self._tokens

    def spend(self, now: float, cost: float = 1.0) -> None:
        """The caller has waited; what it spends beyond that is a debt."""
        self._tokens = self.available(now) - cost

    def wait_s(self, now: float, wanted: float = 1.0) -> float:
        """How long until `wanted` (at most the burst) are there; 0 when they are, but for what rounding takes: to wait for
        that brings a clock of floats no further."""
        missing = min(wanted, self._rate.burst) - self.available(now)
        return missing / self._rate.per_s if missing > _ROUNDING else 0.0


class Buckets(Generic[Key]):
    """What each source has left. Bounded: whoever was quiet longest is forgotten, and begins with a full bucket."""

    def __init__(self, rate: Rate, *, keys_max: int = RATE_KEYS_MAX) -> None:
        self.rate = rate
        self._keys_max = keys_max
        self._left: OrderedDict[Key, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._left)

    def left(self, key: Key, now: float, *, share: float = 1.0, rate: Rate | None = None) -> float:
        """Tokens at `now` of a source that is granted `share` of the rate."""
        whole = rate or self.rate
        rate = whole if share == 1.0 else Rate(whole.per_s * share, whole.burst * share)
        rate = rate if rate.burst >= 1.0 else Rate(rate.per_s, 1.0)
        tokens, at = self._left.get(key, (rate.burst, now))
        return _refilled(tokens, now - at, rate)

    def take(self, key: Key, now: float, *, share: float = 1.0, rate: Rate | None = None) -> bool:
        """Take one token; False, and nothing taken, when there is none."""
        tokens = self.left(key, now, share=share, rate=rate)
        taken = tokens >= 1.0
        self._left[key] = (tokens - 1.0 if taken else tokens, now)
        self._left.move_to_end(key)
        if len(self._left) > self._keys_max:
            self._left.popitem(last=False)
        return taken

    def forget(self, key: Key) -> None:
        self._left.pop(key, None)
