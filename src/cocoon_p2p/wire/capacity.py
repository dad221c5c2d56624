"""capacity/1: what a peer offers, signed by it; and the messages of its stream (protocols/capacity/1/spec.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, PeerId, Tier
from cocoon_p2p.limits import (
    ADDRESS_CHARS_MAX,
    ADDRESSES_PER_ANNOUNCEMENT_MAX,
    AGENT_CHARS_MAX,
    ANNOUNCEMENT_CLOCK_SKEW_S,
    ANNOUNCEMENT_LIFETIME_S,
    BOOK_ANSWER_MAX,
    DEVICE_CHARS_MAX,
    DHT_VALUE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MODELS_PER_ANNOUNCEMENT_MAX,
    NAME_CHARS_MAX,
    REGION_CHARS_MAX,
    SETTLEMENT_NETWORKS_MAX,
    WIRE_ARRAY_LENGTH_MAX,
)
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import UINT32_MAX, Bytes

CAPACITY_PROTOCOL = "/cocoon/capacity/1"
CAPACITY_TOPIC = "/cocoon/capacity/1"
CAPACITY_DOMAIN = b"cocoon-p2p/capacity/1"
"""Signature domain of an announcement's body."""
CAPACITY_NAMESPACE = "cocoon-capacity"
"""DHT namespace: the first part of `capacity_key`."""

_TIERS = frozenset(Tier)
_UNITS = frozenset({1, 2, 3})
_DEVICE_CLASSES = frozenset({0, 1, 2, 3})
_HEARD_BY = frozenset({1, 2, 3, 4})
_TIERS_LISTED_MAX = 16


class Unit(IntEnum):
    """What `TierPrice.per_unit` is asked for. The numbers are on the wire and never change."""

    ITEM = 1
    """By the rule of job/1 §5.1."""
    TOKEN = 2
    GPU_MS = 3
    """A millisecond of the device's time, by the provider's own measure."""


class DeviceClass(IntEnum):
    """What kind of device runs the model. The numbers are on the wire and never change."""

    OTHER = 0
    CPU = 1
    GPU = 2
    NPU = 3


@dataclass(frozen=True, slots=True)
class TierPrice:
    """What a job of one tier costs: nanogram a job, and nanogram a unit on top."""

    tier: Tier
    base: int
    per_unit: int

    def total(self, units: int) -> int:
        """Nanogram."""
        return self.base + self.per_unit * units


@dataclass(frozen=True, slots=True)
class Offer:
    """One model that a peer runs for others, at these prices."""

    model_id: ModelId
    name: str
    unit: Unit
    prices: tuple[TierPrice, ...]
    """Each tier once, the cheapest to hide first (open, sealed, attested)."""
    items_max: int
    input_bytes_max: int
    slots_total: int
    slots_free: int
    queue_ms: int
    """How long a job that came now would wait, by the provider's own reckoning."""
    device: str
    device_class: DeviceClass
    item_us: int
    """Moving average of microseconds an item; 0 when not known yet."""
    throughput: int
    """Thousandths of an item a second that this model did at most lately, as measured; 0 when not known yet."""
    load_ms: int = 0
    """How long loading takes of a model that is cold: a part of `queue_ms`. 0 for one that is loaded (warm)."""

    @property
    def warm(self) -> bool:
        return self.load_ms == 0

    @property
    def tiers(self) -> tuple[Tier, ...]:
        return tuple(price.tier for price in self.prices)

    def price(self, tier: Tier) -> TierPrice | None:
        """None when the model is not offered in this tier."""
        return next((price for price in self.prices if price.tier is tier), None)

    def fields(self) -> list[Any]:
        return [
            codec.model_bytes(self.model_id),
            self.name,
            int(self.unit),
            [[int(price.tier), price.base, price.per_unit] for price in self.prices],
            self.items_max,
            self.input_bytes_max,
            self.slots_total,
            self.slots_free,
            self.queue_ms,
            self.device,
            int(self.device_class),
            self.item_us,
            self.throughput,
            self.load_ms,
        ]


