"""Connections in use, and which of several with one peer is the one to use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import trio

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.switch.origins import Origin
from cocoon_p2p.net.yamux.connection import MuxedConnection

Tag = Literal["job", "relay", "bootstrap", "manual", "neighbour"]
"""Why a peer's connections are worth keeping: it works for us or we for it, it relays for us, it is how we join, somebody
asked for it by hand; or it is near to us in the DHT, which is worth less than the others."""
PROTECTING: frozenset[Tag] = frozenset(("job", "relay", "bootstrap", "manual"))


@dataclass(slots=True, eq=False)
class Link:
    """A connection in use."""

    connection: MuxedConnection
    origin: Origin
    """Whose limits its inbound streams count against."""
    connected_at: float
    used_at: float
    is_preferred: bool = True
    """Of two connections that two peers made to each other at the same moment, both prefer the same one: that of the peer
    with the smaller id."""
    is_punched: bool = False
    """Both ends dialled at once: the other's address is that of a hole in its router, where nobody listens."""
    agent: str = ""
    protocols: frozenset[str] = frozenset()
    application_streams: int = 0
    tags: set[Tag] = field(default_factory=set)
    """Those of the peer: one set for all its links (`Switch.protect`)."""
    identified: trio.Event = field(default_factory=trio.Event)
    """Set when identify is through, and when the connection ends."""
    ended: trio.Event = field(default_factory=trio.Event)
    """Set when the switch has forgotten the connection."""

    @property
    def peer(self) -> PeerId:
        return self.connection.peer

    @property
    def relayed(self) -> bool:
        return self.connection.relayed

    @property
    def is_protected(self) -> bool:
        return bool(self.tags & PROTECTING)

    @property
    def is_idle(self) -> bool:
        """No stream of any kind is open on it."""
        return not (self.connection.streams_inbound or self.connection.streams_outbound)


LinkTask = Callable[[Link], Awaitable[None]]


class LinkTable:
    """All links of a node, by peer. Nothing here awaits: several connections of one peer may come at the same time."""

    def __init__(self, own_id: PeerId) -> None:
        self._own_id = own_id
        self._links: dict[PeerId, list[Link]] = {}
        """Never an empty list."""
        self._tags: dict[PeerId, set[Tag]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._links.values()))

    def __iter__(self) -> Iterator[Link]:
        return (link for links in list(self._links.values()) for link in list(links))

    def __contains__(self, peer: object) -> bool:
        return peer in self._links

    def peers(self) -> list[PeerId]:
        return list(self._links)

    def of(self, peer: PeerId) -> list[Link]:
        return list(self._links.get(peer, ()))

    def best(self, peer: PeerId) -> Link | None:
        """The one that new streams go over: direct before relayed, identified before unknown (a peer that dials us back to
        see whether it can drops that connection at once), then the one that both ends prefer, then the newest. Only one that
        lives: a connection that has just broken is still in the table for a moment."""
        return min(
            self._alive(peer), key=lambda link: (link.relayed, not link.identified.is_set(), _worse(link)), default=None
        )

    def lasting(self, peer: PeerId) -> Link | None:
        """The one to keep: as `best`, but both ends have the same opinion of it, whatever either knows of the other."""
        return min(self._alive(peer), key=lambda link: (link.relayed, _worse(link)), default=None)

    def _alive(self, peer: PeerId) -> list[Link]:
        return [link for link in self._links.get(peer, ()) if not link.connection.is_over]

    def add(self, connection: MuxedConnection, origin: Origin, now: float) -> tuple[Link, bool]:
        """The link of a new connection, and whether it is the first of its peer."""
        peer = connection.peer
        links = self._links.setdefault(peer, [])
        is_preferred = connection.is_outbound == (self._own_id < peer)
        link = Link(connection, origin, now, now, is_preferred=is_preferred, tags=self._tags_of(peer))
        links.append(link)
        return link, len(links) == 1

    def remove(self, link: Link) -> bool:
        """Whether it was the last of its peer."""
        links = self._links[link.peer]
        links.remove(link)
        if not links:
            del self._links[link.peer]
        return not links

    def tag(self, peer: PeerId, tag: Tag) -> None:
        """It stays with the peer when its connection ends and another comes."""
        tags = self._tags_of(peer)
        tags.add(tag)
        self._tags[peer] = tags

    def untag(self, peer: PeerId, tag: Tag) -> None:
        tags = self._tags.get(peer)
        if tags is not None:
            tags.discard(tag)
            if not tags:
                del self._tags[peer]

    def _tags_of(self, peer: PeerId) -> set[Tag]:
        """One set for all links of a peer."""
        if peer in self._tags:
            return self._tags[peer]
        links = self._links.get(peer)
        return links[0].tags if links else set()


def _worse(link: Link) -> tuple[bool, float]:
    return not link.is_preferred, -link.connected_at
