"""capacity/1: keeps the book of offers from gossip, the DHT and peers asked directly, and publishes our own.

Gossip is the quick hint, the DHT record the truth for those who missed it, and the capacity stream the freshest word.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.alarm import Alarm
from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.hearsay import heard_addresses, open_announced
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError
from cocoon_p2p.ids import ModelId, PeerId, is_model_id
from cocoon_p2p.net.port import AddressesChanged, Network, PeerAddresses, Stream
from cocoon_p2p.policy.clock_comparison import ClockComparison
from cocoon_p2p.policy.reputation import Fault, fault_of_code
from cocoon_p2p.proto.job_effects import Penalise
from cocoon_p2p.proto.market import (
    Announcer,
    BookEffect,
    BookOffer,
    MarketBook,
    OffersChanged,
    PublishAnnouncement,
    RememberAddresses,
    verify_announcement,
)
from cocoon_p2p.store import Store
from cocoon_p2p.wire.capacity import (
    ANY_MODEL_CONTENT_ID,
    CAPACITY_PROTOCOL,
    CAPACITY_TOPIC,
    Announcement,
    CapacityMessage,
    GetCapacity,
    GetManifest,
    Manifest,
    NoCapacity,
    NoManifest,
    Offer,
    SignedAnnouncement,
    capacity_key,
    decode_message,
    model_content_id,
    name_content_id,
)

log = logging.getLogger(__name__)

SEQUENCE_NAME = "announcement-sequence"
STORE_AGAIN_MIN_S = 0.25
"""A DHT lookup among neighbours takes milliseconds; the wait doubles."""
PROVIDE_AGAIN_S = 600.0
"""Provider records of others' libraries live for hours; ten minutes bring a record to peers that joined since."""

OfferSource = Callable[[], tuple[Sequence[Offer], Sequence[str]]]
"""(what this node offers now, where it can be reached)."""
ManifestSource = Callable[[ModelId], bytes | None]


@dataclass(frozen=True, slots=True)
class MarketPorts:
    network: Network
    store: Store
    standing: StandingKeeper
    clock: Clock