@dataclass(frozen=True, slots=True)
class Announcement:
    """The signed body: who offers what, from when to when. Times in Unix milliseconds."""

    peer_id: PeerId
    sequence: int
    issued_at_ms: int
    expires_at_ms: int
    addresses: tuple[str, ...]
    agent: str
    settlement_networks: tuple[int, ...]
    region: str
    """Where the operator says that the machine stands ("de", "us-west"); "" for nothing. A hint that nobody checks."""
    offers: tuple[Offer, ...]

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                codec.peer_bytes(self.peer_id),
                self.sequence,
                self.issued_at_ms,
                self.expires_at_ms,
                self.addresses,
                self.agent,
                self.settlement_networks,
                self.region,
                [offer.fields() for offer in self.offers],
            ]
        )

    def require_current(self, now_ms: int) -> None:
        """Raises RemoteProtocolError(code="EXPIRED") outside the announcement's lifetime, BOUND when that is too long."""
        # SPEC capacity/1 §4.2
        if self.expires_at_ms - self.issued_at_ms > ANNOUNCEMENT_LIFETIME_S * 1000:
            codec.fail("BOUND", f"announcement lives longer than {ANNOUNCEMENT_LIFETIME_S:.0f} s")
        if self.issued_at_ms > now_ms + ANNOUNCEMENT_CLOCK_SKEW_S * 1000:
            codec.fail("EXPIRED", f"announcement issued {self.issued_at_ms - now_ms} ms in the future")
        if now_ms >= self.expires_at_ms:
            codec.fail("EXPIRED", f"announcement expired {now_ms - self.expires_at_ms} ms ago")


@dataclass(frozen=True, slots=True)
class SignedAnnouncement:
    """The exact bytes that were signed, and the signature (domain CAPACITY_DOMAIN, key of `announcement.peer_id`).

    Making one parses the body, once: RemoteProtocolError when it is none. The signature is the caller's to check."""

    body: bytes
    signature: bytes
    announcement: Announcement = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "announcement", decode_announcement(self.body))

    def encode(self) -> bytes:
        return codec.pack([1, self.body, self.signature])

    @classmethod
    def decode(cls, frame: Bytes) -> SignedAnnouncement:
        """Raises RemoteProtocolError."""
        fields = codec.unpack(frame, "signed announcement")
        if fields[0] != 1:
            codec.fail("UNKNOWN_TAG", f"signed announcement with tag {fields[0]}")
        return cls._of_fields(fields, len(frame))

    @classmethod
    def _of_fields(cls, fields: tuple[Any, ...], frame_bytes: int) -> SignedAnnouncement:
        # SPEC capacity/1 §3.1
        if frame_bytes > DHT_VALUE_BYTES_MAX:
            codec.fail("BOUND", f"signed announcement of {frame_bytes} bytes; at most {DHT_VALUE_BYTES_MAX}")
        codec.require_count(fields, 3, "signed announcement")
        return cls(
            codec.blob(fields[1], "announcement", DHT_VALUE_BYTES_MAX),
            codec.fixed(fields[2], "signature", codec.SIGNATURE_BYTES),
        )


@dataclass(frozen=True, slots=True)
class GetCapacity:
    """Asks for the peer's own announcement."""

    def encode(self) -> bytes:
        return codec.pack([2])


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """This node offers nothing."""

    def encode(self) -> bytes:
        return codec.pack([3])


@dataclass(frozen=True, slots=True)
class GetManifest:
    """Asks for the canonical manifest of a model that the peer offers."""

    model_id: ModelId

    def encode(self) -> bytes:
        return codec.pack([4, codec.model_bytes(self.model_id)])


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest that was asked for. Its SHA-256 must be the model's id: the reader checks that."""

    data: bytes

    def encode(self) -> bytes:
        return codec.pack([5, self.data])


@dataclass(frozen=True, slots=True)
class NoManifest:
    """The peer does not have that model."""

    def encode(self) -> bytes:
        return codec.pack([6])


class HeardBy(IntEnum):
    """How a node came by an announcement in its book. The numbers are on the wire and never change."""

    GOSSIP = 1
    DHT = 2
    ASKED = 3
    """From the provider itself."""
    BOOK = 4
    """From another node's book."""


@dataclass(frozen=True, slots=True)
class GetBook:
    """Asks for announcements in the peer's book: of one model, of one peer, or (both None) of whomever."""

    model_id: ModelId | None
    peer_id: PeerId | None
    count: int
    """At most so many."""

    def encode(self) -> bytes:
        model = b"" if self.model_id is None else codec.model_bytes(self.model_id)
        peer = b"" if self.peer_id is None else codec.peer_bytes(self.peer_id)
        return codec.pack([7, model, peer, self.count])


