"""How much a peer may send before we have read it (spec.md, "Flow Control"): windows that grow as they are used, within a
budget."""

from __future__ import annotations

from cocoon_p2p.limits import STREAM_WINDOW_BYTES_INITIAL, STREAM_WINDOW_BYTES_MAX

_ROUND_TRIPS = 2
"""A window of which half is read within so many round trips may be what holds the writer up (rust-yamux's measure; with
go-yamux's, which is twice as much, windows grow beyond what any way needs)."""
_ROUND_TRIP_MIN_S = 0.0005
"""On loopback what counts is not the way but how soon either program gets to run. Not more, for a window that is larger than
need be fills the system's buffers, in which small calls wait behind bulk: with 16 MiB 3 ms, with 2 MiB 1 ms (measured)."""


_FAR_S = 0.005
"""From such a round-trip time on, windows grow fourfold at a time: from 256 KiB to what 50 ms need in four round trips instead
of seven, before which a transfer of 256 MB over such a way is half done."""


class WindowBudget:
    """Bytes by which receive windows may grow beyond the initial ones. A connection's is part of its node's."""

    __slots__ = ("_parent", "available")

    def __init__(self, bytes_max: int, parent: WindowBudget | None = None) -> None:
        self.available = bytes_max
        self._parent = parent

    def take(self, size: int) -> bool:
        """False, and nothing is taken, when there is not that much left."""
        if size > self.available or (self._parent is not None and not self._parent.take(size)):
            return False
        self.available -= size
        return True

    def give_back(self, size: int) -> None:
        self.available += size
        if self._parent is not None:
            self._parent.give_back(size)


class ReceiveWindow:
    """The window of one stream, as we grant it.

    At any time: size = what the peer may still send + what is unread + what was read and not granted again.
    """

    __slots__ = ("_budget", "_granted_at", "_read", "allowed", "size")

    def __init__(self, budget: WindowBudget, now: float) -> None:
        self.size = STREAM_WINDOW_BYTES_INITIAL
        self.allowed = self.size
        """What the peer may still send."""
        self._budget = budget
        self._read = 0
        self._granted_at = now

    def receive(self, size: int) -> bool:
        """False when the peer may not send that much."""
        self.allowed -= size
        return self.allowed >= 0

    def note_read(self, size: int) -> bool:
        """Whether it is time to `grant`: when half the window has been read."""
        self._read += size
        return 2 * self._read >= self.size

    def grant(self, now: float, round_trip_s: float | None) -> int:
        """By how many bytes to open the peer's window: as many as were read, and more when the window is too small for
        the way and the pace; 0 before it is time. `round_trip_s` is None as long as it is not known."""
        credit = self._read
        if 2 * credit < self.size:
            return 0
        if round_trip_s is not None and now - self._granted_at < _ROUND_TRIPS * max(round_trip_s, _ROUND_TRIP_MIN_S):
            factor = 4 if round_trip_s >= _FAR_S else 2
            growth = min((factor - 1) * self.size, STREAM_WINDOW_BYTES_MAX - self.size)
            if growth and self._budget.take(growth):
                self.size += growth
                credit += growth
        self._read = 0
        self._granted_at = now
        self.allowed += credit
        return credit

    def end(self) -> None:
        """Give back what it grew by. Nothing is granted afterwards. Idempotent."""
        self._budget.give_back(self.size - STREAM_WINDOW_BYTES_INITIAL)
        self.size = STREAM_WINDOW_BYTES_INITIAL
