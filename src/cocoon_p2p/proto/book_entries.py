"""What a book holds, by peer, model, name, subnet and time; so that looking costs what is found, and forgetting what is gone,
however many peers there are."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

from cocoon_p2p import limits
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.policy.subnets import is_public_subnet
from cocoon_p2p.wire.capacity import Announcement, BookEntry, HeardBy, Offer, SignedAnnouncement

_LARGE = limits.BOOK_OFFERS_MAX // limits.BOOK_PEERS_MAX
"""Offers of one peer: were all to have as many, a full book would still be within its bound."""
_STALE_DEADLINES = 64

Item = TypeVar("Item")


class Random(Protocol):
    """The part of `random.Random` that is used here."""

    def sample(self, population: Sequence[int], k: int) -> list[int]: ...


class Trust(IntEnum):
    """How sure it is that a peer stands in the subnet that it announces."""

    HEARSAY = 0
    CONFIRMED = 1
    """It said so elsewhere this time, and was reached there before."""
    REACHED = 2
    """It said so itself, there."""


@dataclass(frozen=True, slots=True)
class BookOffer:
    """One model of one peer, as announced."""

    peer: PeerId
    addresses: tuple[str, ...]
    agent: str
    settlement_networks: tuple[int, ...]
    region: str
    offer: Offer
    issued_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class Heard:
    """A peer's newest announcement, and how it came to us first."""

    signed: SignedAnnouncement
    heard_by: HeardBy
    heard_at: float
    """Unix seconds."""
    subnet: str
    trust: Trust = Trust.HEARSAY

    @property
    def announcement(self) -> Announcement:
        return self.signed.announcement

    def is_current(self, now: float) -> bool:
        return self.announcement.expires_at_ms > now * 1000

    def as_entry(self, now: float) -> BookEntry:
        """For those who ask for our book."""
        return BookEntry(self.signed.encode(), self.heard_by, max(0, round((now - self.heard_at) * 1000)))


@dataclass(frozen=True, slots=True)
class _Held:
    heard: Heard
    offers: tuple[BookOffer, ...]


