"""capacity/1: the book of offers, kept up to date by gossip, by asking (discovery.py) and from the last run, and what peers
are answered on the capacity stream. Our own announcements: announcing.py.

Gossip is a sample, the DHT record tells where a peer is, and a peer's own word on the capacity stream is the truth.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.announcing import SEQUENCE_NAME, Announced, Announcing, OfferSource
from cocoon_p2p.drivers.asking import CapacityAsker
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.discovery import Changes, Discovery, DiscoveryPorts
from cocoon_p2p.drivers.gossip_check import GossipCheck, GossipPorts
from cocoon_p2p.drivers.hearsay import heard_addresses
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.net.port import Network, Stream
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.policy.clock_comparison import ClockComparison
from cocoon_p2p.policy.reputation import Fault, fault_of_code
from cocoon_p2p.policy.subnets import subnet_of
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
_MANIFEST_QUESTIONS = Rate(limits.MANIFEST_QUESTIONS_PER_PEER_S, limits.MANIFEST_QUESTIONS_PER_PEER_BURST)
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
        self._gossip = GossipCheck(
            GossipPorts(ports.clock, ports.rng, ports.standing, self._asker, self._compare_clocks, self._take_own_word),
            book,
            announcer.pace,
        )
        self._book_askers: Buckets[PeerId] = Buckets(_BOOK_QUESTIONS)
        self._manifest_askers: Buckets[PeerId] = Buckets(_MANIFEST_QUESTIONS)
        self.changes = Changes()
        """Notified when somebody's offers are new, other or gone."""
        self._discovery = Discovery(
            DiscoveryPorts(
                ports.network,
                ports.clock,
                ports.rng,
                self._asker,
                self.some_offers,
                self._has_any,
                self._take_own_word,
                self._take_book,
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
            genuine = self._take_book(peer, entries[: limits.BOOK_ANSWER_MAX])
            authors = {author for author, e in genuine if e.heard_by is HeardBy.GOSSIP and e.heard_ago_ms < _WINDOW_MS}
            self._announcer.pace.begin(self._ports.clock.unix(), len(authors))

    # --- tasks ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; started once gossip is subscribed to and the capacity stream is served."""
        network = self._ports.network
        network.set_handler(CAPACITY_PROTOCOL, self._serve_capacity)
        async with (
            network.subscribe(CAPACITY_TOPIC, self._gossip.validate) as gossip,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._expiry.run)
            nursery.start_soon(self._announcing.run)
            nursery.start_soon(self._discovery.run)
            nursery.start_soon(self._gossip.run)
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
            log.info("an announcement was not taken: %s", one_line(error))

    def _take_own_word(self, signed: SignedAnnouncement) -> None:
        self._compare_clocks(signed.announcement)
        self._take(signed.encode(), HeardBy.ASKED)

    def _take_book(self, teller: PeerId, entries: Sequence[BookEntry]) -> list[tuple[PeerId, BookEntry]]:
        """What a neighbour's book says is checked like everything else, and it should have checked it before us. Clocks
        differ, and an announcement may expire on its way. Those that are genuine and current, with their authors."""
        genuine = []
        for entry in entries:
            try:
                signed = verify_announcement(entry.raw)
                author = signed.announcement.peer_id
                self._apply(self._handle(signed, HeardBy.ASKED if author == teller else HeardBy.BOOK), author)
                genuine.append((author, entry))
            except RemoteProtocolError as error:
                log.info("peer %s has a bad announcement in its book: %s", teller, one_line(error))
                if error.code != "EXPIRED":
                    self._ports.standing.penalise(teller, Fault.FORGED_ANNOUNCEMENT)
                    break
        return genuine

    def _handle(self, signed: SignedAnnouncement, heard_by: HeardBy) -> list[BookEffect]:
        reached_in = self._subnet_reached(signed.announcement.peer_id) if heard_by is HeardBy.ASKED else None
        now = self._ports.clock.unix()
        return self._book.handle_verified(signed, now=now, heard_by=heard_by, reached_in=reached_in)

    def _subnet_reached(self, peer: PeerId) -> str:
        """Where a peer is that we are connected to, without a relay; "" where that is not known."""
        for link in self._ports.network.peers():
            if link.peer == peer and not link.relayed and link.address:
                return subnet_of((link.address,))
        return ""

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
                self._require_seldom(stream.peer, message)
                await stream.send(self._answer(message))
        except EndOfStream:
            await stream.aclose()
        except TransportError:
            await stream.reset()
        except RemoteProtocolError as error:
            fault = Fault.FLOOD if error.code == "FLOOD" else fault_of_code(error.code)
            self._ports.standing.penalise(stream.peer, fault)
            await stream.reset()

    def _require_seldom(self, peer: PeerId, message: CapacityMessage) -> None:
        """Raises RemoteProtocolError (FLOOD) when this peer asks too often for what is large."""
        now = self._ports.clock.now()
        if isinstance(message, GetBook) and not self._book_askers.take(peer, now):
            raise RemoteProtocolError("asks for our book too often", code="FLOOD")
        if isinstance(message, GetManifest) and not self._manifest_askers.take(peer, now):
            raise RemoteProtocolError("asks for manifests too often", code="FLOOD")

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
            question.model_id,
            question.peer_id,
            question.count - len(own),
            now=now,
            rng=self._ports.rng,
            fits=self._is_welcome,
        )
        return [*own, *found]

    def _own_entry(self, question: GetBook) -> list[BookEntry]:
        if question.peer_id not in (None, self._ports.network.peer_id):
            return []
        current = self._announcing.current()
        if current is None:
            return []
        models = {offer.model_id for offer in current.announcement.offers}
        fits = question.model_id in models if question.model_id is not None else bool(models)
        return [BookEntry(current.encode(), HeardBy.ASKED, 0)] if fits else []

    def _is_welcome(self, peer: PeerId) -> bool:
        return not self._ports.standing.is_banned(peer)

    # --- finding offers ---

    def offers(self, model: str | None = None) -> list[BookOffer]:
        """All that the book has now: to look at a market."""
        found = self._book.offers(model, now=self._ports.clock.unix())
        banned = self._ports.standing.banned()
        return [offer for offer in found if offer.peer not in banned] if banned else found

    def _has_any(self) -> bool:
        return self._book.has_offers(now=self._ports.clock.unix(), fits=lambda offer: self._is_welcome(offer.peer))

    def some_offers(self, model: str, wanted: Collection[PeerId] = ()) -> list[BookOffer]:
        """Of a model (id or name), as many as are kept fresh by asking: all, or of a large market a random part and those of
        `wanted` peers."""
        return self._book.some_offers(
            model,
            limits.OFFERS_DRAWN_MAX,
            now=self._ports.clock.unix(),
            rng=self._ports.rng,
            fits=lambda offer: self._is_welcome(offer.peer),
            wanted=wanted,
        )

    def model_names(self) -> set[str]:
        """Names on offer, for "did you mean"."""
        return self._book.model_names()

    async def find(self, model: str) -> list[BookOffer]:
        """All offers of a model (id or name); what is known, or what can be found within about limits.DISCOVERY_TIMEOUT_S."""
        await self._discovery.find(model)
        return self.offers(model)

    def worked(self, peer: PeerId) -> None:
        """It did a job of ours, so it is where it was reached."""
        self._book.confirm(peer, self._subnet_reached(peer))

    async def look_around(self) -> list[BookOffer]:
        """All offers there are to find: for a node that has just arrived."""
        await self._discovery.look_around()
        return self.offers()

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
