"""Reaching a peer that is not where it said: once more at the addresses that others know of it now, and through relays.

A node behind a router is known by its private addresses until a relay takes connections for it; one that moves, until its
news has gone round. Who wants it in between asks the DHT, and the relays that both may share.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import SEEK_AFTER_S, SEEK_RELAYS_MAX, SEEK_TIMEOUT_S, SEEKS_BURST, SEEKS_PER_S
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.reach.circuit_messages import HOP
from cocoon_p2p.net.supervisor import Counters
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.switch import Switch

FindAddresses = Callable[[PeerId], Awaitable[Sequence[Address]]]
"""What others say where a peer is. Raises nothing of the network."""

_NOT_THERE = frozenset({"UNREACHABLE", "NO_ADDRESS", "WRONG_PEER", "HANDSHAKE"})


class _Search:
    """For one peer."""

    def __init__(self) -> None:
        self.found: Link | None = None
        self.failed = trio.Event()
        """Set when the addresses that were known have failed."""
        self.failure: TransportError | None = None
        self.news: TransportError | None = None
        """What became of addresses that the caller did not know."""
        self.scope = trio.CancelScope()

    def end(self, link: Link) -> None:
        self.found = self.found or link
        self.scope.cancel()


class Seeker:
    """Connects on behalf of the application."""

    def __init__(self, switch: Switch, find: FindAddresses, counters: Counters) -> None:
        self._switch = switch
        self._find = find
        self._counters = counters
        self._seeks: Buckets[None] = Buckets(Rate(SEEKS_PER_S, SEEKS_BURST))

    async def connect(self, peer: PeerId, addresses: Sequence[str] = ()) -> Link:
        """As `Switch.connect`. When the peer is at none of these addresses, nor at those known before, or does not answer
        there within SEEK_AFTER_S, it is looked for once, within SEEK_TIMEOUT_S, where others say and through relays. Raises
        TransportError."""
        link = self._switch.link(peer)
        if link is not None and not self._switch.is_banned(peer):
            return link
        search = _Search()
        async with trio.open_nursery() as nursery:
            search.scope = nursery.cancel_scope
            nursery.start_soon(self._dial_known, search, peer, addresses)
            nursery.start_soon(self._seek, search, peer, addresses)
        if search.found is not None:
            return search.found
        assert search.failure is not None
        if search.news is None:
            raise search.failure
        search.news.hint = search.news.hint or search.failure.hint
        raise search.news from search.failure

    async def _dial_known(self, search: _Search, peer: PeerId, addresses: Sequence[str]) -> None:
        try:
            search.end(await self._switch.connect(peer, addresses))
        except TransportError as error:
            search.failure = error
            if error.code not in _NOT_THERE:
                search.scope.cancel()
            search.failed.set()

    async def _seek(self, search: _Search, peer: PeerId, addresses: Sequence[str]) -> None:
        """Where others say and through relays at the same time: either may take seconds, or lead nowhere."""
        tried = {replace(each, peer=None) for each in (*parse_dialable(addresses), *self._switch.book.get(peer))}
        with trio.move_on_after(SEEK_AFTER_S):
            await search.failed.wait()
        if not self._switch.links() or not self._seeks.take(None, trio.current_time()):
            return
        self._counters["peer_sought"] += 1
        with trio.move_on_after(SEEK_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dial, search, peer, self._circuits(peer, tried))
                known_now = [*await self._find(peer), *self._switch.book.get(peer)]
                news = [address for address in dict.fromkeys(known_now) if address not in tried]
                search.news = await self._dial(search, peer, news)

    async def _dial(self, search: _Search, peer: PeerId, where: Sequence[Address]) -> TransportError | None:
        link = self._switch.link(peer)  # it may have come by itself
        if link is None and not where:
            return None
        try:
            link = link or await self._switch.connect(peer, list(map(str, where)), fresh=True)
        except TransportError as error:
            return error
        self._counters["peer_found"] += 1
        search.end(link)
        return None

    def _circuits(self, peer: PeerId, tried: set[Address]) -> list[Address]:
        """Through relays that we are connected to, those first that we hold on to: the peer may have a place there."""
        asked = {address.relay for address in tried}
        relays = [link for link in self._switch.links() if HOP in link.protocols and not link.relayed]
        random.shuffle(relays)
        relays.sort(key=lambda link: not link.is_protected)
        circuits = [
            replace(at, peer=None, relay=link.peer)
            for link in relays
            if link.peer != peer and link.peer not in asked and (at := self._address_of(link)) is not None
        ]
        return circuits[:SEEK_RELAYS_MAX]

    def _address_of(self, link: Link) -> Address | None:
        """Where the relay can be dialled, as far as that is known."""
        if link.connection.is_outbound:
            return parse_address(link.connection.address)
        return next((address for address in self._switch.book.get(link.peer) if address.relay is None), None)
