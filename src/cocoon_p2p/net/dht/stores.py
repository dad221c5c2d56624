"""What a node keeps for others: records and providers, bounded in all and for each peer. No IO; times are the caller's
seconds."""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict
from dataclasses import dataclass
from enum import Enum

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    DHT_CONTENTS_MAX,
    DHT_CONTENTS_PER_PEER_MAX,
    DHT_PROVIDER_LIFETIME_S,
    DHT_PROVIDERS_MAX,
    DHT_PROVIDERS_PER_SUBNET_MAX,
    DHT_RECORD_LIFETIME_S,
    DHT_RECORDS_MAX,
    DHT_RECORDS_PER_PEER_MAX,
    DHT_VALUE_BYTES_MAX,
)
from cocoon_p2p.net.dht.kademlia import position_of
from cocoon_p2p.net.dht.messages import provider_key
from cocoon_p2p.net.port import RecordValidator


class Stored(Enum):
    """What became of a record that somebody brought."""

    NEW = "new"
    RENEWED = "renewed"
    """The one that we hold; its lifetime begins anew."""
    STALE = "stale"
    """We hold a newer one, or another with the same number."""
    NO_ROOM = "no room"
    """The store is full of records that are nearer to us."""

    def __bool__(self) -> bool:
        return self in (Stored.NEW, Stored.RENEWED)


@dataclass(frozen=True, slots=True)
class _Held:
    value: bytes
    sequence: int
    expires_at: float
    writer: PeerId | None
    """Who brought it; None for ourselves."""


class RecordStore:
    """Valid records, one a key, the highest sequence number winning. Republishing the same record renews it: the library
    refuses it, and it vanishes at its expiry.

    `position` is our own: beyond DHT_RECORDS_MAX the record farthest from it goes, never one of our own.
    """

    def __init__(self, validators: dict[str, RecordValidator], position: int = 0) -> None:
        self._validators = validators
        self._position = position
        self._records: dict[str, _Held] = {}
        self._by_distance: list[tuple[int, str]] = []
        """Of what others brought."""
        self._of_writer: dict[PeerId, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._records)

    def sequence_of(self, key: str, value: bytes) -> int:
        """Raises RemoteProtocolError for a value that is not valid under this key, or a namespace that nobody vouches for."""
        # SPEC kad/1 §4.1
        if len(value) > DHT_VALUE_BYTES_MAX:
            raise RemoteProtocolError(f"a record of {len(value)} bytes", code="BOUND")
        parts = key.split("/", 2)
        validator = self._validators.get(parts[1]) if len(parts) == 3 and not parts[0] else None
        if validator is None or not key.isascii():
            raise RemoteProtocolError(f"no validator for the record key {key[:64]!r}", code="NAMESPACE")
        return validator(key, value)

    def better(self, key: str, one: bytes | None, other: bytes | None) -> bytes | None:
        """Whichever has the higher sequence number; the first where they are equal. Raises like sequence_of."""
        if one is None or other is None or one == other:
            return other if one is None else one
        return other if self.sequence_of(key, other) > self.sequence_of(key, one) else one

    def put(self, key: str, value: bytes, now: float, writer: PeerId | None = None) -> Stored:
        """Raises RemoteProtocolError."""
        # SPEC kad/1 §4.2
        held = self._live(key, now)
        if held is not None and held.value == value:
            sequence, outcome = held.sequence, Stored.RENEWED
        else:
            sequence, outcome = self.sequence_of(key, value), Stored.NEW
            if held is not None and sequence <= held.sequence:
                return Stored.STALE
        if held is not None and held.writer is None:
            writer = None  # our own stays our own
        fresh = _Held(value, sequence, now + DHT_RECORD_LIFETIME_S, writer)
        if writer is not None and key not in self._records and not self._make_room(key, writer):
            return Stored.NO_ROOM
        self._drop(key)
        self._records[key] = fresh
        if writer is not None:
            bisect.insort(self._by_distance, (self._distance(key), key))
            self._of_writer.setdefault(writer, OrderedDict())[key] = None
        return outcome

    def get(self, key: str, now: float) -> bytes | None:
        held = self._live(key, now)
        return held.value if held is not None else None

    def expire(self, now: float) -> None:
        for key in [key for key, held in self._records.items() if held.expires_at <= now]:
            self._drop(key)

    def _live(self, key: str, now: float) -> _Held | None:
        held = self._records.get(key)
        return held if held is not None and now < held.expires_at else None

    def _make_room(self, key: str, writer: PeerId) -> bool:
        """A peer that brings too many loses its own oldest; of all of them the farthest goes, which may be the new one."""
        # SPEC kad/1 §6.3
        theirs = self._of_writer.get(writer)
        if theirs is not None and len(theirs) >= DHT_RECORDS_PER_PEER_MAX:
            self._drop(next(iter(theirs)))
        if len(self._by_distance) < DHT_RECORDS_MAX:
            return True
        distance, farthest = self._by_distance[-1]
        if distance <= self._distance(key):
            return False
        self._drop(farthest)
        return True

    def _drop(self, key: str) -> None:
        held = self._records.pop(key, None)
        if held is None or held.writer is None:
            return
        del self._by_distance[bisect.bisect_left(self._by_distance, (self._distance(key), key))]
        theirs = self._of_writer[held.writer]
        del theirs[key]
        if not theirs:
            del self._of_writer[held.writer]

    def _distance(self, key: str) -> int:
        return position_of(key.encode()) ^ self._position


