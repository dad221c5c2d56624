"""How many items of a large batch are under way at the same time: as many as providers have room for, found by trying."""

from __future__ import annotations

WINDOW_MIN = 4
"""While nobody is known yet: the first items find the providers."""
FIRST_OF_EACH = 2
"""Items for each known provider to begin with: one that it works on and one that waits. What is learned of the first ones
decides where the next go."""


class MapWindow:
    """Grows with every item that is done, so that it doubles in the time of one; once all providers were busy it is halved,
    and then grows by one for each window of items (TCP's slow start and congestion avoidance, RFC 5681 §3.1). A fixed
    one does none of that."""

    def __init__(self, at_most: int, *, adapts: bool) -> None:
        self._at_most = at_most
        self._adapts = adapts
        self._size: float | None = None
        self._was_busy = False

    def size(self, providers: int, room: int) -> int:
        """Items that may be under way; `room` is what all `providers` together take from one client."""
        if not self._adapts:
            return self._at_most
        if self._size is None:
            if not providers:
                return WINDOW_MIN
            self._size = float(max(FIRST_OF_EACH * providers, WINDOW_MIN))
        return max(1, min(int(self._size), self._at_most, max(room, WINDOW_MIN)))

    def done(self) -> None:
        """One item was done."""
        if self._size is not None:
            step = 1 / self._size if self._was_busy else 1.0
            self._size = min(self._size + step, float(self._at_most))

    def busy(self) -> None:
        """An item found no room."""
        if self._size is not None:
            self._was_busy = True
            self._size = max(self._size / 2, 1.0)
