"""capacity/1: the book of other peers' offers, and the announcer of our own. Times are Unix seconds.

`MarketBook.handle_announcement` takes what came by gossip, from the DHT or straight from a peer, in whatever order;
`offers` reads the book. `Announcer.handle_timer` at `next_deadline` publishes; `set_offers` tells it what changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cocoon_p2p import limits
from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.policy.reputation import Fault
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire.capacity import (
    CAPACITY_DOMAIN,
    Announcement,
    Offer,
    SignedAnnouncement,
    require_under_key,
)


def verify_announcement(raw: bytes) -> SignedAnnouncement:
    """Well-formed and signed by the peer that it speaks of. Raises RemoteProtocolError; says nothing of its age."""
    # SPEC capacity/1 §4.2
    signed = SignedAnnouncement.decode(raw)
    if not verify_signature(signed.announcement.peer_id, CAPACITY_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the announcement's signature is not its peer's", code="SIGNATURE")
    return signed


def validate_record(key: str, value: bytes) -> int:
    """The DHT's record validator: the sequence number of a valid announcement under its own peer's key."""
    signed = verify_announcement(value)
    require_under_key(signed, key)
    return signed.announcement.sequence


@dataclass(frozen=True, slots=True)
class BookOffer:
    """One model of one peer, as announced."""

    peer: PeerId
    addresses: tuple[str, ...]
    agent: str
    settlement_networks: tuple[int, ...]
    offer: Offer
    issued_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, slots=True)
class OffersChanged:
    """A peer's offers are new, other, or gone."""

    peer: PeerId


@dataclass(frozen=True, slots=True)
class RememberAddresses:
    peer: PeerId
    addresses: tuple[str, ...]


BookEffect = Penalise | OffersChanged | RememberAddresses


class MarketBook:
    """Everybody else's current announcements. Holds at most `peers_max`; the least recently heard goes first."""

    def __init__(self, own: PeerId, *, peers_max: int = limits.BOOK_PEERS_MAX) -> None:
        self._own = own
        self._peers_max = peers_max
        self._entries: OrderedDict[PeerId, SignedAnnouncement] = OrderedDict()

    def handle_announcement(self, raw: bytes, *, now: float) -> list[BookEffect]:
        """Raises RemoteProtocolError: whoever passed it on should have known (the caller decides what that costs)."""
        signed = verify_announcement(raw)
        return self.handle_verified(signed, now=now)

    def handle_verified(self, signed: SignedAnnouncement, *, now: float) -> list[BookEffect]:
        """The same for an announcement whose signature was checked already. Raises RemoteProtocolError when it is out
        of date or from the future."""
        announcement = signed.announcement
        announcement.require_current(int(now * 1000))
        peer = announcement.peer_id
        if peer == self._own:
            return []
        known = self._entries.get(peer)
        if known is not None:
            if known.announcement.sequence > announcement.sequence:
                return []
            if known.announcement.sequence == announcement.sequence:
                # SPEC capacity/1 §4.3
                return [] if known.body == signed.body else [Penalise(Fault.FORGED_ANNOUNCEMENT)]
        self._entries[peer] = signed
        self._entries.move_to_end(peer)
        if len(self._entries) > self._peers_max:
            self._entries.popitem(last=False)
        changed = known is None or known.announcement.offers != announcement.offers
        remember: list[BookEffect] = [RememberAddresses(peer, announcement.addresses)]
        return [*remember, OffersChanged(peer)] if changed else remember

    def handle_timer(self, *, now: float) -> list[BookEffect]:
        """Drop what has expired."""
        now_ms = int(now * 1000)
        gone = [peer for peer, signed in self._entries.items() if signed.announcement.expires_at_ms <= now_ms]
        for peer in gone:
            del self._entries[peer]
        return [OffersChanged(peer) for peer in gone]

    def next_deadline(self) -> float | None:
        """When the next announcement expires (Unix seconds)."""
        return min((s.announcement.expires_at_ms / 1000 for s in self._entries.values()), default=None)

    def forget(self, peer: PeerId) -> None:
        """A peer that could not be reached, or lost its standing; its next announcement brings it back."""
        self._entries.pop(peer, None)

    def announcement_of(self, peer: PeerId) -> SignedAnnouncement | None:
        return self._entries.get(peer)

    def offers(self, model: str | None = None, *, now: float) -> list[BookOffer]:
        """Current offers of a model, by id or name; of all models for None."""
        now_ms = int(now * 1000)
        return [
            book_offer(signed.announcement, offer)
            for signed in self._entries.values()
            if signed.announcement.expires_at_ms > now_ms
            for offer in signed.announcement.offers
            if model is None or model in (offer.model_id, offer.name)
        ]

    def model_names(self, *, now: float) -> set[str]:
        """Names on offer at present, for "did you mean"."""
        return {offer.offer.name for offer in self.offers(now=now)}