@dataclass(frozen=True, slots=True)
class BookEntry:
    """One signed announcement, as its author signed it, and how the peer came by it."""

    raw: bytes
    """An encoded SignedAnnouncement, not parsed yet."""
    heard_by: HeardBy
    heard_ago_ms: int

    def fields(self) -> list[Any]:
        return [self.raw, int(self.heard_by), self.heard_ago_ms]


@dataclass(frozen=True, slots=True)
class Book:
    """The answer: current announcements, in no order that means anything. They prove themselves; that there are no
    others nobody proves."""

    entries: tuple[BookEntry, ...]

    def encode(self) -> bytes:
        return codec.pack([8, [entry.fields() for entry in self.entries]])


CapacityMessage = SignedAnnouncement | GetCapacity | NoCapacity | GetManifest | Manifest | NoManifest | GetBook | Book


def decode_message(frame: Bytes) -> CapacityMessage:
    """A message of the capacity stream. Raises RemoteProtocolError."""
    # SPEC capacity/1 §3.1
    fields = codec.unpack(frame, "capacity message")
    decode = _DECODERS.get(fields[0])
    if decode is None:
        codec.fail("UNKNOWN_TAG", f"capacity message with tag {fields[0]}")
    return decode(fields, len(frame))


def _decode_get_manifest(fields: tuple[Any, ...], _: int) -> GetManifest:
    codec.require_count(fields, 2, "manifest question")
    return GetManifest(codec.model_id(fields[1]))


def _decode_manifest(fields: tuple[Any, ...], _: int) -> Manifest:
    codec.require_count(fields, 2, "manifest answer")
    return Manifest(codec.blob(fields[1], "manifest", MANIFEST_BYTES_MAX))


def _decode_get_book(fields: tuple[Any, ...], _: int) -> GetBook:
    # SPEC capacity/1 §3.7
    codec.require_count(fields, 4, "book question")
    return GetBook(
        None if fields[1] == b"" else codec.model_id(fields[1]),
        None if fields[2] == b"" else codec.peer_id(fields[2], "peer asked about"),
        codec.uint(fields[3], "count", BOOK_ANSWER_MAX, 1),
    )


def _decode_book(fields: tuple[Any, ...], _: int) -> Book:
    # SPEC capacity/1 §3.8
    codec.require_count(fields, 2, "book answer")
    entries = []
    for value in codec.array(fields[1], "book entries", BOOK_ANSWER_MAX):
        entry = codec.array(value, "book entry", WIRE_ARRAY_LENGTH_MAX)
        codec.require_count(entry, 3, "book entry")
        heard_by = codec.uint(entry[1], "heard_by", UINT32_MAX)
        entries.append(
            BookEntry(
                codec.blob(entry[0], "signed announcement", DHT_VALUE_BYTES_MAX),
                HeardBy(heard_by) if heard_by in _HEARD_BY else HeardBy.BOOK,
                codec.uint(entry[2], "heard_ago_ms", codec.INT_MAX),
            )
        )
    return Book(tuple(entries))


_DECODERS: dict[int, Callable[[tuple[Any, ...], int], CapacityMessage]] = {
    1: SignedAnnouncement._of_fields,
    2: lambda fields, _: GetCapacity(),
    3: lambda fields, _: NoCapacity(),
    4: _decode_get_manifest,
    5: _decode_manifest,
    6: lambda fields, _: NoManifest(),
    7: _decode_get_book,
    8: _decode_book,
}


def decode_announcement(body: Bytes) -> Announcement:
    """An announcement's signed body. Raises RemoteProtocolError."""
    # SPEC capacity/1 §3.2
    fields = codec.unpack_tagged(body, 1, 10, "announcement")
    announcement = Announcement(
        codec.peer_id(fields[1], "announcing peer"),
        codec.uint(fields[2], "sequence", codec.INT_MAX),
        codec.time_ms(fields[3], "issued_at_ms"),
        codec.time_ms(fields[4], "expires_at_ms"),
        tuple(
            codec.text(address, "address", ADDRESS_CHARS_MAX)
            for address in codec.array(fields[5], "addresses", ADDRESSES_PER_ANNOUNCEMENT_MAX)
        ),
        codec.text(fields[6], "agent", AGENT_CHARS_MAX),
        tuple(
            codec.network_id(network, "settlement network")
            for network in codec.array(fields[7], "settlement networks", SETTLEMENT_NETWORKS_MAX)
        ),
        codec.text(fields[8], "region", REGION_CHARS_MAX),
        tuple(
            offer
            for value in codec.array(fields[9], "offers", MODELS_PER_ANNOUNCEMENT_MAX)
            if (offer := _decode_offer(value)) is not None
        ),
    )
    if announcement.expires_at_ms <= announcement.issued_at_ms:
        codec.fail("BOUND", "announcement expires before it is issued")
    if len({offer.model_id for offer in announcement.offers}) != len(announcement.offers):
        codec.fail("MALFORMED", "announcement offers one model twice")
    return announcement