class MarketDriver:
    """The book, kept up to date, and our own announcements. `run` it in a task."""

    def __init__(
        self,
        ports: MarketPorts,
        book: MarketBook,
        announcer: Announcer,
        *,
        offers: OfferSource,
        manifests: ManifestSource,
    ) -> None:
        self._ports = ports
        self._book = book
        self._announcer = announcer
        self._offer_source = offers
        self._manifest_source = manifests
        self._changed = trio.Event()
        self._unstored: PublishAnnouncement | None = None
        self._unstored_changed = trio.Event()
        self._provided: dict[bytes, float] = {}
        self._asked: OrderedDict[bytes, float] = OrderedDict()
        self._nursery: trio.Nursery | None = None
        self.clocks = ClockComparison()
        """How others' clocks compare with ours."""
        clock = ports.clock
        self._expiry = Alarm(book.next_deadline, self._on_expiry, clock.unix)
        self._announcing = Alarm(announcer.next_deadline, self._on_announce, clock.unix)

    # --- our own announcements ---

    def refresh(self) -> None:
        """What this node offers may have changed."""
        offers, addresses = self._offer_source()
        self._announcer.set_offers(offers, addresses, self._ports.clock.unix())
        self._announcing.poke()

    async def goodbye(self) -> None:
        """Tell others that this node offers nothing any more."""
        for publication in self._announcer.goodbye(self._ports.clock.unix()):
            await self._publish(publication)

    async def _on_announce(self) -> None:
        self.refresh()
        for publication in self._announcer.handle_timer(self._ports.clock.unix()):
            await self._publish(publication)

    async def _publish(self, publication: PublishAnnouncement) -> None:
        announcement = publication.signed.announcement
        self._ports.store.values.set(SEQUENCE_NAME, announcement.sequence)
        network = self._ports.network
        with suppress(TransportError):  # gossip promises nothing; the DHT record follows
            await network.publish(CAPACITY_TOPIC, publication.raw)
        self._unstored = publication
        self._unstored_changed.set()

    async def _store_in_dht(self) -> None:
        """Put the newest announcement into the DHT, again and again until somebody took it. Right after joining nobody is
        known yet who could."""
        wait_s = STORE_AGAIN_MIN_S
        while True:
            publication = self._unstored
            if publication is None:
                self._unstored_changed = trio.Event()
                await self._unstored_changed.wait()
                wait_s = STORE_AGAIN_MIN_S
                continue
            announcement = publication.signed.announcement
            try:
                await self._ports.network.dht_put(capacity_key(announcement.peer_id), publication.raw)
                await self._provide(announcement.offers)
            except TransportError as error:
                log.info("the announcement is not in the DHT yet: %s", error)
                await trio.sleep(wait_s)
                wait_s = min(2 * wait_s, limits.ANNOUNCEMENT_INTERVAL_S)
            else:
                if self._unstored is publication:
                    self._unstored = None

    async def _provide(self, offers: Sequence[Offer]) -> None:
        content_ids = {ANY_MODEL_CONTENT_ID} if offers else set()
        for offer in offers:
            content_ids |= {model_content_id(offer.model_id), name_content_id(offer.name)}
        for content_id in content_ids:
            now = self._ports.clock.now()
            if now - self._provided.get(content_id, -PROVIDE_AGAIN_S) >= PROVIDE_AGAIN_S:
                await self._ports.network.provide(content_id)
                self._provided[content_id] = now

    # --- tasks ---

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled; started once gossip is subscribed to and the capacity stream is served."""
        network = self._ports.network
        network.set_handler(CAPACITY_PROTOCOL, self._serve_capacity)
        async with (
            network.subscribe(CAPACITY_TOPIC, self._validate) as gossip,
            trio.open_nursery() as nursery,
        ):
            self._nursery = nursery
            nursery.start_soon(self._expiry.run)
            nursery.start_soon(self._announcing.run)
            nursery.start_soon(self._store_in_dht)
            nursery.start_soon(self._watch_addresses)
            task_status.started()
            async for _, data in gossip:
                with suppress(RemoteProtocolError):  # it expired on its way
                    self._apply(self._book.handle_announcement(data, now=self._ports.clock.unix()))

    async def _watch_addresses(self) -> None:
        """Who offers something says at once where it can be reached now, and not with the next regular announcement."""
        async with self._ports.network.events() as events:
            async for event in events:
                if isinstance(event, AddressesChanged):
                    self.refresh()

    async def _on_expiry(self) -> None:
        self._apply(self._book.handle_timer(now=self._ports.clock.unix()))

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
        return announcement.peer_id == author

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

    def _apply(self, effects: Sequence[BookEffect]) -> None:
        for effect in effects:
            match effect:
                case Penalise(fault):
                    log.info("an announcement contradicts an earlier one (%s)", fault.value)
                case OffersChanged():
                    self._changed.set()
                    self._changed = trio.Event()
                case RememberAddresses(peer, addresses):
                    heard = heard_addresses(self._ports.network, addresses)
                    self._ports.store.peers.seen(peer, heard, at_ms=unix_ms(self._ports.clock))
        self._expiry.poke()

    # --- the capacity stream ---

    async def _serve_capacity(self, stream: Stream) -> None:
        try:
            while True:
                message = decode_message(await stream.receive())
                await stream.send(self._answer(message))
        except EndOfStream:
            await stream.aclose()
        except TransportError:
            await stream.reset()
        except RemoteProtocolError as error:
            self._ports.standing.penalise(stream.peer, fault_of_code(error.code))
            await stream.reset()

    def _answer(self, message: CapacityMessage) -> bytes:
        match message:
            case GetCapacity():
                current = self._announcer.current
                return NoCapacity().encode() if current is None else current.encode()
            case GetManifest(model_id):
                manifest = self._manifest_source(model_id)
                return NoManifest().encode() if manifest is None else Manifest(manifest).encode()
        raise RemoteProtocolError(f"{type(message).__name__} is an answer, not a question", code="UNEXPECTED")

    async def fetch_manifest(self, peer: PeerId, addresses: Sequence[str], model_id: ModelId) -> bytes | None:
        """A model's manifest, from a peer that offers it; None when it has none. The bytes are not verified yet.
        Raises TransportError, RemoteProtocolError."""
        answer = await self._ask(peer, addresses, GetManifest(model_id).encode())
        return answer.data if isinstance(answer, Manifest) else None

    async def _ask(self, peer: PeerId, addresses: Sequence[str], question: bytes) -> CapacityMessage:
        stream = await open_announced(self._ports.network, peer, addresses, CAPACITY_PROTOCOL)
        try:
            with trio.fail_after(limits.DIAL_TIMEOUT_S):
                await stream.send(question)
                answer = decode_message(await stream.receive())
                await stream.aclose()
        except trio.TooSlowError:
            await stream.reset()
            text = f"peer {peer} does not answer on {CAPACITY_PROTOCOL}"
            raise TransportError(text, outcome_known=True) from None
        except RemoteProtocolError as error:
            self._ports.standing.penalise(peer, fault_of_code(error.code))
            await stream.reset()
            raise
        return answer

    # --- finding offers ---

    def offers(self, model: str | None = None) -> list[BookOffer]:
        """What the book has now."""
        return [
            offer
            for offer in self._book.offers(model, now=self._ports.clock.unix())
            if not self._ports.standing.is_banned(offer.peer)
        ]

    async def find(self, model: str) -> list[BookOffer]:
        """Offers of a model (id or name): from the book, and, when it has none, by asking the DHT for providers and each
        of them for its announcement. At most about limits.DISCOVERY_TIMEOUT_S."""
        known = self.offers(model)
        content_id = model_content_id(ModelId(model)) if is_model_id(model) else name_content_id(model)
        if not known:
            await self._discover(content_id, model)
        elif len(known) < limits.ASKED_AT_ONCE_MAX and self._nursery is not None and self._is_due(content_id):
            self._nursery.start_soon(self._ask_dht, content_id, model)  # there may be more than gossip told us
        return self.offers(model)

    def _is_due(self, content_id: bytes) -> bool:
        """Whether the DHT was not asked for this lately; notes that it is now."""
        now = self._ports.clock.now()
        due = now - self._asked.get(content_id, -limits.DISCOVERY_INTERVAL_S) >= limits.DISCOVERY_INTERVAL_S
        if due:
            self._asked[content_id] = now
            self._asked.move_to_end(content_id)
            if len(self._asked) > limits.MANIFESTS_CACHED_MAX:
                self._asked.popitem(last=False)
        return due

    async def look_around(self) -> list[BookOffer]:
        """All offers there are to find: for a node that has just arrived."""
        await self._discover(ANY_MODEL_CONTENT_ID, None)
        return self.offers()

    async def _discover(self, content_id: bytes, model: str | None) -> None:
        """Asks again, more and more slowly, while nothing is found: this node, or the provider, may just have arrived."""
        wait_s = STORE_AGAIN_MIN_S
        with trio.move_on_after(limits.DISCOVERY_TIMEOUT_S):
            while not self.offers(model):
                await self._ask_dht(content_id, model)
                if not self.offers(model):
                    changed = self._changed
                    with trio.move_on_after(wait_s):
                        await changed.wait()
                    wait_s *= 2

    async def _ask_dht(self, content_id: bytes, model: str | None) -> None:
        providers = await self._ports.network.find_providers(content_id, limits.DHT_PROVIDERS_MAX)
        await self._ask_all([*providers, *self._neighbours()], model)

    def _neighbours(self) -> list[PeerAddresses]:
        """Some of those we are connected to: in a network of two or three nodes they are the providers."""
        return [PeerAddresses(each.peer, ()) for each in self._ports.network.peers()[: limits.NEIGHBOURS_ASKED_MAX]]

    async def _ask_all(self, peers: Sequence[PeerAddresses], model: str | None) -> None:
        """Each at the same time; once one offer is there, the others get a moment more."""
        async with trio.open_nursery() as nursery:
            unique = {p.peer: p for p in reversed(peers)}
            waiting = set(unique)

            async def one(peer: PeerAddresses) -> None:
                await self._learn(peer)
                waiting.discard(peer.peer)
                if model is not None and waiting and self.offers(model):
                    nursery.cancel_scope.deadline = min(
                        nursery.cancel_scope.deadline, trio.current_time() + limits.DISCOVERY_GRACE_S
                    )

            for peer in unique.values():
                nursery.start_soon(one, peer)

    async def _learn(self, peer: PeerAddresses) -> None:
        """A peer's current announcement, from itself. Where it cannot be reached, the DHT may know newer addresses; what the
        DHT says is not taken for an offer, since whoever cannot be asked cannot do a job either."""
        for addresses in (peer.addresses, None):
            try:
                if addresses is None:
                    addresses = await self._addresses_in_dht(peer.peer)  # noqa: PLW2901
                    if not addresses:
                        return
                answer = await self._ask(peer.peer, addresses, GetCapacity().encode())
            except TransportError as error:
                log.info("peer %s could not be asked for its offers: %s", peer.peer, error)
            except RemoteProtocolError as error:
                log.info("peer %s answered badly: %s", peer.peer, error)
                return
            else:
                if isinstance(answer, SignedAnnouncement) and answer.announcement.peer_id == peer.peer:
                    self._compare_clocks(answer.announcement)
                    self._take(answer.encode())
                return

    async def _addresses_in_dht(self, peer: PeerId) -> tuple[str, ...]:
        """What a peer's own record says; () when there is none."""
        record = await self._ports.network.dht_get(capacity_key(peer))
        return () if record is None else verify_announcement(record).announcement.addresses

    def forget(self, peer: PeerId) -> None:
        """A peer that could not be reached where it said; what it says next brings it back."""
        self._book.forget(peer)

    def _take(self, raw: bytes) -> None:
        try:
            self._apply(self._book.handle_announcement(raw, now=self._ports.clock.unix()))
        except RemoteProtocolError as error:
            log.info("an announcement was not taken: %s", error)
