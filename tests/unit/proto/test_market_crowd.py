"""The book when somebody crowds it: names that point to one subnet, offers without end, and ten thousand peers."""

from __future__ import annotations

import dataclasses
import random

from test_proto_market import NOW, OFFER, OWN, PEER, numbered, signed

from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.policy.subnets import subnet_of
from cocoon_p2p.proto.book_entries import draw
from cocoon_p2p.proto.market import MarketBook, verify_announcement
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import HeardBy, Offer

MOST = 4
HERE = "/ip4/9.9.9.200/tcp/1"


def crowded(*, asked: int = 0) -> tuple[MarketBook, list[IdentityKey]]:
    """A book with all that it takes of one subnet, the first of them asked and the others hearsay."""
    book, crowd = MarketBook(OWN.peer_id, subnet_max=MOST), numbered(MOST)
    for number, peer in enumerate(crowd):
        how = HeardBy.ASKED if number < asked else HeardBy.GOSSIP
        raw = signed(peer, addresses=(f"/ip4/9.9.9.{number}/tcp/1",))
        book.handle_announcement(raw, now=NOW + number / 10, heard_by=how)
    assert len(book) == MOST
    return book, crowd


def held(book: MarketBook, *peers: IdentityKey) -> list[bool]:
    return [book.heard(peer.peer_id) is not None for peer in peers]


def test_who_was_asked_where_it_says_takes_the_place_of_hearsay() -> None:
    book, crowd = crowded()
    raw = signed(addresses=(HERE,))
    assert book.handle_announcement(raw, now=NOW + 1, heard_by=HeardBy.GOSSIP) == []
    assert book.handle_announcement(raw, now=NOW + 1, heard_by=HeardBy.ASKED) != []
    assert held(book, PEER, *crowd) == [True, False, True, True, True], "the least recently heard went"
    assert len(book) == MOST


def test_who_answers_elsewhere_takes_nobodys_place() -> None:
    """It names the victim's address first and its own second, where it is dialled."""
    book, crowd = crowded()
    announcement = verify_announcement(signed(addresses=(HERE, "/ip4/8.8.8.8/tcp/1")))
    reached_in = subnet_of(("/ip4/8.8.8.8/tcp/1",))
    effects = book.handle_verified(announcement, now=NOW + 1, heard_by=HeardBy.ASKED, reached_in=reached_in)
    assert effects == []
    assert held(book, PEER, *crowd) == [False, *[True] * MOST]


def test_of_hearsay_those_that_answered_or_worked_go_last() -> None:
    book, crowd = crowded()
    here = subnet_of((HERE,))
    book.confirm(crowd[0].peer_id, here)  # it did a job
    asked = signed(crowd[1], addresses=("/ip4/9.9.9.1/tcp/1",))
    book.handle_announcement(asked, now=NOW + 1, heard_by=HeardBy.ASKED)  # the same word, from itself
    for number, peer in enumerate(numbered(3, first=100)):
        book.handle_announcement(signed(peer, addresses=(HERE,)), now=NOW + 2 + number, heard_by=HeardBy.ASKED)
    assert held(book, *crowd) == [False, True, False, False], "hearsay first, then the one that was never refreshed"


def test_places_of_those_that_were_all_reached_are_not_for_taking() -> None:
    book, crowd = crowded(asked=MOST)
    assert book.handle_announcement(signed(addresses=(HERE,)), now=NOW + 1, heard_by=HeardBy.ASKED) == []
    assert held(book, *crowd) == [True] * MOST


def test_who_was_reached_there_once_comes_back_by_gossip() -> None:
    book, _ = crowded()
    book.handle_announcement(signed(addresses=(HERE,)), now=NOW, heard_by=HeardBy.ASKED)
    book.handle_timer(now=NOW + 60)
    for number, peer in enumerate(numbered(MOST, first=100)):
        book.handle_announcement(signed(peer, at=NOW + 61, addresses=(f"/ip4/9.9.9.{number}/tcp/1",)), now=NOW + 61)
    assert book.handle_announcement(signed(at=NOW + 62, addresses=(HERE,)), now=NOW + 62) != []
    assert book.is_confirmed(PEER.peer_id)


