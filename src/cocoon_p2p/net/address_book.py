"""Where peers can be reached, as far as we were told, and where we did reach them. Bounded; the least recently mentioned
peer goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ADDRESS_BOOK_PEERS_MAX, ADDRESSES_PER_ANNOUNCEMENT_MAX
from cocoon_p2p.net.addresses import Address, parse_dialable


@dataclass(slots=True)
class _Known:
    addresses: list[Address] = field(default_factory=list)
    worked: Address | None = None


class AddressBook:
    """Addresses of each peer, the most recently mentioned first."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PeerId, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: PeerId, addresses: Iterable[Address | str]) -> None:
        """Put `addresses` before the known ones; what cannot be dialled is left out. The one that worked last stays,
        whatever a peer or a stranger says afterwards."""
        fresh = parse_dialable(map(str, addresses))
        known = self._peers.get(peer) or _Known()
        merged = list(dict.fromkeys([*fresh, *known.addresses]))
        if known.worked is not None and known.worked not in merged[:ADDRESSES_PER_ANNOUNCEMENT_MAX]:
            merged.insert(0, known.worked)
        known.addresses = merged[:ADDRESSES_PER_ANNOUNCEMENT_MAX]
        if known.addresses:
            self._peers[peer] = known
            self._peers.move_to_end(peer)
        while len(self._peers) > ADDRESS_BOOK_PEERS_MAX:
            self._peers.popitem(last=False)

    def confirm(self, peer: PeerId, address: Address | str) -> None:
        """A dial to `address` reached the peer."""
        for confirmed in parse_dialable([str(address)]):
            self.add(peer, [confirmed])
            if peer in self._peers:
                self._peers[peer].worked = confirmed

    def get(self, peer: PeerId) -> list[Address]:
        known = self._peers.get(peer)
        return list(known.addresses) if known is not None else []

    def worked(self, peer: PeerId) -> Address | None:
        """Where the last dial that we made reached the peer."""
        known = self._peers.get(peer)
        return known.worked if known is not None else None
