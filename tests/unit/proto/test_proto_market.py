"""The book of offers, with a number for a clock."""

from __future__ import annotations

import dataclasses
import random

import pytest

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, Tier
from cocoon_p2p.proto import announcements
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.proto.market import (
    BookEffect,
    MarketBook,
    OffersChanged,
    RememberAddresses,
    Taken,
    validate_record,
    verify_announcement,
)
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    Announcement,
    DeviceClass,
    HeardBy,
    Offer,
    SignedAnnouncement,
    TierPrice,
    Unit,
    capacity_key,
)

NOW = 1_800_000_000.0
PEER = IdentityKey.from_seed(b"p" * 32)
OWN = IdentityKey.from_seed(b"o" * 32)
OFFER = Offer(
    ModelId("ab" * 32), "echo", Unit.ITEM, (TierPrice(Tier.SEALED, 100, 10),), 64, 10_000, 4, 4, 0, "cpu",
    DeviceClass.CPU, 0, 0,
)  # fmt: skip


def signed(key: IdentityKey = PEER, *, at: float = NOW, signer: IdentityKey | None = None, **changes: object) -> bytes:
    now_ms = int(at * 1000)
    body = Announcement(key.peer_id, now_ms, now_ms, now_ms + 60_000, ("/memory/1",), "agent", (0,), "de", (OFFER,))
    raw = dataclasses.replace(body, **changes).encode()  # type: ignore[arg-type]
    return SignedAnnouncement(raw, (signer or key).sign(CAPACITY_DOMAIN, raw)).encode()


def news(effects: list[BookEffect]) -> list[BookEffect]:
    return [effect for effect in effects if not isinstance(effect, Taken)]


def numbered(count: int, first: int = 1) -> list[IdentityKey]:
    return [IdentityKey.from_seed(number.to_bytes(32)) for number in range(first, first + count)]


def test_an_announcement_is_an_offer_until_it_expires() -> None:
    book = MarketBook(OWN.peer_id)
    effects = book.handle_announcement(signed(), now=NOW)
    assert news(effects) == [RememberAddresses(PEER.peer_id, ("/memory/1",)), OffersChanged(PEER.peer_id)]
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
    assert [type(effect) for effect in effects] == [Taken]
    moved = book.handle_announcement(signed(at=NOW + 2, addresses=("/memory/2",)), now=NOW + 2)
    assert news(moved) == [RememberAddresses(PEER.peer_id, ("/memory/2",))]


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


def test_one_subnet_neither_fills_the_book_nor_pushes_others_out() -> None:
    book = MarketBook(OWN.peer_id, peers_max=80, subnet_max=32)
    honest, crowd = numbered(5), numbered(100, first=100)
    for number, peer in enumerate(honest):
        book.handle_announcement(signed(peer, addresses=(f"/ip4/8.8.{number}.1/tcp/4001",)), now=NOW)
    for number, peer in enumerate(crowd):
        book.handle_announcement(signed(peer, addresses=(f"/ip4/9.9.9.{number}/tcp/4001",)), now=NOW)
    held = {offer.peer for offer in book.offers(now=NOW)}
    assert {peer.peer_id for peer in honest} <= held
    assert held - {peer.peer_id for peer in honest} == {peer.peer_id for peer in crowd[:10]}, (
        "an eighth, the first heard"
    )
    again = signed(crowd[0], at=NOW + 1, addresses=("/ip4/9.9.9.0/tcp/4001",))
    assert news(book.handle_announcement(again, now=NOW + 1)) == [], "who is in it stays in it"
    book.forget(crowd[0].peer_id)
    assert book.handle_announcement(signed(crowd[50], addresses=("/ip4/9.9.9.77/tcp/1",)), now=NOW) != []


