"""How much a model does at most: items counted in spans of RATE_WINDOW_S, of which the best of RATE_KEPT_S is told."""

from __future__ import annotations

from collections import deque

from cocoon_p2p.limits import RATE_KEPT_S, RATE_WINDOW_S


class RateMeter:
    """Spans with nothing done cost nothing. `now` is on any clock that never jumps."""

    def __init__(self) -> None:
        self._spans: deque[tuple[int, int]] = deque()
        """(number of the span, items done in it), the newest last: RATE_KEPT_S / RATE_WINDOW_S of them at most."""

    def add(self, items: int, now: float) -> None:
        span = int(now // RATE_WINDOW_S)
        if self._spans and self._spans[-1][0] == span:
            items += self._spans.pop()[1]
        self._spans.append((span, items))
        self._forget(span)

    def best_items_s(self, now: float) -> float:
        """Items a second in the best span, also of the one that is still going on; 0 when nothing was done lately."""
        self._forget(int(now // RATE_WINDOW_S))
        return max((items for _, items in self._spans), default=0) / RATE_WINDOW_S

    def _forget(self, span: int) -> None:
        while self._spans and self._spans[0][0] <= span - int(RATE_KEPT_S // RATE_WINDOW_S):
            self._spans.popleft()
