"""Kademlia's positions, and the frontier of a lookup: whom to ask next, and whom to believe. No IO.

Keys are SHA-256 of the binary peer id or of the record's key; distance is XOR (libp2p specs, kad-dht).
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import DHT_BUCKET_PEERS_MAX, DHT_CANDIDATES_MAX, DHT_HEARSAY_FAILURES_MAX

KEY_BITS = 256


def position_of(key: bytes) -> int:
    """Where a key lies in the key space."""
    # SPEC kad/1 §2
    return int.from_bytes(hashlib.sha256(key).digest())


@lru_cache(maxsize=8192)
def position_of_peer(peer: PeerId) -> int:
    return position_of(peer_id_to_bytes(peer))


class Frontier:
    """One lookup. It is over when the k nearest that are alive have all been asked.

    A peer that names others who turn out not to be there is not believed any more, so that one liar costs a lookup
    DHT_HEARSAY_FAILURES_MAX dials and no more.
    """

    def __init__(self, target: int, own: PeerId, seeds: Iterable[PeerId]) -> None:
        self._target = target
        self._distances: dict[PeerId, int] = {}
        self._unasked: set[PeerId] = set()
        self._failed: set[PeerId] = {own}
        self._tellers: dict[PeerId, set[PeerId]] = {}
        """Who named a peer; nobody for those that we knew ourselves."""
        self._debts: Counter[PeerId] = Counter()
        """Of a teller: named peers that failed, less those that answered."""
        self.add(seeds)

    def add(self, peers: Iterable[PeerId], teller: PeerId | None = None) -> None:
        for peer in peers:
            if peer in self._distances:
                if teller is not None and peer in self._tellers:
                    self._tellers[peer].add(teller)
            elif peer not in self._failed and self._make_room(distance := position_of_peer(peer) ^ self._target):
                self._distances[peer] = distance
                self._unasked.add(peer)
                if teller is not None:
                    self._tellers[peer] = {teller}

    def next(self, breadth: int = DHT_BUCKET_PEERS_MAX) -> PeerId | None:
        """The nearest peer among the `breadth` nearest living ones that has not been asked; None when there is none now."""
        for peer in self.nearest(breadth):
            if peer in self._unasked:
                self._unasked.discard(peer)
                return peer
        return None

    def succeeded(self, peer: PeerId) -> None:
        self._debts.subtract(self._tellers.get(peer, ()))

    def failed(self, peer: PeerId) -> None:
        self._failed.add(peer)
        self._distances.pop(peer, None)
        self._debts.update(self._tellers.get(peer, ()))

    def considered(self) -> set[PeerId]:
        """Everybody who was a candidate."""
        return self._failed | self._distances.keys()

    def nearest(self, count: int = DHT_BUCKET_PEERS_MAX) -> list[PeerId]:
        """Those nearest to the target that are believed in: where a record belongs."""
        # SPEC kad/1 §6.2
        credible = (peer for peer in self._distances if self._is_credible(peer))
        return heapq.nsmallest(count, credible, key=self._distances.__getitem__)

    def _make_room(self, distance: int) -> bool:
        """Of too many candidates the farthest goes, unless the new one is farther."""
        if len(self._distances) < DHT_CANDIDATES_MAX:
            return True
        farthest = max(self._unasked, key=self._distances.__getitem__, default=None)
        if farthest is None or self._distances[farthest] <= distance:
            return False
        self._unasked.discard(farthest)
        del self._distances[farthest]
        self._tellers.pop(farthest, None)
        return True

    def _is_credible(self, peer: PeerId) -> bool:
        tellers = self._tellers.get(peer)
        if tellers is None or peer not in self._unasked:
            return True
        return any(self._debts[teller] < DHT_HEARSAY_FAILURES_MAX for teller in tellers)
