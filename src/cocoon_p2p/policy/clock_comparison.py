"""How this machine's clock compares with those of other peers, as their announcements show it.

Announcements carry their time and live for a minute, so a clock that is wrong by more makes a node blind to others' offers and
others to its own, without anybody being at fault. What can be done about it is to say so.
"""

from __future__ import annotations

from collections import OrderedDict
from statistics import median

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import CLOCKS_COMPARED_MAX, CLOCKS_TO_JUDGE_BY


class ClockComparison:
    """Offsets of the peers heard of most recently: theirs less ours, in seconds; 0 for those that agree."""

    def __init__(self) -> None:
        self._offsets: OrderedDict[PeerId, float] = OrderedDict()

    def agrees(self, peer: PeerId) -> None:
        self._note(peer, 0.0)

    def differs(self, peer: PeerId, offset_s: float) -> str | None:
        """One line for the operator the first time that this peer's clock is seen to differ, and after it agreed; None
        otherwise."""
        known = self._offsets.get(peer)
        self._note(peer, offset_s)
        if known:
            return None
        ahead = "ahead of" if offset_s > 0 else "behind"
        return (
            f"the clocks of this machine and of peer {peer} differ by {abs(offset_s):.0f} s (it is {ahead} ours); "
            f"its offers are not taken meanwhile. {self.advice() or 'Which of the two is wrong is not known.'}"
        )

    def advice(self) -> str:
        """What the operator is to do; "" as long as this machine's clock agrees with most."""
        offset_s = self.own_error_s()
        if offset_s is None:
            return ""
        direction = "slow" if offset_s > 0 else "fast"
        return (
            f"This machine's clock seems to be {abs(offset_s):.0f} s {direction}: those of most other peers agree that it is. "
            "Set it, or let NTP do so (timedatectl set-ntp true)."
        )

    def own_error_s(self) -> float | None:
        """How far most others are from us, when enough were heard and most of them differ; None otherwise."""
        differing = [offset for offset in self._offsets.values() if offset]
        if len(self._offsets) < CLOCKS_TO_JUDGE_BY or 2 * len(differing) <= len(self._offsets):
            return None
        return median(differing)

    def counts(self) -> tuple[int, int]:
        """(peers whose clock differs, peers compared)."""
        return sum(bool(offset) for offset in self._offsets.values()), len(self._offsets)

    def _note(self, peer: PeerId, offset_s: float) -> None:
        self._offsets[peer] = offset_s
        self._offsets.move_to_end(peer)
        if len(self._offsets) > CLOCKS_COMPARED_MAX:
            self._offsets.popitem(last=False)