def test_who_moves_into_a_crowded_subnet_leaves_the_book() -> None:
    book = MarketBook(OWN.peer_id, peers_max=80)
    for number, peer in enumerate(numbered(10)):
        book.handle_announcement(signed(peer, addresses=(f"/ip4/9.9.9.{number}/tcp/1",)), now=NOW)
    book.handle_announcement(signed(addresses=("/ip4/8.8.8.8/tcp/1",)), now=NOW)
    book.handle_announcement(signed(at=NOW + 1, addresses=("/ip4/9.9.9.200/tcp/1",)), now=NOW + 1)
    assert book.heard(PEER.peer_id) is None
    assert len(book) == 10


def test_the_nodes_of_one_machine_or_behind_one_relay_are_not_one_subnet() -> None:
    relayed = f"/ip4/9.9.9.9/tcp/4001/p2p/{OWN.peer_id}/p2p-circuit"
    book = MarketBook(OWN.peer_id, peers_max=800)
    for number, peer in enumerate(numbered(120)):
        place = relayed if number % 2 else f"/ip4/127.0.0.1/tcp/{number + 1}"
        book.handle_announcement(signed(peer, addresses=(place,)), now=NOW)
    assert len(book) == 120


def test_the_same_announcements_make_the_same_book() -> None:
    raws = [
        signed(peer, at=NOW + number / 10, addresses=(f"/ip4/8.8.{number % 7}.{number}/tcp/1",))
        for number, peer in enumerate(numbered(60))
    ]
    books = [MarketBook(OWN.peer_id, peers_max=40), MarketBook(OWN.peer_id, peers_max=40)]
    for book in books:
        for number, raw in enumerate(raws):
            book.handle_announcement(raw, now=NOW + number / 10)
        book.handle_timer(now=NOW + 62)
    assert books[0].offers(now=NOW + 62) == books[1].offers(now=NOW + 62) != []
    assert books[0].past_providers() == books[1].past_providers() != []


def test_it_notes_how_and_when_it_heard() -> None:
    book = MarketBook(OWN.peer_id)
    book.handle_announcement(signed(), now=NOW, heard_by=HeardBy.BOOK)
    book.handle_announcement(signed(), now=NOW + 5, heard_by=HeardBy.ASKED)
    (entry,) = book.answer(None, PEER.peer_id, 1, now=NOW + 7.5, rng=random.Random(1))
    assert (entry.heard_by, entry.heard_ago_ms, entry.raw) == (HeardBy.BOOK, 7500, signed())


def test_an_answer_from_the_book_is_drawn_from_what_fits_and_is_current() -> None:
    book, rng = MarketBook(OWN.peer_id), random.Random(1)
    peers = numbered(50)
    other = dataclasses.replace(OFFER, model_id=ModelId("cd" * 32), name="other")
    for number, peer in enumerate(peers):
        offers = (OFFER, other) if number < 3 else (OFFER,)
        book.handle_announcement(signed(peer, at=NOW + number, offers=offers), now=NOW + number)
    book.handle_announcement(signed(offers=()), now=NOW)

    def answered(model: ModelId | None, peer: str | None, count: int, now: float) -> list[str]:
        entries = book.answer(model, peer, count, now=now, rng=rng)  # type: ignore[arg-type]
        return [verify_announcement(entry.raw).announcement.peer_id for entry in entries]

    assert set(answered(other.model_id, None, 32, NOW + 50)) == {peer.peer_id for peer in peers[:3]}
    assert len(set(answered(None, None, 99, NOW + 50))) == limits.BOOK_ANSWER_MAX
    assert answered(None, None, 5, NOW + 50) != answered(None, None, 5, NOW + 50), "drawn by chance"
    assert set(answered(None, None, 32, NOW + 80)) <= {peer.peer_id for peer in peers[21:]}, "never an expired one"
    assert answered(None, peers[0].peer_id, 1, NOW + 61) == []
    assert answered(other.model_id, peers[9].peer_id, 1, NOW + 50) == []
    assert answered(None, PEER.peer_id, 1, NOW + 50) == [PEER.peer_id], "who asks for one peer hears that it left"


