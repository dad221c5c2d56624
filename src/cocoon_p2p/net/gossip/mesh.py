"""The mesh of one topic: whom we exchange whole messages with, and who has to wait before it may come back. No IO.

gossipsub-v1.1.md: backoff after PRUNE, outbound quota, and keeping those who bring news when there are too many.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Set
from enum import Enum

from cocoon_p2p.ids import PeerId

# gossipsub-v1.0.md and -v1.1.md, "Parameters": D_low, D, D_high, D_out, D_score. Fewer than the 6 (4 to 12) that are usual:
# what we gossip is repeated and can be asked for, so a copy lost costs little, and copies are most of what gossip costs (14
# bytes on the wire for each byte of a message with the usual numbers, 8 with these: bench/mesh.py).
MESH_LOW, MESH_WANTED, MESH_HIGH, MESH_OUTBOUND, MESH_BEST = 3, 4, 6, 2, 2
BACKOFF_S = 60.0
"""PruneBackoff."""
_BACKOFF_MAX_S = 3600.0
"""What a neighbour can make us wait."""
_BACKOFF_SLACK_S = 1.0
"""A heartbeat: so that our GRAFT is not early by the other's clock."""
_CROSSING_S = 2.0
"""A GRAFT so soon after our PRUNE was on its way already."""
_BACKOFFS_MAX = 1024
_random = secrets.SystemRandom()


class GraftAnswer(Enum):
    TAKEN = "taken"
    FULL = "full"
    TOO_SOON = "too soon"
    """Within the backoff, and not by accident: the neighbour loses standing."""


class Mesh:
    def __init__(self) -> None:
        self.peers: set[PeerId] = set()
        self._backoff: dict[PeerId, tuple[float, float]] = {}
        """When it began and when it ends."""

    def __contains__(self, peer: object) -> bool:
        return peer in self.peers

    def __len__(self) -> int:
        return len(self.peers)

    def take_graft(self, peer: PeerId, now: float, *, outbound: bool) -> GraftAnswer:
        """A neighbour asks to be let in. Over MESH_HIGH only those whom we dialled are: an attacker dials us."""
        began, until = self._backoff.get(peer, (now, now))
        if now < until:
            return GraftAnswer.FULL if now < began + _CROSSING_S else GraftAnswer.TOO_SOON
        if peer not in self.peers and len(self.peers) >= MESH_HIGH and not outbound:
            return GraftAnswer.FULL
        self.peers.add(peer)
        return GraftAnswer.TAKEN

    def prune(self, peer: PeerId, now: float, backoff_s: float = BACKOFF_S) -> None:
        """One of the two let the other go; for so long neither may graft."""
        self.peers.discard(peer)
        wait_s = min(max(backoff_s, 1.0), _BACKOFF_MAX_S)
        began, until = self._backoff.get(peer, (now, now))
        self._backoff[peer] = (began if now < until else now, max(until, now + wait_s))
        while len(self._backoff) > _BACKOFFS_MAX:
            del self._backoff[min(self._backoff, key=lambda other: self._backoff[other][1])]

    def waits(self, peer: PeerId, now: float) -> bool:
        """Whether we may not graft it yet."""
        return now < self._backoff.get(peer, (0.0, now - _BACKOFF_SLACK_S))[1] + _BACKOFF_SLACK_S

    def tidy(self, interested: Set[PeerId], now: float) -> None:
        self.peers &= interested
        self._backoff = {peer: span for peer, span in self._backoff.items() if span[1] + _BACKOFF_SLACK_S > now}

    def missing(self, interested: Iterable[PeerId], outbound: Callable[[PeerId], bool], now: float) -> list[PeerId]:
        """Whom to graft: below MESH_LOW up to MESH_WANTED, and some whom we dialled in any case."""
        free = [peer for peer in interested if peer not in self.peers and not self.waits(peer, now)]
        chosen = pick(free, MESH_WANTED - len(self.peers)) if len(self.peers) < MESH_LOW else []
        dialled = sum(map(outbound, [*self.peers, *chosen]))
        more = [peer for peer in free if peer not in chosen and outbound(peer)]
        return chosen + pick(more, MESH_OUTBOUND - dialled)

    def surplus(self, outbound: Callable[[PeerId], bool], usefulness: Callable[[PeerId], float]) -> list[PeerId]:
        """Whom to prune when there are more than MESH_HIGH: neither those who brought most news, nor the last ones that we
        dialled; the rest by chance."""
        if len(self.peers) <= MESH_HIGH:
            return []
        ranked = sorted(pick(self.peers, len(self.peers)), key=usefulness, reverse=True)
        kept = ranked[:MESH_BEST]
        kept += [peer for peer in ranked if outbound(peer) and peer not in kept][
            : max(0, MESH_OUTBOUND - sum(map(outbound, kept)))
        ]
        others = [peer for peer in self.peers if peer not in kept]
        return pick(others, len(self.peers) - MESH_WANTED)


def pick(peers: Iterable[PeerId], count: int) -> list[PeerId]:
    """Up to `count` of them, by chance."""
    pool = sorted(peers)
    return _random.sample(pool, min(max(count, 0), len(pool)))
