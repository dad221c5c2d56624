"""The routing table: peers that answer lookups, by how near they are to us. No IO.

A bucket for each length of the prefix that a peer's position shares with ours, with at most k peers. Whoever was heard from
longest ago gives way, and only when it is dead (Kademlia §4.1): peers that have been there long stay longest, and a flood
of new identities changes nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from enum import Enum

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import DHT_BUCKET_PEERS_MAX, DHT_BUCKET_SUBNET_MAX, DHT_TABLE_SUBNET_MAX
from cocoon_p2p.net.dht.kademlia import KEY_BITS, position_of_peer


class Admission(Enum):
    ADDED = "added"
    KNOWN = "known"
    FULL = "full"
    """`oldest` tells whom to try; `replace` puts the new one in its place."""
    SUBNET_FULL = "subnet full"


class RoutingTable:
    def __init__(self, own: PeerId) -> None:
        self._own = position_of_peer(own)
        self._own_id = own
        self._buckets: list[OrderedDict[PeerId, float]] = [OrderedDict() for _ in range(KEY_BITS + 1)]
        """Peer -> when it was last heard from; the one of longest ago first."""
        self._positions: dict[PeerId, int] = {}
        self._subnets: dict[PeerId, str] = {}
        self._looked_at: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, peer: object) -> bool:
        return peer in self._positions

    def peers(self) -> list[PeerId]:
        return list(self._positions)

    def add(self, peer: PeerId, now: float, subnet: str | None = None) -> Admission:
        """`subnet` is that of a peer with a public address; of one there are only so many."""
        # SPEC kad/1 §6.1
        if peer == self._own_id:
            return Admission.KNOWN
        if peer in self._positions:
            self.seen(peer, now)
            return Admission.KNOWN
        position = position_of_peer(peer)
        bucket = self._bucket(position)
        if subnet is not None and self._is_crowded(subnet, bucket):
            return Admission.SUBNET_FULL
        if len(bucket) >= DHT_BUCKET_PEERS_MAX:
            return Admission.FULL
        bucket[peer] = now
        self._positions[peer] = position
        if subnet is not None:
            self._subnets[peer] = subnet
        return Admission.ADDED

    def seen(self, peer: PeerId, now: float) -> None:
        """It answered."""
        position = self._positions.get(peer)
        if position is not None:
            bucket = self._bucket(position)
            bucket[peer] = now
            bucket.move_to_end(peer)

    def oldest(self, newcomer: PeerId) -> tuple[PeerId, float] | None:
        """Of the bucket in which a newcomer would be: who was heard from longest ago, and when."""
        return next(iter(self._bucket(position_of_peer(newcomer)).items()), None)

    def remove(self, peer: PeerId) -> None:
        position = self._positions.pop(peer, None)
        if position is not None:
            del self._bucket(position)[peer]
            self._subnets.pop(peer, None)

    def nearest(self, position: int, count: int = DHT_BUCKET_PEERS_MAX) -> list[PeerId]:
        return heapq.nsmallest(count, self._positions, key=lambda peer: self._positions[peer] ^ position)

    def neighbours(self) -> list[PeerId]:
        """The k nearest to ourselves."""
        return self.nearest(self._own)

    def note_lookup(self, position: int, now: float) -> None:
        self._looked_at[self._index(position)] = now

    def stale_prefix(self, now: float, older_than_s: float, bits_max: int) -> int | None:
        """How many leading bits a position shares with ours in whose bucket nothing was looked up for so long; the longest
        ago first. None when there is none within `bits_max`."""
        stale = [
            (self._looked_at.get(KEY_BITS - bits, float("-inf")), bits)
            for bits in range(bits_max + 1)
            if self._buckets[KEY_BITS - bits]
            and now - self._looked_at.get(KEY_BITS - bits, float("-inf")) >= older_than_s
        ]
        return min(stale)[1] if stale else None

    def shared_bits(self, position: int) -> int:
        return KEY_BITS - self._index(position)

    def _is_crowded(self, subnet: str, bucket: OrderedDict[PeerId, float]) -> bool:
        everywhere = Counter(self._subnets.values())[subnet]
        here = sum(self._subnets.get(other) == subnet for other in bucket)
        return everywhere >= DHT_TABLE_SUBNET_MAX or here >= DHT_BUCKET_SUBNET_MAX

    def _bucket(self, position: int) -> OrderedDict[PeerId, float]:
        return self._buckets[self._index(position)]

    def _index(self, position: int) -> int:
        return (position ^ self._own).bit_length()
