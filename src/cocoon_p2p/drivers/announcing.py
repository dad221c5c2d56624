"""capacity/1, our own announcements: signed when something changed or time has passed, gossiped within a budget, put into the
DHT when they say something new of where we are, and handed to whoever asks."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.errors import TransportError, one_line
from cocoon_p2p.net.port import AddressesChanged, Network
from cocoon_p2p.proto.announcer import Announcer, PublishAnnouncement
from cocoon_p2p.store import Store
from cocoon_p2p.wire.capacity import (
    ANY_MODEL_CONTENT_ID,
    CAPACITY_TOPIC,
    Offer,
    SignedAnnouncement,
    capacity_key,
    model_content_id,
    name_content_id,
)

log = logging.getLogger(__name__)

SEQUENCE_NAME = "announcement-sequence"
STORE_AGAIN_MIN_S = 0.25
"""A DHT lookup among neighbours takes milliseconds; the wait doubles."""
PROVIDE_AGAIN_S = 0.9 * limits.RECORD_INTERVAL_S
"""Together with the record. Provider records of others' libraries live for hours; ten minutes bring one to peers that joined
since."""

OfferSource = Callable[[], tuple[Sequence[Offer], Sequence[str]]]
"""(what this node offers now, where it can be reached)."""
Announced = Callable[[Sequence[Offer], int], None]
"""(offers, expires_at_ms) of each announcement that others may have seen: its prices are firm until then."""


class Announcing:
    """Runs an `Announcer`. `run` it in a task."""

    def __init__(
        self,
        network: Network,
        store: Store,
        clock: Clock,
        announcer: Announcer,
        *,
        offers: OfferSource,
        announced: Announced,
        before_first: Callable[[], Awaitable[None]],
    ) -> None:
        self._network = network
        self._store = store
        self._clock = clock
        self.announcer = announcer
        self._offer_source = offers
        self._announced = announced
        self._before_first: Callable[[], Awaitable[None]] | None = before_first
        self._ungossiped: bytes | None = None
        self._unstored: SignedAnnouncement | None = None
        self._unstored_changed = trio.Event()
        self._provided: dict[bytes, float] = {}
        self._looked_at = float("-inf")
        self._alarm = Alarm(self._next_deadline, self._on_deadline, clock.unix)

    def refresh(self) -> None:
        """What this node offers may have changed."""
        self._look()
        self._alarm.poke()

    def current(self) -> SignedAnnouncement | None:
        """For somebody who asks; made anew where the last one is old, or the load is another now. What he hears first and
        all should hear is gossiped as well. None: nothing was ever on offer."""
        if self._clock.now() - self._looked_at >= limits.OFFERS_LOOK_INTERVAL_S:
            self._look()
        for publication in self.announcer.handle_question(self._clock.unix()):
            self._note(publication)
            if publication.gossip:
                self._ungossiped = publication.raw
        self._alarm.poke()
        return self.announcer.current

    async def goodbye(self) -> None:
        """Tell others that this node offers nothing any more."""
        self._ungossiped = None
        for publication in self.announcer.goodbye(self._clock.unix()):
            await self._publish(publication)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarm.run)
            nursery.start_soon(self._store_in_dht)
            nursery.start_soon(self._watch_addresses)
            nursery.start_soon(self._watch_clock)

    async def _watch_clock(self) -> None:
        """Announcements are due by the wall clock, which may be set back by an hour; the alarm would wait for that long."""
        while True:
            await trio.sleep(limits.ANNOUNCEMENT_INTERVAL_S)
            if self.announcer.current is not None:
                self.refresh()

    async def _watch_addresses(self) -> None:
        """Who offers something says at once where it can be reached now, and not with the next regular announcement."""
        async with self._network.events() as events:
            async for event in events:
                if isinstance(event, AddressesChanged):
                    self.refresh()

    def _next_deadline(self) -> float | None:
        return float("-inf") if self._ungossiped is not None else self.announcer.next_deadline()

    async def _on_deadline(self) -> None:
        if self._before_first is not None:
            before_first, self._before_first = self._before_first, None
            await before_first()
        self._look()
        for publication in self.announcer.handle_timer(self._clock.unix()):
            await self._publish(publication)
        if self._ungossiped is not None:
            raw, self._ungossiped = self._ungossiped, None
            await self._gossip(raw)

    def _look(self) -> None:
        self._looked_at = self._clock.now()
        offers, addresses = self._offer_source()
        self.announcer.set_offers(offers, addresses, self._clock.unix())

    async def _publish(self, publication: PublishAnnouncement) -> None:
        self._note(publication)
        if publication.gossip:
            await self._gossip(publication.raw)

    async def _gossip(self, raw: bytes) -> None:
        with suppress(TransportError):  # gossip promises nothing; who asks, is told
            await self._network.publish(CAPACITY_TOPIC, raw)

    def _note(self, publication: PublishAnnouncement) -> None:
        """Before anybody sees it: its number is used up, and its prices bind."""
        announcement = publication.signed.announcement
        self._store.values.set(SEQUENCE_NAME, announcement.sequence)
        self._announced(announcement.offers, announcement.expires_at_ms)
        if publication.store or self._unstored is not None:
            self._unstored = publication.signed
            self._unstored_changed.set()

    async def _store_in_dht(self) -> None:
        """Put the newest announcement into the DHT, again and again until somebody took it. Right after joining nobody is
        known yet who could."""
        wait_s = STORE_AGAIN_MIN_S
        while True:
            signed = self._unstored
            if signed is None:
                self._unstored_changed = trio.Event()
                await self._unstored_changed.wait()
                wait_s = STORE_AGAIN_MIN_S
                continue
            announcement = signed.announcement
            try:
                await self._network.dht_put(capacity_key(announcement.peer_id), signed.encode())
                await self._provide(announcement.offers)
            except TransportError as error:
                log.info("the announcement is not in the DHT yet: %s", one_line(error))
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, limits.ANNOUNCEMENT_INTERVAL_S)
            else:
                if self._unstored is signed:
                    self._unstored = None

    async def _provide(self, offers: Sequence[Offer]) -> None:
        content_ids = {ANY_MODEL_CONTENT_ID} if offers else set()
        for offer in offers:
            content_ids |= {model_content_id(offer.model_id), name_content_id(offer.name)}
        for content_id in content_ids:
            now = self._clock.now()
            if now - self._provided.get(content_id, -PROVIDE_AGAIN_S) >= PROVIDE_AGAIN_S:
                await self._network.provide(content_id)
                self._provided[content_id] = now
