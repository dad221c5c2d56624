"""How long an answer waits where others are decoded together: until one of them ends and leaves its place. Pure.

All that have a place get a token in each step, so an answer that finds one free does not wait, however many are under way.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

_AVERAGE_WEIGHT = 0.1
"""Of the newest step in the moving average of a step's time."""


def steps_until_place(places: int, needs: Sequence[int]) -> int:
    """Steps until there is a place for one more; 0 when there is one now. `needs`: the tokens that each answer may still need,
    in the order in which they came: the first ones have the places, the others wait for theirs before the newcomer does."""
    if len(needs) < places:
        return 0
    ends = list(needs[:places])
    heapq.heapify(ends)
    for need in needs[places:]:
        heapq.heapreplace(ends, ends[0] + need)
    return ends[0]


class StepPace:
    """Seconds from one step of a worker to the next, work on prompts in between included. `now` is on any clock that never jumps."""

    def __init__(self) -> None:
        self.step_s: float | None = None
        """Moving average; None before the second step."""
        self._at: float | None = None

    def note(self, steps: int, now: float) -> None:
        """So many steps have been made since the last call."""
        if not steps:
            return
        if self._at is not None:
            step_s = (now - self._at) / steps
            weight = 1 - (1 - _AVERAGE_WEIGHT) ** steps
            self.step_s = step_s if self.step_s is None else self.step_s + weight * (step_s - self.step_s)
        self._at = now

    def rest(self) -> None:
        """There is nothing to do: the time until the next step is no step's."""
        self._at = None
