"""Who is refused, and until when: peers by their identity, subnets by what came from them before anybody proved one.

Pure: the caller says what time it is. Bounded: of too many bans the one that ends first goes first.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from cocoon_p2p.limits import BANS_MAX

Key = TypeVar("Key", bound=Hashable)


class Bans(Generic[Key]):
    """Bans of one kind of thing. Each ends by itself."""

    def __init__(self, *, bans_max: int = BANS_MAX) -> None:
        self._bans_max = bans_max
        self._until: dict[Key, float] = {}

    def __len__(self) -> int:
        return len(self._until)

    def ban(self, key: Key, until: float, now: float) -> None:
        """A second ban takes the place of the first, also when it is shorter: whoever bans knows best."""
        self._until[key] = until
        if len(self._until) > self._bans_max:
            self._until = {banned: end for banned, end in self._until.items() if end > now}
        while len(self._until) > self._bans_max:
            del self._until[min(self._until, key=lambda banned: self._until[banned])]

    def unban(self, key: Key) -> None:
        self._until.pop(key, None)

    def remaining_s(self, key: Key, now: float) -> float:
        """0 for whoever is not banned."""
        until = self._until.get(key)
        if until is None:
            return 0.0
        if now >= until:
            del self._until[key]
            return 0.0
        return until - now

    def holds(self, key: Key, now: float) -> bool:
        return self.remaining_s(key, now) > 0

    def current(self, now: float) -> dict[Key, float]:
        """Seconds that are left of each ban."""
        return {key: until - now for key, until in self._until.items() if until > now}
