"""capacity/1: the book of offers, kept up to date by gossip, by asking (discovery.py) and from the last run, and what peers
are answered on the capacity stream. Our own announcements: announcing.py.

Gossip is a sample, the DHT record tells where a peer is, and a peer's own word on the capacity stream is the truth.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.announcing import SEQUENCE_NAME, Announced, Announcing, OfferSource
from cocoon_p2p.drivers.asking import CapacityAsker
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.discovery import Changes, Discovery, DiscoveryPorts
from cocoon_p2p.drivers.hearsay import heard_addresses
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.net.port import Network, Stream
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.policy.clock_comparison import ClockComparison
from cocoon_p2p.policy.gossip_pace import AuthorRates
from cocoon_p2p.policy.reputation import Fault, fault_of_code
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.announcer import Announcer
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.proto.market_book import (
    BookEffect,
    BookOffer,
    Heard,
    MarketBook,
    OffersChanged,
    RememberAddresses,
    Taken,
)
from cocoon_p2p.store import Store
from cocoon_p2p.wire.capacity import (
    CAPACITY_PROTOCOL,
    CAPACITY_TOPIC,
    Announcement,
    Book,
    BookEntry,
    CapacityMessage,
    GetBook,
    GetCapacity,
    GetManifest,
    HeardBy,
    Manifest,
    NoCapacity,
    NoManifest,
    SignedAnnouncement,
    decode_message,
)

__all__ = ["SEQUENCE_NAME", "ManifestSource", "MarketDriver", "MarketPorts", "OfferSource"]

log = logging.getLogger(__name__)

ManifestSource = Callable[[ModelId], bytes | None]
_BOOK_QUESTIONS = Rate(limits.BOOK_QUESTIONS_PER_PEER_S, limits.BOOK_QUESTIONS_PER_PEER_BURST)
_WINDOW_MS = 1000 * limits.GOSSIP_RATE_WINDOW_S
_RESTORED_AT_ONCE = 16
"""Announcements of the last run that are read between two turns of others: 1 ms."""


@dataclass(frozen=True, slots=True)
class MarketPorts:
    network: Network
    store: Store
    standing: StandingKeeper
    clock: Clock
    rng: random.Random = field(default_factory=random.SystemRandom)


class MarketDriver:
    """The book, kept up to date, and our own announcements. `run` it in a task.

    `announced` is told of each announcement of ours, `taken` of each new one of others."""

    def __init__(
        self,
        ports: MarketPorts,
        book: MarketBook,
        announcer: Announcer,
        *,
        offers: OfferSource,
        manifests: ManifestSource,
        announced: Announced = lambda offers, expires_at_ms: None,
    ) -> None:
        self._ports = ports
        self._book = book
        self._announcer = announcer
        self._announcing = Announcing(
            ports.network,
            ports.store,
            ports.clock,
            announcer,
            offers=offers,
            announced=announced,
            before_first=self._listen_back,
        )
        self._manifest_source = manifests
        self._asker = CapacityAsker(ports.network, ports.standing)
        self._authors = AuthorRates()
        self._askers: Buckets[PeerId] = Buckets(_BOOK_QUESTIONS)
        self.changes = Changes()
        """Notified when somebody's offers are new, other or gone."""
        self._discovery = Discovery(
            DiscoveryPorts(
                ports.network, ports.clock, ports.rng, self._asker, self.offers, self._take_own_word, self._take_book
            ),
            book,
            self.changes,
        )
        self.clocks = ClockComparison()
        """How others' clocks compare with ours."""
        self.taken: Callable[[Heard], None] = lambda heard: None
        self._expiry = Alarm(book.next_deadline, self._on_expiry, ports.clock.unix)

    # --- our own announcements ---

    def refresh(self) -> None:
        """What this node offers may have changed."""
        self._announcing.refresh()

    async def goodbye(self) -> None:
        """Tell others that this node offers nothing any more."""
        await self._announcing.goodbye()

    def gossiped_a_minute(self) -> float:
        """Announcements a minute on the topic."""
        return self._announcer.pace.heard(self._ports.clock.unix())

    async def _listen_back(self) -> None:
        """Before our first announcement: how much was gossiped before we came, by a neighbour's book, which is also a first
        look at the market."""
        neighbours = self._ports.network.peers()
        if not neighbours:
            return
        peer = self._ports.rng.sample([each.peer for each in neighbours], 1)[0]
        with trio.move_on_after(limits.LISTEN_BACK_S), suppress(TransportError, RemoteProtocolError):
            entries = await self._asker.book(peer, count=limits.BOOK_ANSWER_MAX)
            gossiped = [e for e in entries if e.heard_by is HeardBy.GOSSIP and e.heard_ago_ms < _WINDOW_MS]
            self._announcer.pace.begin(self._ports.clock.unix(), len(gossiped))
            self._take_book(peer, entries)

    # --- tasks ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; started once gossip is subscribed to and the capacity stream is served."""
        network = self._ports.network
        network.set_handler(CAPACITY_PROTOCOL, self._serve_capacity)
        async with (
            network.subscribe(CAPACITY_TOPIC, self._validate) as gossip,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._expiry.run)
            nursery.start_soon(self._announcing.run)
            nursery.start_soon(self._discovery.run)
            task_status.started()
            async for _, data in gossip:
                self._take(data)

    async def restore(self, remembered: Iterable[bytes]) -> None:
        """What was heard in the last run: a hint whom to ask, and an offer as long as it is valid."""
        for number, raw in enumerate(remembered):
            if number % _RESTORED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            with suppress(RemoteProtocolError):  # nobody is to blame
                announcement = SignedAnnouncement.decode(raw).announcement
                if announcement.expires_at_ms > unix_ms(self._ports.clock):
                    self._apply(self._handle(verify_announcement(raw), HeardBy.BOOK), announcement.peer_id)
                else:
                    self._book.remember_past(announcement)

    async def _on_expiry(self) -> None:
        self._apply(self._book.handle_timer(now=self._ports.clock.unix()), None)

    # --- what is heard ---

    def _validate(self, author: PeerId, data: bytes) -> bool:
        """Gossip's validator: only a peer's own, valid, current announcement is taken and passed on."""
        try:
            announcement = verify_announcement(data).announcement
            if announcement.peer_id == author:
                self._compare_clocks(announcement)
            announcement.require_current(unix_ms(self._ports.clock))
        except RemoteProtocolError as error:
            log.info("peer %s gossiped a bad announcement: %s", author, error)
            if error.code != "EXPIRED":  # what is late may have been held up by others
                self._ports.standing.penalise(author, Fault.FORGED_ANNOUNCEMENT)
            return False
        if announcement.peer_id != author:
            return False
        if not self._authors.take(author, announcement.issued_at_ms / 1000):
            # SPEC capacity/1 §4.4
            self._ports.standing.penalise(author, Fault.FLOOD)
            return False
        self._announcer.pace.note_heard(self._ports.clock.unix(), author)
        return True

    def _compare_clocks(self, announcement: Announcement) -> None:
        """An announcement that has just been made, and is from the future or long over by our clock. Nobody is to blame: a
        warning says whose clocks differ."""
        offset_s = announcement.issued_at_ms / 1000 - self._ports.clock.unix()
        if -limits.ANNOUNCEMENT_LIFETIME_S <= offset_s <= limits.ANNOUNCEMENT_CLOCK_SKEW_S:
            self.clocks.agrees(announcement.peer_id)
            return
        warning = self.clocks.differs(announcement.peer_id, offset_s)
        if warning is not None:
            log.warning("%s", warning)

    def _take(self, raw: bytes, heard_by: HeardBy = HeardBy.GOSSIP) -> None:
        try:
            signed = verify_announcement(raw)
            self._apply(self._handle(signed, heard_by), signed.announcement.peer_id)
        except RemoteProtocolError as error:  # it expired on its way
            log.info("an announcement was not taken: %s", error)

    def _take_own_word(self, signed: SignedAnnouncement) -> None:
        self._compare_clocks(signed.announcement)
        self._take(signed.encode(), HeardBy.ASKED)

    def _take_book(self, teller: PeerId, entries: Sequence[BookEntry]) -> None:
        """What a neighbour's book says is checked like everything else, and it should have checked it before us. Clocks
        differ, and an announcement may expire on its way."""
        for entry in entries:
            try:
                signed = verify_announcement(entry.raw)
                of_teller = signed.announcement.peer_id == teller
                heard_by = HeardBy.ASKED if of_teller else HeardBy.BOOK
                self._apply(self._handle(signed, heard_by), signed.announcement.peer_id)
            except RemoteProtocolError as error:
                log.info("peer %s has a bad announcement in its book: %s", teller, error)
                if error.code != "EXPIRED":
                    self._ports.standing.penalise(teller, Fault.FORGED_ANNOUNCEMENT)
                    return

    def _handle(self, signed: SignedAnnouncement, heard_by: HeardBy) -> list[BookEffect]:
        return self._book.handle_verified(signed, now=self._ports.clock.unix(), heard_by=heard_by)

    def _apply(self, effects: Sequence[BookEffect], author: PeerId | None) -> None:
        for effect in effects:
            match effect:
                case Penalise(fault):
                    log.info("peer %s announced two things under one number (%s)", author, fault.value)
                    if author is not None:
                        self._ports.standing.penalise(author, fault)
                case OffersChanged():
                    self.changes.notify()
                case RememberAddresses(peer, addresses):
                    heard = heard_addresses(self._ports.network, addresses)
                    self._ports.store.peers.seen(peer, heard, at_ms=unix_ms(self._ports.clock))
                case Taken(heard_now):
                    self.taken(heard_now)
        self._expiry.poke()

    # --- the capacity stream ---

    async def _serve_capacity(self, stream: Stream) -> None:
        try:
            while True:
                message = decode_message(await stream.receive())
                if isinstance(message, GetBook) and not self._askers.take(stream.peer, self._ports.clock.now()):
                    raise RemoteProtocolError("asks for our book too often", code="FLOOD")
                await stream.send(self._answer(message))
        except EndOfStream:
            await stream.aclose()
        except TransportError:
            await stream.reset()
        except RemoteProtocolError as error:
            fault = Fault.FLOOD if error.code == "FLOOD" else fault_of_code(error.code)
            self._ports.standing.penalise(stream.peer, fault)
            await stream.reset()

    def _answer(self, message: CapacityMessage) -> bytes:
        match message:
            case GetCapacity():
                current = self._announcing.current()
                return NoCapacity().encode() if current is None else current.encode()
            case GetManifest(model_id):
                manifest = self._manifest_source(model_id)
                return NoManifest().encode() if manifest is None else Manifest(manifest).encode()
            case GetBook():
                return Book(tuple(self._book_answer(message))).encode()
        raise RemoteProtocolError(f"{type(message).__name__} is an answer, not a question", code="UNEXPECTED")

    def _book_answer(self, question: GetBook) -> list[BookEntry]:
        """Our own announcement where it fits, and what others have announced; without peers that we refuse."""
        own = self._own_entry(question)
        now = self._ports.clock.unix()
        found = self._book.answer(
            question.model_id, question.peer_id, question.count - len(own), now=now, rng=self._ports.rng
        )
        return [*own, *(entry for entry in found if not self._is_banned(entry))]

    def _own_entry(self, question: GetBook) -> list[BookEntry]:
        if question.peer_id not in (None, self._ports.network.peer_id):
            return []
        current = self._announcing.current()
        if current is None:
            return []
        models = {offer.model_id for offer in current.announcement.offers}
        fits = question.model_id in models if question.model_id is not None else bool(models)
        return [BookEntry(current.encode(), HeardBy.ASKED, 0)] if fits else []

    def _is_banned(self, entry: BookEntry) -> bool:
        return self._ports.standing.is_banned(verify_announcement(entry.raw).announcement.peer_id)

    # --- finding offers ---

    def offers(self, model: str | None = None) -> list[BookOffer]:
        """What the book has now."""
        return [
            offer
            for offer in self._book.offers(model, now=self._ports.clock.unix())
            if not self._ports.standing.is_banned(offer.peer)
        ]

    async def find(self, model: str) -> list[BookOffer]:
        """Offers of a model (id or name); what is known, or what can be found within about limits.DISCOVERY_TIMEOUT_S."""
        return await self._discovery.find(model)

    async def look_around(self) -> list[BookOffer]:
        """All offers there are to find: for a node that has just arrived."""
        return await self._discovery.look_around()

    def nearest_first(self, offers: Sequence[BookOffer]) -> list[BookOffer]:
        """Those of connected peers, then the others; each in an order by chance, so that all share the questions."""
        connected = {each.peer for each in self._ports.network.peers()}
        drawn = [offers[i] for i in self._ports.rng.sample(range(len(offers)), len(offers))]
        return sorted(drawn, key=lambda each: each.peer not in connected)

    async def fetch_manifest(self, peer: PeerId, addresses: Sequence[str], model_id: ModelId) -> bytes | None:
        """A model's manifest, from a peer that offers it; None when it has none. The bytes are not verified yet.
        Raises TransportError, RemoteProtocolError."""
        return await self._asker.manifest(peer, addresses, model_id)

    async def heard_of(self, peer: PeerId) -> list[BookEntry]:
        """What `peer`'s book says of this node: none, or our announcement, genuine, with how and how long ago it was heard.
        Raises TransportError, RemoteProtocolError."""
        own = self._ports.network.peer_id
        entries = await self._asker.book(peer, about=own, count=1)
        return [entry for entry in entries if verify_announcement(entry.raw).announcement.peer_id == own]

    def forget(self, peer: PeerId) -> None:
        """A peer that could not be reached where it said; what it says next brings it back."""
        self._book.forget(peer)
