"""capacity/1: when a node announces what, and by which ways. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cocoon_p2p import limits
from cocoon_p2p.ids import ModelId
from cocoon_p2p.policy.gossip_pace import GossipPace
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire.capacity import CAPACITY_DOMAIN, Announcement, Offer, SignedAnnouncement


class Random(Protocol):
    """The part of `random.Random` that is used here."""

    def random(self) -> float: ...


@dataclass(frozen=True, slots=True)
class PublishAnnouncement:
    """A new announcement: answer with it on the capacity stream from now on."""

    raw: bytes
    signed: SignedAnnouncement
    gossip: bool
    """Publish it on the topic."""
    store: bool
    """Put it into the DHT: it says where this node is, or which models it has, and that changed or was long ago."""


class Announcer:
    """Signs this node's announcements: at once when something that matters changed, else every ANNOUNCEMENT_INTERVAL_S less
    some jitter, so that nodes that were started together do not speak together for ever.

    `sequence` is the last number that was used; the caller keeps it across restarts. `pace` says which announcements are
    gossiped; what is not is still signed, since whoever asks wants a current one. Without `rng` there is no jitter."""

    def __init__(
        self,
        identity: IdentityKey,
        *,
        agent: str,
        settlement_network: int,
        sequence: int,
        region: str = "",
        rng: Random | None = None,
        pace: GossipPace | None = None,
    ) -> None:
        self._identity = identity
        self._agent = agent
        self._network = settlement_network
        self._region = region
        self._rng = rng
        self.pace = pace or GossipPace()
        self.sequence = sequence
        self._offers: tuple[Offer, ...] = ()
        self._addresses: tuple[str, ...] = ()
        self._published: SignedAnnouncement | None = None
        self._published_at = float("-inf")
        self._regular_at = 0.0
        self._changed_at: float | None = None
        self._ungossiped = False
        self._stored: tuple[object, float] | None = None

    @property
    def current(self) -> SignedAnnouncement | None:
        """What was published last, None before that."""
        return self._published

    def set_offers(self, offers: Sequence[Offer], addresses: Sequence[str], now: float) -> None:
        """What this node offers, and where. Another load alone waits for the next regular announcement, as long as some
        slot stays free, or none."""
        if (
            now < self._published_at
        ):  # somebody has set the clock back: what was due by the old one would come far too late
            self._published_at, self._regular_at = float("-inf"), now
        before = (_what_matters(self._offers), self._addresses)
        self._offers = tuple(offers[: limits.MODELS_PER_ANNOUNCEMENT_MAX])
        self._addresses = tuple(addresses[: limits.ADDRESSES_PER_ANNOUNCEMENT_MAX])
        if before != (_what_matters(self._offers), self._addresses) and self._changed_at is None:
            self._changed_at = now

    def next_deadline(self) -> float | None:
        if self._published is None:
            return self._changed_at if self._offers else None  # who never offered anything has nothing to announce
        if self._changed_at is None:
            return self._regular_at
        return min(self._regular_at, max(self._changed_at, self._published_at + limits.ANNOUNCEMENT_MIN_INTERVAL_S))

    def handle_timer(self, now: float) -> list[PublishAnnouncement]:
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        return [self._publish(now)]

    def handle_question(self, now: float) -> list[PublishAnnouncement]:
        """Somebody asks: a fresh announcement when the last one is old or says another load than there is, at most one a
        second; and the first, should it not be out yet. For him alone, unless everybody should hear of a change."""
        if self._published is None:
            return [self._publish(now, asked=True)] if self._offers else []
        if now - self._published_at < limits.ANNOUNCEMENT_MIN_INTERVAL_S:
            return []
        is_old = now - self._published_at > limits.ANNOUNCEMENT_FRESH_S
        if not is_old and self._published.announcement.offers == self._offers:
            return []
        return [self._publish(now, asked=True)]

    def goodbye(self, now: float) -> list[PublishAnnouncement]:
        """The last announcement of a node that stops: no offers. Nothing when it never announced any."""
        if self._published is None or not self._published.announcement.offers:
            return []
        self._offers = ()
        return [replace(self._publish(now), gossip=self._draw(now, changed=True), store=True)]

    # --- signing ---

    def _publish(self, now: float, *, asked: bool = False) -> PublishAnnouncement:
        self._ungossiped = self._ungossiped or self._changed_at is not None
        signed = self._sign(now)
        self._published, self._published_at = signed, now
        gossip = False
        if not (asked and self._changed_at is None):
            gossip = self._decide_gossip(now)
        if gossip or now >= self._regular_at:
            self._regular_at = now + limits.ANNOUNCEMENT_INTERVAL_S * (1 - limits.ANNOUNCEMENT_JITTER * self._chance())
        self._changed_at = None
        return PublishAnnouncement(signed.encode(), signed, gossip, self._decide_store(now))

    def _sign(self, now: float) -> SignedAnnouncement:
        now_ms = int(now * 1000)
        # SPEC capacity/1 §4.1: the clock in the number, so that a node that lost its state still counts on.
        self.sequence = max(self.sequence + 1, now_ms)
        body = Announcement(
            peer_id=self._identity.peer_id,
            sequence=self.sequence,
            issued_at_ms=now_ms,
            expires_at_ms=now_ms + int(limits.ANNOUNCEMENT_LIFETIME_S * 1000),
            addresses=self._addresses,
            agent=self._agent,
            settlement_networks=(self._network,),
            region=self._region,
            offers=self._offers,
        ).encode()
        return SignedAnnouncement(body, self._identity.sign(CAPACITY_DOMAIN, body))

    def _decide_gossip(self, now: float) -> bool:
        news = self._ungossiped and self.pace.take_change(now)
        # A change beyond our share of news waits for the next regular announcement.
        gossip = (news or now >= self._regular_at) and self._draw(now, changed=news)
        if gossip:
            self.pace.note_heard(now)
            self._ungossiped = False
        return gossip

    def _draw(self, now: float, *, changed: bool) -> bool:
        chance = self.pace.chance(now, changed=changed)
        return chance >= 1.0 or (0.5 if self._rng is None else self._rng.random()) < chance

    def _decide_store(self, now: float) -> bool:
        what = (self._addresses, frozenset(_models(self._offers)))
        if self._stored is not None and self._stored[0] == what and now - self._stored[1] < limits.RECORD_INTERVAL_S:
            return False
        self._stored = (what, now)
        return True

    def _chance(self) -> float:
        return self._rng.random() if self._rng is not None else 0.0


def _models(offers: Sequence[Offer]) -> list[tuple[ModelId, str]]:
    return [(offer.model_id, offer.name) for offer in offers]


def _what_matters(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    """Offers without what changes with every job; whether there is any room at all does matter."""
    return tuple(
        replace(offer, slots_free=min(offer.slots_free, 1), queue_ms=0, item_us=0, throughput=0, load_ms=0)
        for offer in offers
    )