def book_offer(announcement: Announcement, offer: Offer) -> BookOffer:
    return BookOffer(
        peer=announcement.peer_id,
        addresses=announcement.addresses,
        agent=announcement.agent,
        settlement_networks=announcement.settlement_networks,
        offer=offer,
        issued_at_ms=announcement.issued_at_ms,
        expires_at_ms=announcement.expires_at_ms,
    )


@dataclass(frozen=True, slots=True)
class PublishAnnouncement:
    """Gossip it, store it in the DHT, and answer with it on the capacity stream."""

    raw: bytes
    signed: SignedAnnouncement
    new_models: frozenset[tuple[ModelId, str]]
    """Models (id, name) that were not in the announcement before: to be provided in the DHT at once."""


class Announcer:
    """Signs this node's announcements: at once when something that matters changed, otherwise before the last expires.

    `sequence` is the last number that was used; the caller keeps it across restarts."""

    def __init__(self, identity: IdentityKey, *, agent: str, settlement_network: int, sequence: int) -> None:
        self._identity = identity
        self._agent = agent
        self._network = settlement_network
        self.sequence = sequence
        self._offers: tuple[Offer, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._published: SignedAnnouncement | None = None
        self._published_at = float("-inf")
        self._changed_at: float | None = None

    @property
    def current(self) -> SignedAnnouncement | None:
        """What was published last, None before that."""
        return self._published

    def set_offers(self, offers: Sequence[Offer], addresses: Sequence[str], now: float) -> None:
        """What this node offers, and where. Another load alone waits for the next regular announcement."""
        before = (_what_matters(self._offers), self._addresses)
        self._offers = tuple(offers[: limits.MODELS_PER_ANNOUNCEMENT_MAX])
        self._addresses = tuple(addresses[: limits.ADDRESSES_PER_ANNOUNCEMENT_MAX])
        if before != (_what_matters(self._offers), self._addresses) and self._changed_at is None:
            self._changed_at = now

    def next_deadline(self) -> float | None:
        if self._published is None:
            return self._changed_at if self._offers else None  # who never offered anything has nothing to announce
        regular = self._published_at + limits.ANNOUNCEMENT_INTERVAL_S
        if self._changed_at is None:
            return regular
        return min(regular, max(self._changed_at, self._published_at + limits.ANNOUNCEMENT_MIN_INTERVAL_S))

    def handle_timer(self, now: float) -> list[PublishAnnouncement]:
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        return [self._publish(now)]

    def goodbye(self, now: float) -> list[PublishAnnouncement]:
        """The last announcement of a node that stops: no offers. Nothing when it never announced any."""
        if self._published is None or not self._published.announcement.offers:
            return []
        self._offers = ()
        return [self._publish(now)]

    def _publish(self, now: float) -> PublishAnnouncement:
        now_ms = int(now * 1000)
        # SPEC capacity/1 §4.1: the clock in the number, so that a node that lost its state still counts on.
        self.sequence = max(self.sequence + 1, now_ms)
        before = self._published.announcement.offers if self._published else ()
        announcement = Announcement(
            peer_id=self._identity.peer_id,
            sequence=self.sequence,
            issued_at_ms=now_ms,
            expires_at_ms=now_ms + int(limits.ANNOUNCEMENT_LIFETIME_S * 1000),
            addresses=self._addresses,
            agent=self._agent,
            settlement_networks=(self._network,),
            offers=self._offers,
        )
        body = announcement.encode()
        signed = SignedAnnouncement(body, self._identity.sign(CAPACITY_DOMAIN, body))
        self._published, self._published_at, self._changed_at = signed, now, None
        fresh = {(o.model_id, o.name) for o in self._offers} - {(o.model_id, o.name) for o in before}
        return PublishAnnouncement(signed.encode(), signed, frozenset(fresh))


def _what_matters(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Offers without what changes with every job."""
    return tuple(replace(offer, slots_free=0, queue_ms=0, item_us=0) for offer in offers)
