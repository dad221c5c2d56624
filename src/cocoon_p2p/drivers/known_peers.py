"""Peers that were reached: kept on the disk now and then and at the end, and dialled beside the bootstrap list at the next
start, so that a node finds its network again when every bootstrap node is gone."""

from __future__ import annotations

import logging
import random
from collections import OrderedDict

import trio

from cocoon_p2p.drivers.clock import Clock, unix_ms
from cocoon_p2p.drivers.standing import StandingKeeper
from cocoon_p2p.errors import StoreError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import KNOWN_PEER_AGE_MAX_S, KNOWN_PEERS_DIALLED, KNOWN_PEERS_KEPT_MAX
from cocoon_p2p.net.port import Network, PeerAddresses, PeerConnected, dialable_at
from cocoon_p2p.store import KnownPeer, Store

log = logging.getLogger(__name__)

SAVE_FIRST_S = 15.0
"""A node that just entered has met its first peers by then."""
SAVE_INTERVAL_S = 300.0


class KnownPeersKeeper:
    """`network_name` is the fingerprint of the private network, "" for the public one: what was learnt in one is never
    told in the other."""

    def __init__(
        self,
        network: Network,
        store: Store,
        standing: StandingKeeper,
        clock: Clock,
        rng: random.Random,
        *,
        network_name: str,
    ) -> None:
        self._network = network
        self._store = store
        self._standing = standing
        self._clock = clock
        self._rng = rng
        self._network_name = network_name
        self._met: OrderedDict[PeerId, None] = OrderedDict()

    def met(self) -> tuple[PeerId, ...]:
        """Ids of those that were connected since the start, and of those noted before."""
        noted = [each.peer for each in self._store.known_peers.of_network(self._network_name)]
        return tuple(dict.fromkeys((*reversed(self._met), *noted)))

    def some(
        self, *, without: frozenset[PeerId] = frozenset(), count: int = KNOWN_PEERS_DIALLED
    ) -> list[PeerAddresses]:
        """A few at random of those reached lately that are not banned, nor in `without`, nor connected now."""
        since_ms = unix_ms(self._clock) - round(KNOWN_PEER_AGE_MAX_S * 1000)
        left_out = without | {self._network.peer_id} | {each.peer for each in self._network.peers()}
        known = [
            PeerAddresses(each.peer, each.addresses)
            for each in self._store.known_peers.of_network(self._network_name, since_ms=max(since_ms, 0))
            if each.peer not in left_out and not self._standing.is_banned(each.peer)
        ]
        return self._rng.sample(known, min(count, len(known)))

    async def run(self) -> None:
        """Hear who comes, and save now and then."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._hear)
            await self._save_now_and_then()

    async def _hear(self) -> None:
        async with self._network.events() as events:
            for each in self._network.peers():
                self._met[each.peer] = None
            async for event in events:
                if isinstance(event, PeerConnected):
                    self._met[event.peer] = None
                    self._met.move_to_end(event.peer)
                    if len(self._met) > KNOWN_PEERS_KEPT_MAX:
                        self._met.popitem(last=False)

    async def _save_now_and_then(self) -> None:
        await trio.sleep(SAVE_FIRST_S)
        while True:
            self.save()
            await trio.sleep(SAVE_INTERVAL_S)

    def save(self) -> None:
        """Note whom we are connected to directly. A disk that is full costs this list, and nothing else."""
        now_ms = unix_ms(self._clock)
        connected = [(each.peer, dialable_at(each)) for each in self._network.peers() if not each.relayed]
        known = [KnownPeer(peer, addresses, now_ms) for peer, addresses in connected if addresses]
        try:
            if known:
                self._store.known_peers.save(self._network_name, known)
        except StoreError as error:
            log.warning("cannot note the peers that were reached: %s", error)

    def remember(self, peer: PeerId, addresses: tuple[str, ...]) -> None:
        """Where an invite's peer was reached. Raises StoreError."""
        known = KnownPeer(peer, addresses, unix_ms(self._clock))
        self._store.known_peers.save(self._network_name, [known])
