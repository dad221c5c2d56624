"""Lookups: asking ever nearer peers, several at a time, and taking what they say of others for hearsay.

What an answer says of third peers goes into this lookup alone, not into the address book: who lies about addresses harms one
lookup, and then for some dials only (kademlia.Frontier).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import trio

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    ADDRESSES_PER_ANNOUNCEMENT_MAX,
    DHT_BUCKET_PEERS_MAX,
    DHT_LOOKUP_TIMEOUT_S,
    DHT_PARALLEL_RPCS,
    DHT_RPC_TIMEOUT_S,
)
from cocoon_p2p.net.addresses import Address, Reach, parse_address, reach_of
from cocoon_p2p.net.dht.kademlia import Frontier
from cocoon_p2p.net.dht.messages import read_peers
from cocoon_p2p.net.dht.rpc import Rpc
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.supervisor import deadline
from cocoon_p2p.net.switch.switch import Switch

OnAnswer = Callable[[PeerId, Message], bool]
"""Looks at one answer of a lookup; True ends the lookup."""


class Hearsay:
    """Addresses of peers as others say them, those that most say first."""

    def __init__(self) -> None:
        self._votes: dict[PeerId, Counter[Address]] = {}
        self._tellers: Counter[PeerId] = Counter()

    def add(self, peer: PeerId, addresses: Iterable[Address]) -> None:
        fresh = dict.fromkeys(addresses)
        self._votes.setdefault(peer, Counter()).update(fresh.keys())
        self._tellers[peer] += bool(fresh)

    def get(self, peer: PeerId) -> list[Address]:
        votes = self._votes.get(peer, Counter())
        return [address for address, _ in votes.most_common(ADDRESSES_PER_ANNOUNCEMENT_MAX)]

    def tellers(self, peer: PeerId) -> int:
        """How many named an address of it."""
        return self._tellers[peer]


class Lookup:
    """One, from whom to ask first to who answered."""

    def __init__(self, switch: Switch, rpc: Rpc, target: int, seeds: Iterable[PeerId]) -> None:
        self._switch = switch
        self._rpc = rpc
        self._breadth = DHT_BUCKET_PEERS_MAX
        self.frontier = Frontier(target, switch.peer_id, seeds)
        self.hearsay = Hearsay()
        self._asking = 0
        self._changed = trio.Event()

    async def run(
        self, request: Message, look: OnAnswer = lambda _, __: False, *, breadth: int = DHT_BUCKET_PEERS_MAX
    ) -> None:
        """Until the `breadth` nearest answered, `look` returns True, or DHT_LOOKUP_TIMEOUT_S are up."""
        # SPEC kad/1 §6.2
        self._breadth = breadth
        with trio.move_on_after(DHT_LOOKUP_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for _ in range(DHT_PARALLEL_RPCS):
                    nursery.start_soon(self._work, request, look, nursery.cancel_scope)

    async def _work(self, request: Message, look: OnAnswer, scope: trio.CancelScope) -> None:
        """One of several askers: one that finds nobody to ask waits for the others' answers."""
        while True:
            peer = self.frontier.next(self._breadth)
            if peer is None:
                if not self._asking:
                    return
                await self._changed.wait()
                continue
            self._asking += 1
            try:
                if await self._visit(request, look, peer):
                    scope.cancel()
            finally:
                self._asking -= 1
                self._changed.set()
                self._changed = trio.Event()

    async def _visit(self, request: Message, look: OnAnswer, peer: PeerId) -> bool:
        try:
            with deadline(DHT_RPC_TIMEOUT_S, "kad"):
                answer = await self._rpc.ask(peer, request, addresses=self.hearsay.get(peer))
        except CocoonError as error:
            self.frontier.failed(peer)
            self._rpc.note_failure(peer, error)
            return False
        self.frontier.succeeded(peer)
        for near in self.hear(peer, read_peers(answer.closerPeers, DHT_BUCKET_PEERS_MAX)):
            if self.hearsay.tellers(near) or self._switch.book.get(near) or self._switch.link(near):
                self.frontier.add([near], teller=peer)
        return look(peer, answer)

    def hear(self, teller: PeerId, named: Iterable[tuple[PeerId, list[Address]]]) -> list[PeerId]:
        """Note what one peer says of others; those of whom it spoke."""
        others = [(peer, addresses) for peer, addresses in named if peer != self._switch.peer_id]
        for peer, addresses in tellable(self._switch, teller, others):
            self.hearsay.add(peer, addresses)
        return [peer for peer, _ in others]


def tellable(
    switch: Switch, teller: PeerId, named: Iterable[tuple[PeerId, list[Address]]]
) -> list[tuple[PeerId, list[Address]]]:
    """Of the addresses that a peer names those that it may tell us to dial: from the internet nothing in our own network or
    machine, from our network nothing in our machine."""
    # SPEC kad/1 §5
    link = switch.link(teller)
    least = reach_of(parse_address(link.connection.address)) if link is not None else Reach.INTERNET
    return [(peer, [address for address in addresses if reach_of(address) >= least]) for peer, addresses in named]
