"""Where peers can be reached, as far as we were told. Bounded; the least recently mentioned peer goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import ADDRESS_BOOK_PEERS_MAX, ADDRESSES_PER_ANNOUNCEMENT_MAX
from cocoon_p2p.net.addresses import Address, parse_dialable


class AddressBook:
    """Addresses of each peer, the most recently confirmed first."""

    def __init__(self) -> None:
        self._peers: OrderedDict[PeerId, list[Address]] = OrderedDict()

    def add(self, peer: PeerId, addresses: Iterable[Address | str]) -> None:
        """Put `addresses` before the known ones; what cannot be dialled is left out."""
        fresh = parse_dialable(map(str, addresses))
        known = self._peers.get(peer, [])
        merged = list(dict.fromkeys([*fresh, *known]))[:ADDRESSES_PER_ANNOUNCEMENT_MAX]
        if merged:
            self._peers[peer] = merged
            self._peers.move_to_end(peer)
        while len(self._peers) > ADDRESS_BOOK_PEERS_MAX:
            self._peers.popitem(last=False)

    def get(self, peer: PeerId) -> list[Address]:
        return list(self._peers.get(peer, ()))
