"""How often something may happen: token buckets, one a source. Pure: the caller says what time it is."""

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
        per_s, burst = (rate or self.rate).per_s * share, max(1.0, (rate or self.rate).burst * share)
        tokens, at = self._left.get(key, (burst, now))
        return min(burst, tokens + max(0.0, now - at) * per_s)

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