class ProviderStore:
    """Who said that it provides a content id, and until when we believe it. `position` is our own: of too many contents
    the one farthest from it goes, of too many providers of a content the one that said so longest ago."""

    def __init__(self, position: int = 0) -> None:
        self._position = position
        self._contents: dict[bytes, OrderedDict[PeerId, tuple[float, str | None]]] = {}
        self._by_distance: list[tuple[int, bytes]] = []
        self._contents_of: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._contents)

    def add(self, content_id: bytes, peer: PeerId, now: float, subnet: str | None = None) -> bool:
        """False when there is no room: for this peer, for its subnet (of a public address), or at all."""
        # SPEC kad/1 §6.3
        providers = self._contents.get(content_id)
        if providers is None or peer not in providers:
            if self._contents_of[peer] >= DHT_CONTENTS_PER_PEER_MAX:
                return False
            if providers is not None and subnet is not None:
                there = [until for until, other in providers.values() if other == subnet and until > now]
                if len(there) >= DHT_PROVIDERS_PER_SUBNET_MAX:
                    return False
            if providers is None and not self._make_room(content_id):
                return False
            self._contents_of[peer] += 1
        providers = self._contents.setdefault(content_id, OrderedDict())
        providers[peer] = (now + DHT_PROVIDER_LIFETIME_S, subnet)
        providers.move_to_end(peer)
        if len(providers) > DHT_PROVIDERS_MAX:
            self._forget_one(providers.popitem(last=False)[0])
        return True

    def get(self, content_id: bytes, now: float) -> list[PeerId]:
        """The most recently heard first."""
        providers = self._contents.get(content_id, OrderedDict())
        return [peer for peer in reversed(providers) if now < providers[peer][0]]

    def expire(self, now: float) -> None:
        for content_id, providers in list(self._contents.items()):
            for peer in [peer for peer, (until, _) in providers.items() if until <= now]:
                del providers[peer]
                self._forget_one(peer)
            if not providers:
                self._drop(content_id)

    def _make_room(self, content_id: bytes) -> bool:
        entry = (self._distance(content_id), content_id)
        if len(self._contents) >= DHT_CONTENTS_MAX:
            if self._by_distance[-1] <= entry:
                return False
            self._drop(self._by_distance[-1][1])
        bisect.insort(self._by_distance, entry)
        return True

    def _drop(self, content_id: bytes) -> None:
        for peer in self._contents.pop(content_id):
            self._forget_one(peer)
        del self._by_distance[bisect.bisect_left(self._by_distance, (self._distance(content_id), content_id))]

    def _forget_one(self, peer: PeerId) -> None:
        self._contents_of[peer] -= 1
        if self._contents_of[peer] <= 0:
            del self._contents_of[peer]

    def _distance(self, content_id: bytes) -> int:
        return position_of(provider_key(content_id)) ^ self._position