def test_who_expired_is_remembered_to_be_asked_again() -> None:
    book = MarketBook(OWN.peer_id, past_max=2)
    peers = numbered(4)
    for number, peer in enumerate(peers):
        book.handle_announcement(signed(peer, at=NOW + number), now=NOW + number)
    book.handle_announcement(signed(), now=NOW)
    book.handle_announcement(signed(at=NOW + 1, offers=()), now=NOW + 1)
    book.handle_timer(now=NOW + 100)
    assert [each.peer_id for each in book.past_providers("echo")] == [peer.peer_id for peer in peers[2:]]
    assert book.past_providers("other") == []
    book.handle_announcement(signed(peers[3], at=NOW + 100), now=NOW + 100)
    assert [each.peer_id for each in book.past_providers()] == [peers[2].peer_id], "it is there again"
    book.forget(peers[2].peer_id)
    assert book.past_providers() == []


def test_who_was_forgotten_is_not_brought_back_by_others() -> None:
    """The machine is dead; the books of others tell its last announcement until that expires."""
    book = MarketBook(OWN.peer_id, past_max=2)
    old, last, newer = signed(sequence=6), signed(sequence=7), signed(sequence=8)
    book.handle_announcement(last, now=NOW)
    book.forget(PEER.peer_id)
    book.forget(PEER.peer_id)
    for raw in (old, last):
        for heard_by in (HeardBy.BOOK, HeardBy.GOSSIP, HeardBy.DHT):
            assert book.handle_announcement(raw, now=NOW + 1, heard_by=heard_by) == []
    assert book.offers(now=NOW + 1) == []
    book.remember_past(SignedAnnouncement.decode(last).announcement)
    assert book.past_providers() == []
    assert news(book.handle_announcement(newer, now=NOW + 2, heard_by=HeardBy.BOOK)) != []
    assert [offer.peer for offer in book.offers(now=NOW + 2)] == [PEER.peer_id]


def test_who_was_forgotten_and_answers_is_there() -> None:
    book = MarketBook(OWN.peer_id)
    book.handle_announcement(signed(), now=NOW)
    book.forget(PEER.peer_id)
    assert book.handle_announcement(signed(), now=NOW, heard_by=HeardBy.ASKED) != []
    assert book.heard(PEER.peer_id) is not None


def test_of_who_was_forgotten_a_bounded_number_is_remembered() -> None:
    book = MarketBook(OWN.peer_id, past_max=2)
    peers = numbered(3)
    for peer in peers:
        book.handle_announcement(signed(peer), now=NOW)
        book.forget(peer.peer_id)
    for peer in peers:
        book.handle_announcement(signed(peer), now=NOW)
    assert [offer.peer for offer in book.offers(now=NOW)] == [peers[0].peer_id]


def test_a_signature_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    check = announcements.verify_signature
    monkeypatch.setattr(announcements, "verify_signature", lambda *given: checked.append(given) or check(*given))
    raw = signed(sequence=4711)
    first = verify_announcement(raw)
    assert verify_announcement(raw) is first
    forged = signed(sequence=4711, signer=OWN)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            verify_announcement(forged)
    assert len(checked) == 3, "what is forged is not remembered"


def test_the_memory_of_signatures_is_bounded() -> None:
    known = announcements._Verified(count_max=3, bytes_max=1000)
    signed_one = verify_announcement(signed())
    for number in range(10):
        known.put(bytes([number]), signed_one, 100)
    assert [bool(known.get(bytes([number]))) for number in range(10)] == [False] * 7 + [True] * 3
    known.put(b"large", signed_one, 950)
    assert known.get(b"large") is not None
    assert known.get(bytes([9])) is None
    assert known._bytes == 950


def test_a_record_stands_only_under_its_own_key() -> None:
    assert validate_record(capacity_key(PEER.peer_id), signed(sequence=7)) == 7
    with pytest.raises(RemoteProtocolError):
        validate_record(capacity_key(OWN.peer_id), signed())