def _decode_offer(value: Any) -> Offer | None:
    """None for an offer whose prices are for a unit of a later version."""
    # SPEC capacity/1 §3.3
    fields = codec.array(value, "offer", WIRE_ARRAY_LENGTH_MAX)
    codec.require_count(fields, 14, "offer")
    unit = codec.uint(fields[2], "unit", UINT32_MAX)
    device_class = codec.uint(fields[10], "device class", UINT32_MAX)
    offer = Offer(
        codec.model_id(fields[0]),
        codec.text(fields[1], "model name", NAME_CHARS_MAX),
        Unit(unit) if unit in _UNITS else Unit.ITEM,
        _decode_prices(fields[3]),
        codec.uint(fields[4], "items_max", UINT32_MAX),
        codec.uint(fields[5], "input_bytes_max", codec.INT_MAX),
        codec.uint(fields[6], "slots_total", UINT32_MAX),
        codec.uint(fields[7], "slots_free", UINT32_MAX),
        codec.uint(fields[8], "queue_ms", UINT32_MAX),
        codec.text(fields[9], "device", DEVICE_CHARS_MAX),
        DeviceClass(device_class) if device_class in _DEVICE_CLASSES else DeviceClass.OTHER,
        codec.uint(fields[11], "item_us", UINT32_MAX),
        codec.uint(fields[12], "throughput", codec.INT_MAX),
        codec.uint(fields[13], "load_ms", UINT32_MAX),
    )
    return offer if unit in _UNITS else None


def _decode_prices(value: Any) -> tuple[TierPrice, ...]:
    """Prices of tiers of a later version are left out, so that a provider may offer them beside the known ones."""
    found: dict[Tier, TierPrice] = {}
    for entry in codec.array(value, "prices", _TIERS_LISTED_MAX):
        fields = codec.array(entry, "price", WIRE_ARRAY_LENGTH_MAX)
        codec.require_count(fields, 3, "price")
        tier = codec.uint(fields[0], "tier", UINT32_MAX)
        base, per_unit = codec.amount(fields[1], "price_base"), codec.amount(fields[2], "price_per_unit")
        if tier not in _TIERS:
            continue
        if Tier(tier) in found:
            codec.fail("MALFORMED", "offer prices one tier twice")
        found[Tier(tier)] = TierPrice(Tier(tier), base, per_unit)
    return tuple(found[tier] for tier in sorted(found))


def capacity_key(peer_id: PeerId) -> str:
    """The DHT key under which a peer's signed announcement stands."""
    return f"/{CAPACITY_NAMESPACE}/{peer_id}"


def model_content_id(model_id: ModelId) -> bytes:
    """32 bytes: what providers of a model provide in the DHT."""
    return hashlib.sha256(b"cocoon-p2p/model/1\0" + codec.model_bytes(model_id)).digest()


def name_content_id(name: str) -> bytes:
    """32 bytes: what providers of a model of this name provide in the DHT. Names are not unique; hints only."""
    return hashlib.sha256(b"cocoon-p2p/model-name/1\0" + name.encode()).digest()


ANY_MODEL_CONTENT_ID = hashlib.sha256(b"cocoon-p2p/any-model/1\0").digest()
"""What every provider of any model provides: how a newcomer finds out what there is."""


def require_under_key(signed: SignedAnnouncement, key: str) -> None:
    """Raises RemoteProtocolError(code="MALFORMED") when a DHT record does not stand under its own peer's key."""
    # SPEC capacity/1 §5.2
    if key != capacity_key(signed.announcement.peer_id):
        raise RemoteProtocolError("announcement under the key of another peer", code="MALFORMED")
