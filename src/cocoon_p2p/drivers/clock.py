"""The two clocks of a node."""

from __future__ import annotations

import time
from typing import Protocol

import trio


class Clock(Protocol):
    def now(self) -> float:
        """Seconds that never jump, for deadlines: trio's clock."""

    def unix(self) -> float:
        """Unix seconds, for what other machines read."""


class SystemClock:
    """trio's monotonic clock and the machine's wall clock."""

    def now(self) -> float:
        return trio.current_time()

    def unix(self) -> float:
        return time.time()


def unix_ms(clock: Clock) -> int:
    return int(clock.unix() * 1000)