def offers(count: int, name: str = "echo") -> tuple[Offer, ...]:
    return tuple(dataclasses.replace(OFFER, model_id=ModelId(f"{n:064x}"), name=name) for n in range(count))


def test_who_offers_very_much_pushes_nobody_out_who_offers_little() -> None:
    book = MarketBook(OWN.peer_id, offers_max=200)
    small, large = numbered(20), numbered(6, first=100)
    for peer in small:
        book.handle_announcement(signed(peer), now=NOW)
    for number, peer in enumerate(large):
        book.handle_announcement(signed(peer, at=NOW + number, offers=offers(60)), now=NOW + number)
    assert all(held(book, *small))
    assert held(book, *large) == [False, False, False, True, True, True]
    assert len(book.offers(now=NOW + 6)) == 20 + 3 * 60


def test_a_draw_looks_at_few() -> None:
    looked = []
    drawn = draw(range(10_000), 32, lambda each: looked.append(each) or True, random.Random(1))
    assert len(set(drawn)) == 32
    assert len(looked) == 64
    assert sorted(draw(range(10_000), 32, lambda each: each < 5, random.Random(1))) == [0, 1, 2, 3, 4]


def test_a_purchase_sees_some_of_a_large_market_and_those_it_wants() -> None:
    book, peers, rng = MarketBook(OWN.peer_id), numbered(60), random.Random(1)
    for peer in peers:
        book.handle_announcement(signed(peer), now=NOW)
    rare = signed(offers=(dataclasses.replace(OFFER, model_id=ModelId("cd" * 32)),))
    book.handle_announcement(rare, now=NOW)

    def some(model: str, count: int, *wanted: PeerId, now: float = NOW) -> set[PeerId]:
        found = book.some_offers(model, count, now=now, rng=rng, wanted=wanted)
        assert all(model in (each.offer.model_id, each.offer.name) for each in found)
        return {each.peer for each in found}

    assert len(some(OFFER.model_id, 10)) == 10
    assert some(OFFER.model_id, 100) == {peer.peer_id for peer in peers}
    wanted = {peer.peer_id for peer in peers[:5]}
    assert wanted <= some(OFFER.model_id, 10, *wanted, PeerId("unknown"))
    assert PEER.peer_id in some("echo", 10), "a name stands for this one, too"
    assert some("echo", 10, now=NOW + 60) == set()
    assert some("ohce", 10) == set()
    assert book.some_offers("echo", 10, now=NOW, rng=rng, fits=lambda each: False, wanted=wanted) == []


def test_an_answer_leaves_out_whom_it_should() -> None:
    book, peers, rng = MarketBook(OWN.peer_id), numbered(8), random.Random(1)
    for peer in peers:
        book.handle_announcement(signed(peer), now=NOW)
    left_out = peers[0].peer_id
    for model, peer in ((None, None), (OFFER.model_id, None), (None, left_out)):
        entries = book.answer(model, peer, 32, now=NOW, rng=rng, fits=lambda each: each != left_out)
        told = {verify_announcement(entry.raw).announcement.peer_id for entry in entries}
        assert told == (set() if peer else {each.peer_id for each in peers[1:]})


def test_what_was_replaced_leaves_no_heap_of_deadlines() -> None:
    book, peers = MarketBook(OWN.peer_id), numbered(5)
    for second in range(400):
        for peer in peers:
            book.handle_announcement(signed(peer, at=NOW + second / 10), now=NOW + second / 10)
    assert len(book._entries._deadlines) <= 2 * len(peers) + 64 + 1
    assert book.next_deadline() == NOW + 39.9 + 60
    assert len(book.handle_timer(now=NOW + 99.9)) == len(peers)
    assert book.next_deadline() is None
