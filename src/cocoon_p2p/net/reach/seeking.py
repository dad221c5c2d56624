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
from cocoon_p2p.limits import SEEK_RELAYS_MAX, SEEK_TIMEOUT_S, SEEKS_BURST, SEEKS_PER_S
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.reach.circuit_messages import HOP
from cocoon_p2p.net.supervisor import Counters
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.switch import Switch

FindAddresses = Callable[[PeerId], Awaitable[Sequence[Address]]]
"""What others say where a peer is. Raises nothing of the network."""

_NOT_THERE = frozenset({"UNREACHABLE", "NO_ADDRESS", "WRONG_PEER", "HANDSHAKE"})


class Seeker:
    """Connects on behalf of the application."""

    def __init__(self, switch: Switch, find: FindAddresses, counters: Counters) -> None:
        self._switch = switch
        self._find = find
        self._counters = counters
        self._seeks: Buckets[None] = Buckets(Rate(SEEKS_PER_S, SEEKS_BURST))

    async def connect(self, peer: PeerId, addresses: Sequence[str] = ()) -> Link:
        """As `Switch.connect`. When the peer is at none of these addresses, nor at those known before, it is looked for
        once, within SEEK_TIMEOUT_S, where others say and through relays. Raises TransportError."""
        try:
            return await self._switch.connect(peer, addresses)
        except TransportError as error:
            alone = not self._switch.links()
            if error.code not in _NOT_THERE or alone or not self._may_seek():
                raise
            return await self._seek(peer, addresses, error)

    def _may_seek(self) -> bool:
        return self._seeks.take(None, trio.current_time())

    async def _seek(self, peer: PeerId, addresses: Sequence[str], failure: TransportError) -> Link:
        """Where others say and through relays at the same time: either may take seconds, or lead nowhere."""
        self._counters["peer_sought"] += 1
        tried = {replace(each, peer=None) for each in (*parse_dialable(addresses), *self._switch.book.get(peer))}
        found: list[Link] = []
        failures: list[TransportError] = []

        async def ask_around() -> None:
            with trio.move_on_after(SEEK_TIMEOUT_S):
                known_now = [*await self._find(peer), *self._switch.book.get(peer)]
                await dial([address for address in dict.fromkeys(known_now) if address not in tried], failures)

        async def dial(where: Sequence[Address], failures: list[TransportError]) -> None:
            link = self._switch.link(peer)  # it may have come by itself
            if link is None and not where:
                return
            try:
                found.append(link or await self._switch.connect(peer, list(map(str, where)), fresh=True))
            except TransportError as error:
                failures.append(error)
            else:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial, self._circuits(peer, tried), [])
            nursery.start_soon(ask_around)
        if found:
            self._counters["peer_found"] += 1
            return found[0]
        for error in failures:  # at addresses that are news to the caller
            error.hint = error.hint or failure.hint
            raise error from failure
        raise failure

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
