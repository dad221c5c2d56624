"""capacity/1: the book of other peers' offers. Times are Unix seconds.

`handle_announcement` takes what came by gossip, from the DHT, from another book or straight from a peer, in whatever order;
`offers` reads the book. The same announcements in the same order at the same times make the same book.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from cocoon_p2p import limits
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.policy.subnets import is_public_subnet, subnet_of
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.wire.capacity import Announcement, BookEntry, HeardBy, Offer, SignedAnnouncement


class Random(Protocol):
    """The part of `random.Random` that is used here."""

    def sample(self, population: Sequence[int], k: int) -> list[int]: ...


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

    @property
    def announcement(self) -> Announcement:
        return self.signed.announcement

    def is_current(self, now: float) -> bool:
        return self.announcement.expires_at_ms > now * 1000

    def as_entry(self, now: float) -> BookEntry:
        """For those who ask for our book."""
        return BookEntry(self.signed.encode(), self.heard_by, max(0, round((now - self.heard_at) * 1000)))


@dataclass(frozen=True, slots=True)
class OffersChanged:
    """A peer's offers are new, other, or gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class RememberAddresses:
    """A peer announces itself at places that it did not name before."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Taken:
    """This announcement is in the book now, in place of an older one or of none."""

    heard: Heard


BookEffect = Penalise | OffersChanged | RememberAddresses | Taken


class MarketBook:
    """Everybody else's current announcements.

    Holds at most `peers_max`; the least recently heard goes first. Of one public subnet it holds no more than
    `subnet_max` and an eighth of all: whoever rents one subnet neither fills the book nor pushes others out of it, since what
    is too many there is not taken."""

    def __init__(
        self,
        own: PeerId,
        *,
        peers_max: int = limits.BOOK_PEERS_MAX,
        subnet_max: int = limits.BOOK_SUBNET_PEERS_MAX,
        past_max: int = limits.BOOK_PAST_PEERS_MAX,
    ) -> None:
        self._own = own
        self._peers_max = peers_max
        self._subnet_max = max(1, min(subnet_max, peers_max // limits.BOOK_SUBNET_SHARE))
        self._past_max = past_max
        self._entries: OrderedDict[PeerId, Heard] = OrderedDict()
        self._by_model: dict[str, dict[PeerId, None]] = {}
        self._subnets: Counter[str] = Counter()
        self._past: OrderedDict[PeerId, Announcement] = OrderedDict()
        self._forgotten: OrderedDict[PeerId, int] = OrderedDict()
        self._next_expiry: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    # --- what is heard ---

    def handle_announcement(self, raw: bytes, *, now: float, heard_by: HeardBy = HeardBy.GOSSIP) -> list[BookEffect]:
        """Raises RemoteProtocolError: whoever passed it on should have known (the caller decides what that costs)."""
        return self.handle_verified(verify_announcement(raw), now=now, heard_by=heard_by)

    def handle_verified(
        self, signed: SignedAnnouncement, *, now: float, heard_by: HeardBy = HeardBy.GOSSIP
    ) -> list[BookEffect]:
        """The same for an announcement whose signature was checked already. Raises RemoteProtocolError when it is out
        of date or from the future."""
        announcement = signed.announcement
        announcement.require_current(int(now * 1000))
        peer = announcement.peer_id
        if peer == self._own or self._is_forgotten(announcement, heard_by):
            return []
        known = self._entries.get(peer)
        if known is not None:
            if known.announcement.sequence > announcement.sequence:
                return []
            if known.announcement.sequence == announcement.sequence:
                # SPEC capacity/1 §4.3
                return [] if known.signed.body == signed.body else [Penalise(Fault.FORGED_ANNOUNCEMENT)]
        heard = Heard(signed, heard_by, now, subnet_of(announcement.addresses))
        if not self._has_room(heard, known):
            return []
        self._put(heard)
        effects: list[BookEffect] = [Taken(heard)]
        if known is None or known.announcement.addresses != announcement.addresses:
            effects.append(RememberAddresses(peer, announcement.addresses))
        if known is None or known.announcement.offers != announcement.offers:
            effects.append(OffersChanged(peer))
        return effects

    def handle_timer(self, *, now: float) -> list[BookEffect]:
        """Drop what has expired; where those peers were is remembered for a while."""
        gone = [peer for peer, heard in self._entries.items() if not heard.is_current(now)]
        for peer in gone:
            heard = self._entries[peer]
            self._remove(peer)
            self.remember_past(heard.announcement)
        self._next_expiry = min((h.announcement.expires_at_ms / 1000 for h in self._entries.values()), default=None)
        return [OffersChanged(peer) for peer in gone]

    def next_deadline(self) -> float | None:
        """When the next announcement may expire (Unix seconds)."""
        return self._next_expiry

    def forget(self, peer: PeerId) -> None:
        """A peer that could not be reached, or lost its standing. What it has announced so far stays forgotten, however many
        books of others still tell it; a newer announcement brings the peer back, and so does its own word, since then it can
        be reached."""
        announced = [self._past.pop(peer, None)]
        if peer in self._entries:
            announced.append(self._entries[peer].announcement)
            self._remove(peer)
        sequence = max((each.sequence for each in announced if each is not None), default=None)
        if sequence is None:
            return
        self._forgotten[peer] = sequence
        self._forgotten.move_to_end(peer)
        if len(self._forgotten) > self._past_max:
            self._forgotten.popitem(last=False)

    def _is_forgotten(self, announcement: Announcement, heard_by: HeardBy) -> bool:
        sequence = self._forgotten.get(announcement.peer_id)
        return sequence is not None and announcement.sequence <= sequence and heard_by is not HeardBy.ASKED

    def remember_past(self, announcement: Announcement) -> None:
        """What a peer announced once, verified, and no longer valid: whom to ask, not what is on offer."""
        peer = announcement.peer_id
        if not announcement.offers or peer in self._entries or peer == self._own:
            return
        if self._is_forgotten(announcement, HeardBy.BOOK):
            return
        self._past[peer] = announcement
        self._past.move_to_end(peer)
        if len(self._past) > self._past_max:
            self._past.popitem(last=False)

    # --- what is known ---

    def heard(self, peer: PeerId) -> Heard | None:
        return self._entries.get(peer)

    def announcement_of(self, peer: PeerId) -> SignedAnnouncement | None:
        heard = self._entries.get(peer)
        return None if heard is None else heard.signed

    def offers(self, model: str | None = None, *, now: float) -> list[BookOffer]:
        """Current offers of a model, by id or name; of all models for None."""
        return [
            book_offer(heard.announcement, offer)
            for heard in self._of_model(model)
            if heard.is_current(now)
            for offer in heard.announcement.offers
            if model is None or model in (offer.model_id, offer.name)
        ]

    def past_providers(self, model: str | None = None) -> list[Announcement]:
        """Of peers that offered a model some time ago and were not heard since; the latest heard last."""
        return [
            announcement
            for announcement in self._past.values()
            if model is None or any(model in (offer.model_id, offer.name) for offer in announcement.offers)
        ]

    def answer(
        self, model_id: ModelId | None, peer: PeerId | None, count: int, *, now: float, rng: Random
    ) -> list[BookEntry]:
        """For somebody who asks for our book: up to `count` current announcements drawn at random, of one model, of one
        peer, or of whomever."""
        # SPEC capacity/1 §3.8
        if peer is not None:
            one = self._entries.get(peer)
            found = [one] if one is not None else []
        else:
            found = [heard for heard in self._of_model(model_id) if heard.announcement.offers]
        fitting = [heard for heard in found if heard.is_current(now) and _offers_model(heard, model_id)]
        count = min(count, limits.BOOK_ANSWER_MAX, len(fitting))
        return [fitting[i].as_entry(now) for i in rng.sample(range(len(fitting)), count)]

    def model_names(self, *, now: float) -> set[str]:
        """Names on offer at present, for "did you mean"."""
        return {offer.offer.name for offer in self.offers(now=now)}

    # --- the entries and their indices ---

    def _has_room(self, heard: Heard, known: Heard | None) -> bool:
        """False for one too many of a public subnet; when it moved there, its old place is gone, too."""
        if not is_public_subnet(heard.subnet) or (known is not None and known.subnet == heard.subnet):
            return True
        if self._subnets[heard.subnet] < self._subnet_max:
            return True
        if known is not None:
            self._remove(heard.announcement.peer_id)
        return False

    def _put(self, heard: Heard) -> None:
        peer = heard.announcement.peer_id
        if peer in self._entries:
            self._remove(peer)
        self._past.pop(peer, None)
        self._forgotten.pop(peer, None)
        self._entries[peer] = heard
        self._subnets[heard.subnet] += 1
        for key in _keys(heard):
            self._by_model.setdefault(key, {})[peer] = None
        expires_at = heard.announcement.expires_at_ms / 1000
        self._next_expiry = expires_at if self._next_expiry is None else min(self._next_expiry, expires_at)
        if len(self._entries) > self._peers_max:
            self._remove(next(iter(self._entries)))

    def _remove(self, peer: PeerId) -> None:
        heard = self._entries.pop(peer)
        self._subnets[heard.subnet] -= 1
        if not self._subnets[heard.subnet]:
            del self._subnets[heard.subnet]
        for key in _keys(heard):
            peers = self._by_model[key]
            del peers[peer]
            if not peers:
                del self._by_model[key]
        if not self._entries:
            self._next_expiry = None

    def _of_model(self, model: str | None) -> Iterator[Heard]:
        if model is None:
            yield from self._entries.values()
        else:
            yield from (self._entries[peer] for peer in self._by_model.get(model, ()))


def _keys(heard: Heard) -> set[str]:
    """Ids and names under which a peer's offers are looked up."""
    return {key for offer in heard.announcement.offers for key in (offer.model_id, offer.name)}


def _offers_model(heard: Heard, model_id: ModelId | None) -> bool:
    return model_id is None or any(offer.model_id == model_id for offer in heard.announcement.offers)


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
