"""Who has a model: those who offer it, those who say in the DHT that they have it, and the local network. And saying so."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress

import trio

from cocoon_p2p import limits
from cocoon_p2p.drivers.blob_serve import is_local
from cocoon_p2p.drivers.market import MarketDriver
from cocoon_p2p.errors import TransportError, one_line
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.net.port import Network, PeerAddresses
from cocoon_p2p.wire.blob import blob_content_id
from cocoon_p2p.wire.capacity import model_content_id

log = logging.getLogger(__name__)


class HolderFinder:
    """`refused`: peers that this node has banned."""

    def __init__(self, network: Network, market: MarketDriver, rng: random.Random) -> None:
        self._network = network
        self._market = market
        self._rng = rng

    def local(self) -> list[PeerId]:
        """Connected peers on the local network, at most BLOB_LOCAL_SOURCES_MAX, drawn at random where there are more."""
        near = sorted({each.peer for each in self._network.peers() if is_local(self._network, each.peer)})
        return self._rng.sample(near, min(len(near), limits.BLOB_LOCAL_SOURCES_MAX))

    def offering(self, model_id: ModelId) -> list[PeerAddresses]:
        """Those in the book of the market."""
        offers = self._market.nearest_first(self._market.offers(model_id))
        return [PeerAddresses(each.peer, each.addresses) for each in offers]

    async def search(self, model_id: ModelId, known: Callable[[], Collection[PeerId]]) -> list[PeerAddresses]:
        """Ask the market and the DHT, too; without those that are `known` already."""
        found: dict[PeerId, PeerAddresses] = {}

        async def look(content_id: bytes) -> None:
            try:
                for each in await self._network.find_providers(content_id, limits.DHT_PROVIDERS_MAX):
                    found.setdefault(each.peer, each)
            except TransportError as error:
                log.info("the DHT could not be asked for a model: %s", one_line(error))

        async with trio.open_nursery() as nursery:
            # SPEC blob/1 §5
            nursery.start_soon(look, blob_content_id(model_id))
            nursery.start_soon(look, model_content_id(model_id))
        for each in self.offering(model_id):
            found[each.peer] = each  # its own, signed, word of where it is
        return [each for each in found.values() if each.peer not in known()]


class BlobAnnouncing:
    """`run` it in a task. `kept` names the models that are here to be shared; those `offered` are found by that."""

    def __init__(
        self,
        network: Network,
        *,
        kept: Callable[[], Awaitable[Collection[ModelId]]],
        offered: Callable[[], Collection[ModelId]],
    ) -> None:
        self._network = network
        self._kept = kept
        self._offered = offered
        self._woken = trio.Event()

    def announce(self) -> None:
        """There is another model, now."""
        self._woken.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            self._woken = trio.Event()
            if self._network.addresses():  # others could not come
                await self._announce_all()
            with trio.move_on_after(limits.BLOB_ANNOUNCE_INTERVAL_S):
                await self._woken.wait()

    async def _announce_all(self) -> None:
        offered = set(self._offered())
        wanted = [model_id for model_id in await self._kept() if model_id not in offered]
        for model_id in wanted[: limits.BLOB_ANNOUNCED_MAX]:
            with suppress(TransportError):  # nobody is there to keep it
                # SPEC blob/1 §5
                await self._network.provide(blob_content_id(model_id))
