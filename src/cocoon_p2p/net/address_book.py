"""Where peers can be reached, as far as we were told, and where we did reach them. Bounded: peers that we
never reached go first, among them the least recently mentioned, for anybody can tell us of thousands."""

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
        self._heard_of: OrderedDict[PeerId, _Known] = OrderedDict()
        self._reached: OrderedDict[PeerId, _Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._heard_of) + len(self._reached)

    def add(self, peer: PeerId, addresses: Iterable[Address | str]) -> None:
        """Put `addresses` before the known ones; what cannot be dialled is left out. The one that worked last stays,
        whatever a peer or a stranger says afterwards."""
        self._note(peer, addresses, None)

    def _note(self, peer: PeerId, addresses: Iterable[Address | str], worked: Address | None) -> None:
        fresh = parse_dialable(map(str, addresses))
        known = self._find(peer) or _Known()
        merged = list(dict.fromkeys([*fresh, *known.addresses]))
        if known.worked is not None and known.worked not in merged[:ADDRESSES_PER_ANNOUNCEMENT_MAX]:
            merged.insert(0, known.worked)
        known.addresses = merged[:ADDRESSES_PER_ANNOUNCEMENT_MAX]
        if known.addresses:
            self._keep(peer, known, worked)

    def confirm(self, peer: PeerId, address: Address | str) -> None:
        """A dial to `address` reached the peer."""
        for confirmed in parse_dialable([str(address)]):
            self._note(peer, [confirmed], confirmed)

    def get(self, peer: PeerId) -> list[Address]:
        known = self._find(peer)
        return list(known.addresses) if known is not None else []

    def worked(self, peer: PeerId) -> Address | None:
        """Where the last dial that we made reached the peer."""
        known = self._find(peer)
        return known.worked if known is not None else None

    def _find(self, peer: PeerId) -> _Known | None:
        return self._reached.get(peer) or self._heard_of.get(peer)

    def _keep(self, peer: PeerId, known: _Known, worked: Address | None) -> None:
        if worked is not None:
            known.worked = worked
            self._heard_of.pop(peer, None)
        shelf = self._heard_of if known.worked is None else self._reached
        shelf[peer] = known
        shelf.move_to_end(peer)
        while len(self) > ADDRESS_BOOK_PEERS_MAX:
            (self._heard_of or self._reached).popitem(last=False)
