"""What this node put into the DHT: brought to the nearest peers, to those that join them, and again before it expires."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import trio

from cocoon_p2p.errors import CocoonError, LocalProtocolError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_LOOKUP_TIMEOUT_S,
    DHT_PROVIDER_REPUBLISH_S,
    DHT_PUBLISHED_MAX,
    DHT_RECORD_REPUBLISH_S,
    DHT_RETRY_FIRST_S,
    DHT_RETRY_MAX_S,
    DHT_STORES_AT_ONCE,
)
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.dht.kademlia import position_of
from cocoon_p2p.net.dht.lookup import Hearsay, Lookup
from cocoon_p2p.net.dht.messages import provider_key
from cocoon_p2p.net.dht.rpc import Rpc
from cocoon_p2p.net.dht.server import DhtServer
from cocoon_p2p.net.dht.table import RoutingTable
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.supervisor import deadline
from cocoon_p2p.net.switch.switch import Switch

_HOMES_TRUSTED_S = 300.0
"""How long the peers nearest to a key are taken to be those that the last lookup found, unless nearer ones joined."""
_JITTER = 0.2
"""So much sooner than it has to, by chance: a thousand nodes that started together do not republish together."""

Exchange = Callable[[PeerId, Sequence[Address]], Awaitable[bool]]
"""Bring an item to one peer, which may be at these addresses; whether it took it. Raises CocoonError."""
FindHomes = Callable[[bytes], Awaitable[Lookup]]
"""A lookup of the peers nearest to a raw key."""


@dataclass(slots=True, eq=False)
class _Item:
    raw_key: bytes
    position: int
    exchange: Exchange
    interval_s: float
    due_at: float = float("inf")
    retry_s: float = DHT_RETRY_FIRST_S
    homes: dict[PeerId, None] = field(default_factory=dict)
    """Who has it, as far as we know."""
    considered: set[PeerId] = field(default_factory=set)
    """Candidates of the lookup that found them."""
    found_at: float = float("-inf")


class Publisher:
    def __init__(self, switch: Switch, rpc: Rpc, table: RoutingTable, server: DhtServer, find: FindHomes) -> None:
        self._own = switch.peer_id
        self._rpc = rpc
        self._table = table
        self._server = server
        self._find = find
        self._counters = switch.counters
        self._items: dict[bytes, _Item] = {}
        """By key of the item: the record's, or the multihash of the content."""

    @property
    def due_at(self) -> float:
        """When something has to be published again."""
        return min((item.due_at for item in self._items.values()), default=float("inf"))

    def homes(self) -> set[PeerId]:
        """Peers that hold something of ours."""
        return {peer for item in self._items.values() for peer in item.homes}

    async def put(self, key: str, value: bytes) -> int:
        """How many took it. It is offered again until somebody did, and before it expires. Raises LocalProtocolError when
        this node publishes too many keys."""
        raw_key = key.encode("ascii")
        message = Message(type=Message.PUT_VALUE, key=raw_key)
        message.record.key, message.record.value = raw_key, value

        async def exchange(peer: PeerId, addresses: Sequence[Address]) -> bool:
            answer = await self._rpc.ask(peer, message, addresses=addresses)
            return answer.record.value == value

        return await self._publish(self._item(raw_key, exchange, DHT_RECORD_REPUBLISH_S))

    async def provide(self, content_id: bytes) -> int:
        key = provider_key(content_id)
        question = Message(type=Message.GET_PROVIDERS, key=key)

        async def exchange(peer: PeerId, addresses: Sequence[Address]) -> bool:
            message = Message(type=Message.ADD_PROVIDER, key=key)
            entry = message.providerPeers.add(id=peer_id_to_bytes(self._own))
            entry.addrs.extend(self._server.own_addresses())
            # ADD_PROVIDER has no answer (only py-libp2p gives one). That the question behind it has one shows that the peer
            # read it and did not reset the stream; whether we stand in the answer does not: rust-libp2p leaves the asker out.
            await self._rpc.ask(peer, message, question, addresses=addresses)
            return True

        return await self._publish(self._item(key, exchange, DHT_PROVIDER_REPUBLISH_S))

    async def republish(self, now: float) -> None:
        """What is due, one after the other: nobody waits for it."""
        for item in [item for item in self._items.values() if item.due_at <= now]:
            await self._publish(item)

    async def welcome(self, newcomers: Sequence[PeerId]) -> None:
        """Peers that joined the table get what belongs to them."""
        # SPEC kad/1 §4.3
        for item in list(self._items.values()):
            nearest = set(self._table.nearest(item.position))
            item.considered |= nearest
            fresh = [peer for peer in newcomers if peer in nearest and peer not in item.homes]
            if fresh and await self._store(item, fresh):
                self._schedule(item, found=True)

    def _item(self, raw_key: bytes, exchange: Exchange, interval_s: float) -> _Item:
        item = self._items.get(raw_key)
        if item is None:
            if len(self._items) >= DHT_PUBLISHED_MAX:
                raise LocalProtocolError(f"a node publishes at most {DHT_PUBLISHED_MAX} keys in the DHT", code="BOUND")
            item = self._items[raw_key] = _Item(raw_key, position_of(raw_key), exchange, interval_s)
        item.exchange = exchange
        return item

    async def _publish(self, item: _Item) -> int:
        """How many have it afterwards."""
        now = trio.current_time()
        item.due_at = now + item.interval_s  # not once more while this is under way
        if self._homes_hold(item, now):
            homes = list(item.homes)
            if await self._store(item, homes) > len(homes) // 2:
                self._schedule(item, found=True)
                return len(item.homes)
        lookup = await self._find(item.raw_key)
        item.found_at = trio.current_time()
        item.considered = lookup.frontier.considered()
        item.homes.clear()
        await self._store(item, lookup.frontier.nearest(), lookup.hearsay)
        self._schedule(item, found=bool(item.homes))
        return len(item.homes)

    def _homes_hold(self, item: _Item, now: float) -> bool:
        """Whether the peers that took it last time are still the nearest that we know of."""
        return (
            bool(item.homes)
            and now - item.found_at < _HOMES_TRUSTED_S
            and item.considered.issuperset(self._table.nearest(item.position))
        )

    def _schedule(self, item: _Item, *, found: bool) -> None:
        if found:
            item.retry_s = DHT_RETRY_FIRST_S
            item.due_at = trio.current_time() + item.interval_s * (1 - random.random() * _JITTER)
        else:
            self._counters["dht_publish_retried"] += 1
            item.due_at = trio.current_time() + item.retry_s
            item.retry_s = min(2 * item.retry_s, DHT_RETRY_MAX_S)

    async def _store(self, item: _Item, peers: list[PeerId], hearsay: Hearsay | None = None) -> int:
        """Bring it to each; how many took it."""
        # SPEC kad/1 §4.3
        taken = 0
        at_once = trio.CapacityLimiter(DHT_STORES_AT_ONCE)

        async def attempt(peer: PeerId) -> None:
            nonlocal taken
            item.homes.pop(peer, None)
            try:
                async with at_once:
                    with deadline(DHT_LOOKUP_TIMEOUT_S, "kad"):
                        took = await item.exchange(peer, hearsay.get(peer) if hearsay is not None else [])
            except CocoonError as error:
                self._rpc.note_failure(peer, error)
                return
            if took:
                taken += 1
                item.homes[peer] = None

        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(attempt, peer)
        return taken
