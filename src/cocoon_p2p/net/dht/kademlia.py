"""Kademlia's state without its IO: the routing table, the frontier of a lookup, and what is stored for others.

Keys are SHA-256 of the binary peer id or of the record's key; distance is XOR (libp2p specs, kad-dht). Times are the
caller's seconds. dht/dht.py sends and receives.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_BUCKET_PEERS_MAX,
    DHT_CONTENTS_MAX,
    DHT_PROVIDER_LIFETIME_S,
    DHT_PROVIDERS_MAX,
    DHT_RECORD_LIFETIME_S,
    DHT_RECORDS_MAX,
    DHT_VALUE_BYTES_MAX,
)
from cocoon_p2p.net.port import RecordValidator

_KEY_BITS = 256


def position_of(key: bytes) -> int:
    """Where a key lies in the key space."""
    return int.from_bytes(hashlib.sha256(key).digest())


def position_of_peer(peer: PeerId) -> int:
    return position_of(peer_id_to_bytes(peer))


class RoutingTable:
    """Peers that answer lookups, by the length of the prefix that they share with us; at most k of each length.

    A full bucket keeps its old peers: those that have been there longest stay longest (Kademlia §4.1).
    """

    def __init__(self, own: PeerId) -> None:
        self._own = position_of_peer(own)
        self._own_id = own
        self._positions: dict[PeerId, int] = {}
        self._bucket_sizes = [0] * (_KEY_BITS + 1)

    def __len__(self) -> int:
        return len(self._positions)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._positions

    def add(self, peer: PeerId) -> bool:
        """True if the peer is new and there was room."""
        if peer in self._positions or peer == self._own_id:
            return False
        position = position_of_peer(peer)
        bucket = self._bucket(position)
        if self._bucket_sizes[bucket] >= DHT_BUCKET_PEERS_MAX:
            return False
        self._positions[peer] = position
        self._bucket_sizes[bucket] += 1
        return True

    def remove(self, peer: PeerId) -> None:
        position = self._positions.pop(peer, None)
        if position is not None:
            self._bucket_sizes[self._bucket(position)] -= 1

    def nearest(self, position: int, count: int = DHT_BUCKET_PEERS_MAX) -> list[PeerId]:
        return sorted(self._positions, key=lambda peer: self._positions[peer] ^ position)[:count]

    def _bucket(self, position: int) -> int:
        return (position ^ self._own).bit_length()


class Frontier:
    """One lookup: whom to ask next, and when it is over — when the k nearest that are alive have all been asked."""

    def __init__(self, target: int, own: PeerId, seeds: Iterable[PeerId]) -> None:
        self._target = target
        self._distances: dict[PeerId, int] = {}
        self._unasked: set[PeerId] = set()
        self._failed: set[PeerId] = {own}
        self.answered: list[PeerId] = []
        self.add(seeds)

    def add(self, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            if peer not in self._distances and peer not in self._failed:
                self._distances[peer] = position_of_peer(peer) ^ self._target
                self._unasked.add(peer)

    def next(self) -> PeerId | None:
        """The nearest peer among the k nearest living ones that has not been asked; None when there is none now."""
        for peer in self.nearest():
            if peer in self._unasked:
                self._unasked.discard(peer)
                return peer
        return None

    def succeeded(self, peer: PeerId) -> None:
        self.answered.append(peer)

    def failed(self, peer: PeerId) -> None:
        self._failed.add(peer)
        self._distances.pop(peer, None)

    def nearest(self) -> list[PeerId]:
        return sorted(self._distances, key=self._distances.__getitem__)[:DHT_BUCKET_PEERS_MAX]

    def nearest_answered(self) -> list[PeerId]:
        """Where a record belongs: the k nearest peers that are there."""
        known = (peer for peer in set(self.answered) if peer in self._distances)
        return sorted(known, key=self._distances.__getitem__)[:DHT_BUCKET_PEERS_MAX]


class RecordStore:
    """Valid records, one a key, the highest sequence number winning. Republishing the same record renews it: the library
    refuses it, and it vanishes at its expiry."""

    def __init__(self, validators: dict[str, RecordValidator]) -> None:
        self._validators = validators
        self._records: OrderedDict[str, tuple[bytes, float]] = OrderedDict()

    def sequence_of(self, key: str, value: bytes) -> int:
        """Raises RemoteProtocolError for a value that is not valid under this key, or a namespace that nobody vouches for."""
        if len(value) > DHT_VALUE_BYTES_MAX:
            raise RemoteProtocolError(f"a record of {len(value)} bytes", code="BOUND")
        parts = key.split("/", 2)
        validator = self._validators.get(parts[1]) if len(parts) == 3 and not parts[0] else None
        if validator is None or not key.isascii():
            raise RemoteProtocolError(f"no validator for the record key {key[:64]!r}", code="NAMESPACE")
        return validator(key, value)

    def better(self, key: str, one: bytes | None, other: bytes | None) -> bytes | None:
        """Whichever has the higher sequence number; the first where they are equal. Raises like sequence_of."""
        if one is None or other is None:
            return other if one is None else one
        return other if self.sequence_of(key, other) > self.sequence_of(key, one) else one

    def put(self, key: str, value: bytes, now: float) -> bool:
        """False if we hold a newer record. Raises RemoteProtocolError."""
        self.sequence_of(key, value)  # also when there is none to compare with
        if self.better(key, value, self.get(key, now)) != value:
            return False
        self._records[key] = (value, now + DHT_RECORD_LIFETIME_S)
        self._records.move_to_end(key)
        while len(self._records) > DHT_RECORDS_MAX:
            self._records.popitem(last=False)
        return True

    def get(self, key: str, now: float) -> bytes | None:
        value, expires_at = self._records.get(key, (None, 0.0))
        return value if now < expires_at else None


class ProviderStore:
    """Who said that it provides a content id, and until when we believe it."""

    def __init__(self) -> None:
        self._contents: OrderedDict[bytes, OrderedDict[PeerId, float]] = OrderedDict()

    def add(self, content_id: bytes, peer: PeerId, now: float) -> None:
        providers = self._contents.setdefault(content_id, OrderedDict())
        providers[peer] = now + DHT_PROVIDER_LIFETIME_S
        providers.move_to_end(peer)
        self._contents.move_to_end(content_id)
        while len(providers) > DHT_PROVIDERS_MAX:
            providers.popitem(last=False)
        while len(self._contents) > DHT_CONTENTS_MAX:
            self._contents.popitem(last=False)

    def get(self, content_id: bytes, now: float) -> list[PeerId]:
        """The most recently heard first."""
        providers = self._contents.get(content_id, OrderedDict())
        return [peer for peer in reversed(providers) if now < providers[peer]]