class BookEntries:
    """At most `peers_max`, with at most `offers_max` offers between them: the least recently heard goes first, where there
    are too many offers the least recently heard of those with many."""

    def __init__(self, *, peers_max: int, offers_max: int) -> None:
        self._peers_max = peers_max
        self._offers_max = offers_max
        self._held: OrderedDict[PeerId, _Held] = OrderedDict()
        self._large: OrderedDict[PeerId, None] = OrderedDict()
        self._offers = 0
        self._by_model: dict[ModelId, dict[PeerId, BookOffer]] = {}
        self._models: dict[str, dict[ModelId, int]] = {}
        self._subnets: dict[str, dict[PeerId, None]] = {}
        self._deadlines: list[tuple[int, PeerId]] = []

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._held

    def get(self, peer: PeerId) -> Heard | None:
        held = self._held.get(peer)
        return None if held is None else held.heard

    def put(self, heard: Heard) -> None:
        """In place of what the peer said before."""
        announcement = heard.announcement
        peer = announcement.peer_id
        if peer in self._held:
            self.remove(peer)
        held = _Held(heard, tuple(book_offer(announcement, offer) for offer in announcement.offers))
        self._held[peer] = held
        self._offers += len(held.offers)
        if len(held.offers) > _LARGE:
            self._large[peer] = None
        self._subnets.setdefault(heard.subnet, {})[peer] = None
        for each in held.offers:
            model, name = each.offer.model_id, each.offer.name
            self._by_model.setdefault(model, {})[peer] = each
            models = self._models.setdefault(name, {})
            models[model] = models.get(model, 0) + 1
        self._expect(announcement.expires_at_ms, peer)
        if len(self._held) > self._peers_max:
            self.remove(next(iter(self._held)))
        while self._offers > self._offers_max:
            self.remove(next(iter(self._large or self._held)))

    def remove(self, peer: PeerId) -> Heard:
        """Raises KeyError."""
        held = self._held.pop(peer)
        self._large.pop(peer, None)
        self._offers -= len(held.offers)
        subnet = self._subnets[held.heard.subnet]
        del subnet[peer]
        if not subnet:
            del self._subnets[held.heard.subnet]
        for each in held.offers:
            self._remove_offer(peer, each.offer)
        return held.heard

    def _remove_offer(self, peer: PeerId, offer: Offer) -> None:
        peers, models = self._by_model[offer.model_id], self._models[offer.name]
        del peers[peer]
        if not peers:
            del self._by_model[offer.model_id]
        models[offer.model_id] -= 1
        if not models[offer.model_id]:
            del models[offer.model_id]
            if not models:
                del self._models[offer.name]

    # --- time ---

    def _expect(self, expires_at_ms: int, peer: PeerId) -> None:
        heapq.heappush(self._deadlines, (expires_at_ms, peer))
        if len(self._deadlines) > 2 * len(self._held) + _STALE_DEADLINES:  # most are of what was replaced
            self._deadlines = [(held.heard.announcement.expires_at_ms, peer) for peer, held in self._held.items()]
            heapq.heapify(self._deadlines)

    def next_deadline_ms(self) -> int | None:
        """When the next entry expires, Unix milliseconds."""
        while self._deadlines:
            at_ms, peer = self._deadlines[0]
            held = self._held.get(peer)
            if held is not None and held.heard.announcement.expires_at_ms == at_ms:
                return at_ms
            heapq.heappop(self._deadlines)  # of an announcement that was replaced, or a peer that left
        return None

    def take_expired(self, now_ms: float) -> list[Heard]:
        gone = []
        while (at_ms := self.next_deadline_ms()) is not None and at_ms <= now_ms:
            gone.append(self.remove(heapq.heappop(self._deadlines)[1]))
        return gone

    # --- subnets ---

    def crowd(self, subnet: str, *, leave_out: PeerId) -> list[Heard]:
        """Who announces itself in a public subnet, the least recently heard first."""
        if not is_public_subnet(subnet):
            return []
        return [self._held[peer].heard for peer in self._subnets.get(subnet, ()) if peer != leave_out]

    # --- looking ---

    def offers(self, model: str | None, *, now_ms: float) -> Iterator[BookOffer]:
        """Current ones, of a model by id or name; of all models for None."""
        if model is None:
            found: Iterable[BookOffer] = (offer for held in self._held.values() for offer in held.offers)
        else:
            found = (offer for offers, named in self._groups(model) for offer in offers.values() if named(offer))
        return (offer for offer in found if offer.expires_at_ms > now_ms)

    def some_offers(
        self,
        model: str,
        count: int,
        *,
        now_ms: float,
        rng: Random,
        fits: Callable[[BookOffer], bool],
        wanted: Iterable[PeerId],
    ) -> list[BookOffer]:
        """Up to `count` drawn at random, and those of `wanted` peers. Of a name that stands for several models, some of
        each."""
        groups = list(self._groups(model))[:count]
        wanted = tuple(wanted)
        found: dict[tuple[PeerId, ModelId], BookOffer] = {}
        for offers, named in groups:

            def fit(offer: BookOffer, named: Callable[[BookOffer], bool] = named) -> bool:
                return offer.expires_at_ms > now_ms and named(offer) and fits(offer)

            asked_for = [offers[peer] for peer in wanted if peer in offers]
            drawn = draw(list(offers.values()), max(1, count // len(groups)), fit, rng)
            for offer in (*drawn, *filter(fit, asked_for)):
                found[offer.peer, offer.offer.model_id] = offer
        return list(found.values())

    def draw(
        self, model_id: ModelId | None, count: int, *, now_ms: float, rng: Random, fits: Callable[[PeerId], bool]
    ) -> list[Heard]:
        """Up to `count` peers with current offers, of one model or of any, drawn at random."""
        if model_id is not None:
            offers = list(self._by_model.get(model_id, {}).values())
            drawn = draw(offers, count, lambda each: each.expires_at_ms > now_ms and fits(each.peer), rng)
            return [self._held[each.peer].heard for each in drawn]

        def fit(held: _Held) -> bool:
            return bool(held.offers) and held.offers[0].expires_at_ms > now_ms and fits(held.offers[0].peer)

        return [held.heard for held in draw(list(self._held.values()), count, fit, rng)]

    def names(self) -> Iterable[str]:
        return self._models.keys()

    def _groups(self, model: str) -> Iterator[tuple[dict[PeerId, BookOffer], Callable[[BookOffer], bool]]]:
        """Offers of each model that a text stands for, and which of them count: an id stands for itself, and whatever is
        called like that is meant as well."""
        for model_id in dict.fromkeys((ModelId(model), *self._models.get(model, ()))):
            offers = self._by_model.get(model_id)
            if offers is not None:
                yield offers, _anything if model_id == model else lambda offer: offer.offer.name == model


def _anything(offer: BookOffer) -> bool:
    return True


def draw(items: Sequence[Item], count: int, fits: Callable[[Item], bool], rng: Random) -> list[Item]:
    """Up to `count` of those that fit, at random. Only some are looked at, unless few of them fit."""
    if len(items) > 2 * count:
        some = [items[i] for i in rng.sample(range(len(items)), 2 * count)]
        found = [each for each in some if fits(each)]
        if len(found) >= count:
            return found[:count]
    fitting = [each for each in items if fits(each)]
    return [fitting[i] for i in rng.sample(range(len(fitting)), min(count, len(fitting)))]


def book_offer(announcement: Announcement, offer: Offer) -> BookOffer:
    return BookOffer(
        peer=announcement.peer_id,
        addresses=announcement.addresses,
        agent=announcement.agent,
        settlement_networks=announcement.settlement_networks,
        region=announcement.region,
        offer=offer,
        issued_at_ms=announcement.issued_at_ms,
        expires_at_ms=announcement.expires_at_ms,
    )
