from __future__ import annotations

import dataclasses

import pytest
import wire_strategies as ws
from hypothesis import given, settings

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, Tier, peer_id_from_public_key
from cocoon_p2p.limits import (
    BOOK_ANSWER_MAX,
    DHT_VALUE_BYTES_MAX,
    FRAME_BYTES_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MODELS_PER_ANNOUNCEMENT_MAX,
)
from cocoon_p2p.wire import capacity
from cocoon_p2p.wire.capacity import Announcement, DeviceClass, Offer, SignedAnnouncement, TierPrice, Unit

PEER = peer_id_from_public_key(bytes(32))
NOW_MS = 1_760_000_000_000


def offer(number: int) -> Offer:
    return Offer(
        model_id=ModelId(f"{number:064x}"),
        name="all-MiniLM-L6-v2",
        unit=Unit.ITEM,
        prices=(TierPrice(Tier.OPEN, 1_000_000, 100_000), TierPrice(Tier.SEALED, 1_200_000, 120_000)),
        items_max=4096,
        input_bytes_max=2**31,
        slots_total=4,
        slots_free=2,
        queue_ms=120,
        device="cuda:0",
        device_class=DeviceClass.GPU,
        item_us=800,
        throughput=1_250_000,
    )


def announcement(offers: int = 1) -> Announcement:
    return Announcement(
        peer_id=PEER,
        sequence=NOW_MS,
        issued_at_ms=NOW_MS,
        expires_at_ms=NOW_MS + 60_000,
        addresses=("/ip4/192.0.2.7/tcp/4001",),
        agent="cocoon_p2p/0.1.0",
        settlement_networks=(0,),
        region="eu-central",
        offers=tuple(offer(i) for i in range(offers)),
    )


@settings(deadline=None, max_examples=30)
@given(ws.announcements(), ws.signatures)
def test_signed_announcements_keep_the_bytes_that_were_signed(body: Announcement, signature: bytes) -> None:
    signed = SignedAnnouncement(body.encode(), signature)
    assert signed.announcement == body
    decoded = capacity.decode_message(signed.encode())
    assert decoded == signed == SignedAnnouncement.decode(signed.encode())
    assert isinstance(decoded, SignedAnnouncement)
    assert decoded.body == body.encode()
    assert decoded.announcement == body


def test_the_longest_manifest() -> None:
    longest = capacity.Manifest(bytes(MANIFEST_BYTES_MAX))
    assert capacity.decode_message(longest.encode()) == longest
    with pytest.raises(RemoteProtocolError) as caught:
        capacity.decode_message(capacity.Manifest(bytes(MANIFEST_BYTES_MAX + 1)).encode())
    assert caught.value.code == "BOUND"


def test_the_largest_ordinary_announcement_fits_gossip_and_dht() -> None:
    signed = SignedAnnouncement(announcement(MODELS_PER_ANNOUNCEMENT_MAX).encode(), bytes(64)).encode()
    assert len(signed) < min(GOSSIP_MESSAGE_BYTES_MAX, DHT_VALUE_BYTES_MAX)


def test_the_largest_book_fits_a_frame() -> None:
    entry = capacity.BookEntry(bytes(DHT_VALUE_BYTES_MAX), capacity.HeardBy.GOSSIP, 2**63 - 1)
    book = capacity.Book((entry,) * BOOK_ANSWER_MAX)
    assert len(book.encode()) <= FRAME_BYTES_MAX
    assert capacity.decode_message(book.encode()) == book


def test_the_price_of_a_tier() -> None:
    one = offer(1)
    assert one.tiers == (Tier.OPEN, Tier.SEALED)
    sealed = one.price(Tier.SEALED)
    assert sealed is not None
    assert sealed.total(3) == 1_560_000
    assert one.price(Tier.ATTESTED) is None


def test_a_signed_announcement_of_garbage_cannot_be_made() -> None:
    with pytest.raises(RemoteProtocolError):
        SignedAnnouncement(b"garbage", bytes(64))


@pytest.mark.parametrize(
    ("issued", "expires", "now", "code"),
    [
        (0, 60_000, 0, None),
        (0, 60_000, 59_999, None),
        (0, 60_000, 60_000, "EXPIRED"),
        (0, 60_001, 0, "BOUND"),
        (10_000, 20_000, 0, None),
        (10_001, 20_000, 0, "EXPIRED"),
    ],
)
def test_lifetime(issued: int, expires: int, now: int, code: str | None) -> None:
    tried = dataclasses.replace(announcement(), issued_at_ms=NOW_MS + issued, expires_at_ms=NOW_MS + expires)
    if code is None:
        tried.require_current(NOW_MS + now)
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            tried.require_current(NOW_MS + now)
        assert caught.value.code == code


def test_a_record_stands_under_its_own_key() -> None:
    signed = SignedAnnouncement(announcement().encode(), bytes(64))
    capacity.require_under_key(signed, capacity.capacity_key(PEER))
    for key in (capacity.capacity_key(peer_id_from_public_key(b"\1" * 32)), "/cocoon-capacity/", f"/x/{PEER}"):
        with pytest.raises(RemoteProtocolError):
            capacity.require_under_key(signed, key)


def test_content_ids_do_not_meet() -> None:
    model = ModelId("ab" * 32)
    assert len(capacity.model_content_id(model)) == 32
    assert capacity.model_content_id(model) != capacity.name_content_id(model)
    assert capacity.name_content_id("a") != capacity.name_content_id("A")
