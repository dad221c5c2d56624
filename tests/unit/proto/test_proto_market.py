"""The book of offers and the announcer, with a number for a clock."""

from __future__ import annotations

import dataclasses

import pytest

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.proto.market import (
    Announcer,
    MarketBook,
    OffersChanged,
    RememberAddresses,
    validate_record,
    verify_announcement,
)
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import CAPACITY_DOMAIN, Announcement, Offer, SignedAnnouncement, capacity_key

NOW = 1_800_000_000.0
PEER = IdentityKey.from_seed(b"p" * 32)
OWN = IdentityKey.from_seed(b"o" * 32)
OFFER = Offer(ModelId("ab" * 32), "echo", (Tier.SEALED,), 100, 10, 64, 10_000, 4, 4, 0, "cpu", 0)


def signed(key: IdentityKey = PEER, *, at: float = NOW, signer: IdentityKey | None = None, **changes: object) -> bytes:
    now_ms = int(at * 1000)
    body = Announcement(key.peer_id, now_ms, now_ms, now_ms + 60_000, ("/memory/1",), "agent", (0,), (OFFER,))
    raw = dataclasses.replace(body, **changes).encode()  # type: ignore[arg-type]
    return SignedAnnouncement(raw, (signer or key).sign(CAPACITY_DOMAIN, raw)).encode()


def test_an_announcement_is_an_offer_until_it_expires() -> None:
    book = MarketBook(OWN.peer_id)
    effects = book.handle_announcement(signed(), now=NOW)
    assert effects == [RememberAddresses(PEER.peer_id, ("/memory/1",)), OffersChanged(PEER.peer_id)]
    for wanted in ("echo", "ab" * 32, None):
        (found,) = book.offers(wanted, now=NOW)
        assert (found.peer, found.offer) == (PEER.peer_id, OFFER)
    assert book.offers("other", now=NOW) == []
    assert book.next_deadline() == NOW + 60
    assert book.handle_timer(now=NOW + 59.9) == []
    assert book.offers("echo", now=NOW + 60) == [], "expired, whether the timer ran or not"
    assert book.handle_timer(now=NOW + 60) == [OffersChanged(PEER.peer_id)]
    assert book.next_deadline() is None


def test_the_higher_sequence_wins_in_whatever_order_they_come() -> None:
    newer = signed(sequence=2, offers=())
    older = signed(sequence=1)
    for order in ((newer, older), (older, newer)):
        book = MarketBook(OWN.peer_id)
        for raw in order:
            book.handle_announcement(raw, now=NOW)
        assert book.offers(now=NOW) == []


def test_the_same_again_changes_nothing_and_a_contradiction_costs_standing() -> None:
    book = MarketBook(OWN.peer_id)
    book.handle_announcement(signed(), now=NOW)
    assert book.handle_announcement(signed(), now=NOW) == []
    (effect,) = book.handle_announcement(signed(offers=()), now=NOW)
    assert isinstance(effect, Penalise)
    assert len(book.offers(now=NOW)) == 1


def test_only_the_load_changed_is_no_news() -> None:
    book = MarketBook(OWN.peer_id)
    book.handle_announcement(signed(), now=NOW)
    effects = book.handle_announcement(signed(at=NOW + 1), now=NOW + 1)
    assert effects == [RememberAddresses(PEER.peer_id, ("/memory/1",))]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (signed(signer=OWN), "SIGNATURE"),
        (signed(at=NOW - 61), "EXPIRED"),
        (signed(at=NOW + 11), "EXPIRED"),
        (signed(expires_at_ms=int(NOW * 1000) + 60_001), "BOUND"),
        (b"\xc1", "MALFORMED"),
    ],
)
def test_what_is_not_current_and_signed_is_refused(raw: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        MarketBook(OWN.peer_id).handle_announcement(raw, now=NOW)
    assert caught.value.code == code


def test_our_own_announcement_is_not_in_our_book() -> None:
    book = MarketBook(OWN.peer_id)
    assert book.handle_announcement(signed(OWN), now=NOW) == []
    assert book.offers(now=NOW) == []


def test_the_book_is_bounded() -> None:
    book = MarketBook(OWN.peer_id, peers_max=3)
    peers = [IdentityKey.from_seed(bytes([n]) * 32) for n in range(1, 6)]
    for peer in peers:
        book.handle_announcement(signed(peer), now=NOW)
    assert [offer.peer for offer in book.offers(now=NOW)] == [peer.peer_id for peer in peers[2:]]


def test_a_record_stands_only_under_its_own_key() -> None:
    assert validate_record(capacity_key(PEER.peer_id), signed(sequence=7)) == 7
    with pytest.raises(RemoteProtocolError):
        validate_record(capacity_key(OWN.peer_id), signed())


# --- the announcer ---------------------------------------------------------------------------------------------------


def announcer(sequence: int = 0) -> Announcer:
    return Announcer(PEER, agent="test", settlement_network=0, sequence=sequence)


def test_a_node_without_offers_never_announces() -> None:
    mine = announcer()
    mine.set_offers([], ["/memory/1"], NOW)
    assert mine.next_deadline() is None
    assert mine.handle_timer(NOW + 1000) == []
    assert mine.goodbye(NOW) == []


def test_it_announces_at_once_then_regularly_with_rising_numbers() -> None:
    mine = announcer(sequence=int(NOW * 1000) + 50)
    mine.set_offers([OFFER], ["/memory/1"], NOW)
    assert mine.next_deadline() == NOW
    (first,) = mine.handle_timer(NOW)
    verify_announcement(first.raw).announcement.require_current(int(NOW * 1000))
    assert first.signed.announcement.sequence == int(NOW * 1000) + 51, "never below a number that was used before"
    assert mine.handle_timer(NOW + 1) == []
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S
    (second,) = mine.handle_timer(NOW + limits.ANNOUNCEMENT_INTERVAL_S)
    assert second.signed.announcement.sequence > first.signed.announcement.sequence
    assert second.signed.announcement.issued_at_ms + 60_000 == second.signed.announcement.expires_at_ms


def test_changes_are_announced_soon_but_not_more_than_once_a_second() -> None:
    mine = announcer()
    mine.set_offers([OFFER], [], NOW)
    mine.handle_timer(NOW)
    mine.set_offers([dataclasses.replace(OFFER, slots_free=1, queue_ms=5)], [], NOW + 0.1)
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_INTERVAL_S, "load alone waits for the next regular one"
    mine.set_offers([dataclasses.replace(OFFER, price_base=5)], [], NOW + 0.2)
    assert mine.next_deadline() == NOW + limits.ANNOUNCEMENT_MIN_INTERVAL_S
    (published,) = mine.handle_timer(NOW + 1)
    assert published.signed.announcement.offers[0].price_base == 5


def test_goodbye_withdraws_everything() -> None:
    mine, book = announcer(), MarketBook(OWN.peer_id)
    mine.set_offers([OFFER], [], NOW)
    (hello,) = mine.handle_timer(NOW)
    book.handle_announcement(hello.raw, now=NOW)
    (goodbye,) = mine.goodbye(NOW + 0.01)
    book.handle_announcement(goodbye.raw, now=NOW + 0.01)
    assert book.offers(now=NOW + 0.01) == []
    assert mine.goodbye(NOW + 1) == []
