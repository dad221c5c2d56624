"""capacity/1: finding offers that gossip has not brought, and keeping those of models in use fresh.

Three ways at the same time: the books of neighbours (one round trip), providers known from before, and the DHT, which tells
where providers are. What comes is a peer's own signed word, whichever way it came; whoever asks for a job hears the latest.
"""

from __future__ import annotations

import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.asking import CapacityAsker
from cocoon_p2p.drivers.clock import Clock
from cocoon_p2p.errors import RemoteProtocolError, TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId, is_model_id
from cocoon_p2p.net.port import Network, PeerAddresses
from cocoon_p2p.proto.announcements import verify_announcement
from cocoon_p2p.proto.market_book import BookOffer, MarketBook
from cocoon_p2p.wire.capacity import (
    ANY_MODEL_CONTENT_ID,
    BookEntry,
    SignedAnnouncement,
    capacity_key,
    model_content_id,
    name_content_id,
)

log = logging.getLogger(__name__)

AGAIN_MIN_S = 0.25
"""While nothing is found: a lookup among neighbours takes milliseconds; the wait doubles."""
AGAIN_FEWER_S = 1.0
"""More is looked for at once when there are fewer offers than last time, but not more often than this."""


class Changes:
    """Wakes everybody who waits for the book to change."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


@dataclass(frozen=True, slots=True)
class DiscoveryPorts:
    """`take_own_word` and `take_book` bring what peers answered into the book; `offers` reads some of it, without banned
    peers, and `has_any` says whether it has offers of whatever model."""

    network: Network
    clock: Clock
    rng: random.Random
    asker: CapacityAsker
    offers: Callable[[str], list[BookOffer]]
    has_any: Callable[[], bool]
    take_own_word: Callable[[SignedAnnouncement], None]
    take_book: Callable[[PeerId, Sequence[BookEntry]], object]


@dataclass(slots=True)
class _Used:
    """A model that is in use, and how the search for more of it goes."""

    used_at: float
    asked_at: float = float("-inf")
    wait_s: float = limits.DISCOVERY_INTERVAL_S
    found: int = 0
    busy: bool = False


class Discovery:
    """Made by the market's driver, which runs it."""

    def __init__(self, ports: DiscoveryPorts, book: MarketBook, changes: Changes) -> None:
        self._ports = ports
        self._book = book
        self._changes = changes
        self._used: OrderedDict[str, _Used] = OrderedDict()
        self._anything_used = trio.Event()
        self._in_dht: dict[bytes, trio.Event] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Runs until cancelled. Before, `find` does everything itself, and nothing is kept fresh."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._keep_fresh)

    # --- asked for ---

    async def find(self, model: str) -> None:
        """Where no offers of a model (id or name) are known, look for some for about limits.DISCOVERY_TIMEOUT_S. Returns once
        some are found; more may come in the background."""
        used = self._note_used(model)
        known = self._ports.offers(model)
        if not known:
            await self._discover(model)
        elif len(known) < limits.MARKET_FRESH_OFFERS:
            self._look_for_more(model, used, len(known))

    async def look_around(self) -> None:
        """Look for whatever there is to find: for a node that has just arrived."""
        await self._discover(None)

    def _is_known(self, model: str | None) -> bool:
        """Whether there are offers of a model, or of any."""
        return self._ports.has_any() if model is None else bool(self._ports.offers(model))

    async def _discover(self, model: str | None) -> None:
        """Asks again, more and more slowly, while nothing is found: this node, or the provider, may just have arrived."""
        wait_s = AGAIN_MIN_S
        with trio.move_on_after(limits.DISCOVERY_TIMEOUT_S):
            while not self._is_known(model):
                await self._ask_everywhere(model)
                if not self._is_known(model):
                    with trio.move_on_after(wait_s):
                        await self._changes.wait()
                    wait_s *= 2

    async def _ask_everywhere(self, model: str | None) -> None:
        """One round. With a model it is over when some offers of it are there and those who were asked together had a
        moment to answer; the DHT is not waited for then."""
        in_dht = self._begin_dht(model)
        if in_dht is None:
            await self._ask_dht(model)
        await self._ask_known(model)
        while in_dht is not None and not in_dht.is_set() and (model is None or not self._is_known(model)):
            await self._changes.wait()

    # --- whom to ask ---

    async def _ask_known(self, model: str | None) -> None:
        """Neighbours for their books or their own word, and who offered it some time ago."""
        neighbours = self._neighbours()
        books, rest = neighbours[: limits.BOOKS_ASKED_AT_ONCE], neighbours[limits.BOOKS_ASKED_AT_ONCE :]
        past = [PeerAddresses(each.peer_id, each.addresses) for each in self._book.past_providers(model)]
        await self._ask_all([*rest, *self._some(past)], model, books=books)

    def _begin_dht(self, model: str | None) -> trio.Event | None:
        """A search of the DHT in the background, the one that runs already where there is one; None: there is no background
        yet."""
        if self._nursery is None:
            return None
        content_id = _content_id(model)
        done = self._in_dht.get(content_id)
        if done is None:
            done = self._in_dht[content_id] = trio.Event()
            self._nursery.start_soon(self._search_dht, content_id, model, done)
        return done

    async def _search_dht(self, content_id: bytes, model: str | None, done: trio.Event) -> None:
        try:
            await self._ask_dht(model)
        finally:
            del self._in_dht[content_id]
            done.set()
            self._changes.notify()

    async def _ask_dht(self, model: str | None) -> None:
        try:
            providers = await self._ports.network.find_providers(_content_id(model), limits.DHT_PROVIDERS_MAX)
        except TransportError as error:
            log.info("the DHT could not be asked: %s", one_line(error))
            return
        if model is None:
            await self._ask_all(providers, model)
        else:
            await self._ask_all(self._some(providers), model)

    def _some(self, peers: Sequence[PeerAddresses]) -> list[PeerAddresses]:
        """A few drawn at random, so that those who look for the same share the providers evenly."""
        count = min(limits.PROVIDERS_ASKED_AT_ONCE, len(peers))
        return [peers[i] for i in self._ports.rng.sample(range(len(peers)), count)]

    def _neighbours(self) -> list[PeerAddresses]:
        """Some of those we are connected to: in a network of two or three nodes they are the providers."""
        peers = self._ports.network.peers()
        count = min(limits.NEIGHBOURS_ASKED_MAX, len(peers))
        return [PeerAddresses(peers[i].peer, ()) for i in self._ports.rng.sample(range(len(peers)), count)]

    # --- asking ---

    async def _ask_all(
        self, peers: Sequence[PeerAddresses], model: str | None, *, books: Sequence[PeerAddresses] = ()
    ) -> None:
        """Each at the same time; once one offer is there, the others get a moment more."""
        unique = {peer.peer: peer for peer in reversed(peers)}
        waiting = len(unique) + len(books)
        async with trio.open_nursery() as nursery:

            def answered() -> None:
                nonlocal waiting
                waiting -= 1
                if model is not None and waiting and self._is_known(model):
                    nursery.cancel_scope.deadline = min(
                        nursery.cancel_scope.deadline, trio.current_time() + limits.DISCOVERY_GRACE_S
                    )

            for peer in unique.values():
                nursery.start_soon(self._learn, peer, answered)
            for peer in books:
                nursery.start_soon(self._read_book, peer.peer, model, answered)

    async def _learn(self, peer: PeerAddresses, answered: Callable[[], None] = lambda: None) -> None:
        """A peer's current announcement, from itself. Where it cannot be reached, the DHT may know newer addresses; what the
        DHT says is not taken for an offer, since whoever cannot be asked cannot do a job either."""
        try:
            if not await self._learn_at(peer.peer, peer.addresses):
                addresses = await self._addresses_in_dht(peer.peer)
                if addresses:
                    await self._learn_at(peer.peer, addresses)
        except TransportError as error:
            log.info("the DHT could not be asked where peer %s is: %s", peer.peer, one_line(error))
        except RemoteProtocolError as error:
            log.info("peer %s answered badly: %s", peer.peer, one_line(error))
        answered()

    async def _learn_at(self, peer: PeerId, addresses: Sequence[str]) -> bool:
        """Whether it answered there. Raises RemoteProtocolError."""
        try:
            signed = await self._ports.asker.own_word(peer, addresses)
        except TransportError as error:
            log.info("peer %s could not be asked for its offers: %s", peer, one_line(error))
            return False
        if signed is not None:
            self._ports.take_own_word(signed)
        return True

    async def _read_book(self, peer: PeerId, model: str | None, answered: Callable[[], None] = lambda: None) -> None:
        """What a neighbour knows of others; where it is a provider itself, that stands in it, too."""
        try:
            entries = await self._ports.asker.book(peer, model_id=self._model_id(model), count=limits.BOOK_ANSWER_MAX)
        except (TransportError, RemoteProtocolError) as error:
            log.info("peer %s did not show its book: %s", peer, one_line(error))
        else:
            self._ports.take_book(peer, entries)
        answered()

    def _model_id(self, model: str | None) -> ModelId | None:
        """What to ask books for, which know models by their ids: the only one that went by this name as far as we know."""
        if model is None or is_model_id(model):
            return None if model is None else ModelId(model)
        ids = {
            offer.model_id for each in self._book.past_providers(model) for offer in each.offers if offer.name == model
        } | {offer.offer.model_id for offer in self._ports.offers(model)}
        return ids.pop() if len(ids) == 1 else None

    async def _addresses_in_dht(self, peer: PeerId) -> tuple[str, ...]:
        """What a peer's own record of the last hour says; () when there is none. Raises TransportError,
        RemoteProtocolError."""
        # SPEC capacity/1 §5.2
        record = await self._ports.network.dht_get(capacity_key(peer))
        if record is None:
            return ()
        announcement = verify_announcement(record).announcement
        age_s = self._ports.clock.unix() - announcement.issued_at_ms / 1000
        in_time = -limits.ANNOUNCEMENT_CLOCK_SKEW_S <= age_s <= limits.RECORD_ADDRESSES_S
        return announcement.addresses if in_time else ()

    # --- models in use ---

    def _note_used(self, model: str) -> _Used:
        now = self._ports.clock.now()
        used = self._used.setdefault(model, _Used(now))
        used.used_at = now
        self._used.move_to_end(model)
        if len(self._used) > limits.MARKET_USED_MODELS_MAX:
            self._used.popitem(last=False)
        self._anything_used.set()
        return used

    async def _keep_fresh(self) -> None:
        while True:
            if not self._used:
                self._anything_used = trio.Event()
                await self._anything_used.wait()
            await trio.sleep(limits.MARKET_FRESH_TICK_S)
            now = self._ports.clock.now()
            for model, used in list(self._used.items()):
                if now - used.used_at > limits.MARKET_USED_S:
                    del self._used[model]
                else:
                    self._freshen(model, used)

    def _freshen(self, model: str, used: _Used) -> None:
        """Ask those whose word grows old, and look for more where there are few."""
        now_ms = self._ports.clock.unix() * 1000
        known = self._ports.offers(model)
        old = [each for each in known if now_ms - each.issued_at_ms > limits.MARKET_FRESH_AGE_S * 1000]
        missing = limits.MARKET_FRESH_OFFERS - (len(known) - len(old))
        if missing > 0 and old and self._nursery is not None:
            for peer in self._some([PeerAddresses(each.peer, each.addresses) for each in old])[:missing]:
                self._nursery.start_soon(self._learn, peer)
        if len(known) < limits.MARKET_FRESH_OFFERS:
            self._look_for_more(model, used, len(known))

    def _look_for_more(self, model: str, used: _Used, count: int) -> None:
        """In the background: there may be more than we were told. More and more rarely while that finds nobody new."""
        now = self._ports.clock.now()
        if count < used.found:
            used.wait_s = AGAIN_FEWER_S
        if used.busy or self._nursery is None or now - used.asked_at < used.wait_s:
            return
        used.asked_at, used.busy = now, True
        self._nursery.start_soon(self._more, model, used, count)

    async def _more(self, model: str, used: _Used, before: int) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ask_known, model)
                nursery.start_soon(self._ask_dht, model)
        finally:
            used.busy = False
        used.found = len(self._ports.offers(model))
        grown = max(limits.DISCOVERY_INTERVAL_S, 2 * used.wait_s)
        used.wait_s = (
            limits.DISCOVERY_INTERVAL_S if used.found > before else min(grown, limits.MARKET_FRESH_BACKOFF_MAX_S)
        )


def _content_id(model: str | None) -> bytes:
    if model is None:
        return ANY_MODEL_CONTENT_ID
    return model_content_id(ModelId(model)) if is_model_id(model) else name_content_id(model)
