"""capacity/1: the book of other peers' offers. Times are Unix seconds.

`handle_announcement` takes what came by gossip, from the DHT, from another book or straight from a peer, in whatever order;
`offers` reads the book. The same announcements in the same order at the same times make the same book.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from cocoon_p2p import limits
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.policy.subnets import subnet_of
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.book_entries import BookEntries, BookOffer, Heard, Random, Trust, book_offer
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.wire.capacity import Announcement, BookEntry, HeardBy, SignedAnnouncement

__all__ = [
    "BookEffect",
    "BookOffer",
    "Heard",
    "MarketBook",
    "OffersChanged",
    "RememberAddresses",
    "Taken",
    "Trust",
    "book_offer",
]


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

    Holds at most `peers_max`, and `offers_max` offers; the least recently heard goes first (`BookEntries`). Of one public
    subnet it holds no more than `subnet_max` and an eighth of all: whoever rents one subnet neither fills the book nor pushes
    others out of it, since what is too many there is not taken. An address is only said to be one's own, so who was reached
    there takes the place of those of whom it was only heard."""

    def __init__(
        self,
        own: PeerId,
        *,
        peers_max: int = limits.BOOK_PEERS_MAX,
        subnet_max: int = limits.BOOK_SUBNET_PEERS_MAX,
        past_max: int = limits.BOOK_PAST_PEERS_MAX,
        offers_max: int = limits.BOOK_OFFERS_MAX,
    ) -> None:
        self._own = own
        self._subnet_max = max(1, min(subnet_max, peers_max // limits.BOOK_SUBNET_SHARE))
        self._past_max = past_max
        self._entries = BookEntries(peers_max=peers_max, offers_max=offers_max)
        self._confirmed: OrderedDict[PeerId, str] = OrderedDict()
        self._past: OrderedDict[PeerId, Announcement] = OrderedDict()
        self._forgotten: OrderedDict[PeerId, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    # --- what is heard ---

    def handle_announcement(self, raw: bytes, *, now: float, heard_by: HeardBy = HeardBy.GOSSIP) -> list[BookEffect]:
        """Raises RemoteProtocolError: whoever passed it on should have known (the caller decides what that costs)."""
        return self.handle_verified(verify_announcement(raw), now=now, heard_by=heard_by)

    def handle_verified(
        self,
        signed: SignedAnnouncement,
        *,
        now: float,
        heard_by: HeardBy = HeardBy.GOSSIP,
        reached_in: str | None = None,
    ) -> list[BookEffect]:
        """The same for an announcement whose signature was checked already. `reached_in` is the subnet in which the peer was
        when it was asked (`subnet_of`); without it, it was asked where it says. Raises RemoteProtocolError when the
        announcement is out of date or from the future."""
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
                if known.signed.body != signed.body:
                    return [Penalise(Fault.FORGED_ANNOUNCEMENT)]
                if heard_by is HeardBy.ASKED:
                    self.confirm(peer, known.subnet if reached_in is None else reached_in)
                return []
        subnet = subnet_of(announcement.addresses)
        if heard_by is HeardBy.ASKED:
            self.confirm(peer, subnet if reached_in is None else reached_in)
        heard = Heard(signed, heard_by, now, subnet, self._trust(peer, subnet, heard_by))
        if not self._make_room(heard, known):
            return []
        self._past.pop(peer, None)
        self._forgotten.pop(peer, None)
        self._entries.put(heard)
        effects: list[BookEffect] = [Taken(heard)]
        if known is None or known.announcement.addresses != announcement.addresses:
            effects.append(RememberAddresses(peer, announcement.addresses))
        if known is None or known.announcement.offers != announcement.offers:
            effects.append(OffersChanged(peer))
        return effects

    def handle_timer(self, *, now: float) -> list[BookEffect]:
        """Drop what has expired; where those peers were is remembered for a while."""
        gone = [heard.announcement for heard in self._entries.take_expired(now * 1000)]
        for announcement in gone:
            self.remember_past(announcement)
        return [OffersChanged(announcement.peer_id) for announcement in gone]

    def next_deadline(self) -> float | None:
        """When the next announcement may expire (Unix seconds)."""
        deadline_ms = self._entries.next_deadline_ms()
        return None if deadline_ms is None else deadline_ms / 1000

    def confirm(self, peer: PeerId, subnet: str) -> None:
        """It was reached in this subnet: it answered there, or did a job."""
        self._confirmed[peer] = subnet
        self._confirmed.move_to_end(peer)
        if len(self._confirmed) > limits.BOOK_CONFIRMED_PEERS_MAX:
            self._confirmed.popitem(last=False)
        heard = self._entries.get(peer)
        if heard is not None and heard.subnet == subnet and heard.trust is Trust.HEARSAY:
            self._entries.put(replace(heard, trust=Trust.CONFIRMED))

    def is_confirmed(self, peer: PeerId) -> bool:
        """Whether it ever answered us, as far as is remembered."""
        return peer in self._confirmed

    def forget(self, peer: PeerId) -> None:
        """A peer that could not be reached, or lost its standing. What it has announced so far stays forgotten, however many
        books of others still tell it; a newer announcement brings the peer back, and so does its own word, since then it can
        be reached."""
        announced = [self._past.pop(peer, None)]
        if peer in self._entries:
            announced.append(self._entries.remove(peer).announcement)
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
        return list(self._entries.offers(model, now_ms=now * 1000))

    def some_offers(
        self,
        model: str,
        count: int,
        *,
        now: float,
        rng: Random,
        fits: Callable[[BookOffer], bool] = lambda offer: True,
        wanted: Iterable[PeerId] = (),
    ) -> list[BookOffer]:
        """Up to `count` current offers of a model (id or name) that fit, drawn at random where there are more, and those of
        `wanted` peers besides. Of a name that stands for several models, some of each."""
        return self._entries.some_offers(model, count, now_ms=now * 1000, rng=rng, fits=fits, wanted=wanted)

    def has_offers(self, *, now: float, fits: Callable[[BookOffer], bool] = lambda offer: True) -> bool:
        """Whether anything is on offer."""
        return any(fits(offer) for offer in self._entries.offers(None, now_ms=now * 1000))

    def past_providers(self, model: str | None = None) -> list[Announcement]:
        """Of peers that offered a model some time ago and were not heard since; the latest heard last."""
        return [
            announcement
            for announcement in self._past.values()
            if model is None or any(model in (offer.model_id, offer.name) for offer in announcement.offers)
        ]

    def answer(
        self,
        model_id: ModelId | None,
        peer: PeerId | None,
        count: int,
        *,
        now: float,
        rng: Random,
        fits: Callable[[PeerId], bool] = lambda peer: True,
    ) -> list[BookEntry]:
        """For somebody who asks for our book: up to `count` current announcements drawn at random, of one model, of one
        peer, or of whomever; of peers that fit."""
        # SPEC capacity/1 §3.8
        count = min(count, limits.BOOK_ANSWER_MAX)
        if peer is not None:
            one = self._entries.get(peer)
            told = one is not None and one.is_current(now) and _offers_model(one, model_id) and fits(peer)
            return [one.as_entry(now)] if one is not None and told and count > 0 else []
        drawn = self._entries.draw(model_id, count, now_ms=now * 1000, rng=rng, fits=fits) if count > 0 else []
        return [heard.as_entry(now) for heard in drawn]

    def model_names(self) -> set[str]:
        """Names on offer at present, for "did you mean"."""
        return set(self._entries.names())

    # --- room ---

    def _trust(self, peer: PeerId, subnet: str, heard_by: HeardBy) -> Trust:
        if self._confirmed.get(peer) != subnet:
            return Trust.HEARSAY
        return Trust.REACHED if heard_by is HeardBy.ASKED else Trust.CONFIRMED

    def _make_room(self, heard: Heard, known: Heard | None) -> bool:
        """False for one too many of a public subnet, unless somebody there is less sure to be there, who goes then; the
        least recently heard of the least sure. When it moved there, its old place is gone, too."""
        # SPEC capacity/1 §4.5
        if known is not None and known.subnet == heard.subnet:
            return True
        peer = heard.announcement.peer_id
        crowd = self._entries.crowd(heard.subnet, leave_out=peer)
        if len(crowd) < self._subnet_max:
            return True
        weakest = min(crowd, key=lambda each: each.trust)
        if weakest.trust < heard.trust:
            self._entries.remove(weakest.announcement.peer_id)
            return True
        if known is not None:
            self._entries.remove(peer)
        return False


def _offers_model(heard: Heard, model_id: ModelId | None) -> bool:
    return model_id is None or any(offer.model_id == model_id for offer in heard.announcement.offers)
