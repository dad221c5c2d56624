"""Connections: listening, dialling, keeping, and ending them.

Takes the place of py-libp2p's Swarm and BasicHost, whose faults (inbound slots that are never given back, exceptions that
end the host, a pause of 250 ms before each dial, silent reuse of a port …) cannot occur in what does without their code.
libp2p_cures.py lists them.

What it decides, it decides by gate.py (who may come in), dialling.py (which addresses) and trimming.py (who must go).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    CONNECTION_GRACE_S,
    CONNECTIONS_KEPT,
    CONNECTIONS_KEPT_LOW,
    NET_EVENTS_QUEUE_MAX,
    SHED_CONNECTIONS,
    SHED_LOG_INTERVAL_S,
    SWITCH_ROUND_S,
)
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import Address, parse_address, resolve_wildcards
from cocoon_p2p.net.feeds import Feed
from cocoon_p2p.net.port import (
    AddressesChanged,
    Misbehaviour,
    NetworkEvent,
    PeerConnected,
    PeerDisconnected,
    PeerMisbehaved,
)
from cocoon_p2p.net.supervisor import Counters, call_guarded, deadline, run_guarded
from cocoon_p2p.net.switch.dialling import own_hosts_now
from cocoon_p2p.net.switch.gate import Gate
from cocoon_p2p.net.switch.inbound import Inbound
from cocoon_p2p.net.switch.links import Link, LinkTable, LinkTask, Tag
from cocoon_p2p.net.switch.origins import Origin, origin_of
from cocoon_p2p.net.switch.outbound import DialRelayed, Outbound
from cocoon_p2p.net.switch.trimming import expendable, idle_leftovers
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.pipe import Pipe, TcpPipe
from cocoon_p2p.net.yamux.connection import MuxedConnection, Violation
from cocoon_p2p.net.yamux.stream import MuxStream

__all__ = ["Link", "LinkTask", "Switch", "deadline"]

logger = logging.getLogger("cocoon_p2p.net")

_MISBEHAVIOUR_OF: dict[Violation, Misbehaviour] = {
    "window_overrun": "overrun",
    "ping_flood": "flood",
    "reply_flood": "flood",
    "yamux": "malformed",
}
"""Too many streams at once are none: they are refused, and an honest peer that has much to do learns by that."""


class Switch:
    """All connections of one node. `nursery` lives as long as the node, and `maintain` runs in it."""

    def __init__(self, upgrader: Upgrader, nursery: trio.Nursery, counters: Counters) -> None:
        self.upgrader = upgrader
        self.peer_id = upgrader.peer_id
        self.book = AddressBook()
        self.gate = Gate()
        self.events: Feed[NetworkEvent] = Feed(NET_EVENTS_QUEUE_MAX)
        self.counters = counters
        self.on_stream: Callable[[Link, MuxStream], None] = _refuse_stream
        self.on_link: list[LinkTask] = []
        """Run, guarded, for each new connection."""
        self.on_peer_gone: list[Callable[[PeerId], object]] = []
        """Called, guarded, when the last connection of a peer has ended."""
        self.on_addresses_changed: list[Callable[[], object]] = []
        """Called, guarded, when `announced_addresses()` may give others than before, or this machine has moved."""
        self.moved = trio.Event()
        """Set, and a new one put here, when it has: what could not be reached from there may be reached from here."""
        self.dial_relayed: DialRelayed | None = None
        """Set by reach/."""
        self.take_data_pipe: Callable[[TcpPipe], Awaitable[bool]] | None = None
        """Has an inbound socket that begins as a data socket (net/bulk); False if a stranger sent it."""
        self._announced: tuple[str, ...] = ()
        self._extra_addresses: tuple[str, ...] = ()
        self._nursery = nursery
        self._links = LinkTable(self.peer_id)
        self._inbound = Inbound(
            upgrader,
            self.gate,
            counters,
            nursery,
            serve=self._serve_inbound,
            serve_data=self._take_data,
            on_shortage=self.shed,
        )
        self._dials: dict[PeerId, trio.Lock] = {}
        self._outbound = Outbound(upgrader, self.book, dial_relayed=lambda: self.dial_relayed, on_shortage=self.shed)
        self._shed_logged_at = float("-inf")

    # --- addresses ---------------------------------------------------------------------------------------------------

    def addresses(self) -> tuple[str, ...]:
        """What we listen on, wildcards resolved to this machine's own addresses."""
        return resolve_wildcards(self._inbound.listening)

    def announced_addresses(self) -> tuple[str, ...]:
        """What others are told: what the operator announces, or else what we listen on; and where else we can be reached
        (through relays, behind a router's mapping, where peers see us). Loopback last: lists are cut at the end."""
        ours = self._announced or self.addresses()
        here = [text for text in ours if parse_address(text).is_loopback]
        away = [text for text in ours if text not in here]
        return tuple(dict.fromkeys([*away, *self._extra_addresses, *here]))

    @property
    def announced(self) -> tuple[str, ...]:
        """What the operator announces in place of what we listen on."""
        return self._announced

    @announced.setter
    def announced(self, addresses: tuple[str, ...]) -> None:
        changed = addresses != self._announced
        self._announced = addresses
        if changed:
            self._tell_addresses_changed()

    @property
    def extra_addresses(self) -> tuple[str, ...]:
        """Set by reach/: relay addresses, mapped and observed ones."""
        return self._extra_addresses

    @extra_addresses.setter
    def extra_addresses(self, addresses: tuple[str, ...]) -> None:
        changed = addresses != self._extra_addresses
        self._extra_addresses = addresses
        if changed:
            self._tell_addresses_changed()

    def _tell_addresses_changed(self) -> None:
        self.events.publish(AddressesChanged())
        for changed in self.on_addresses_changed:
            call_guarded("addresses_changed", changed, None, self.counters)

    # --- what comes in -----------------------------------------------------------------------------------------------

    async def listen(self, addresses: Sequence[str]) -> None:
        """Raises ConfigError: not an address, in use, not ours to listen on."""
        await self._inbound.listen(addresses)
        self._tell_addresses_changed()

    async def take_inbound_pipe(self, pipe: Pipe) -> None:
        """A pipe that somebody opened to us, for as long as it lives: through a relay. Raises nothing of the network."""
        await self._inbound.take(pipe)

    async def _take_data(self, pipe: TcpPipe) -> bool:
        if self.take_data_pipe is not None:
            return await self.take_data_pipe(pipe)
        self.counters["data_socket_unexpected"] += 1
        pipe.abort()
        return False

    async def _serve_inbound(self, connection: MuxedConnection, origin: Origin) -> None:
        await self._run(self._take_in(connection, origin))

    # --- links -------------------------------------------------------------------------------------------------------

    def _take_in(self, connection: MuxedConnection, origin: Origin) -> Link:
        """Without an await: several connections of one peer may come at the same time. `_run` follows at once."""
        link, first = self._links.add(connection, origin, trio.current_time())
        connection.on_violation = partial(self._note_violation, link.peer)
        if first:
            self.events.publish(PeerConnected(link.peer))
        for task in self.on_link:
            self._nursery.start_soon(run_guarded, "link_task", partial(task, link), self.counters)
        if len(self._links) > CONNECTIONS_KEPT:
            self._trim()
        return link

    async def _run(self, link: Link) -> None:
        """Serve a link until it ends. Raises nothing but cancellation."""
        connection = link.connection
        try:
            await run_guarded("connection", partial(connection.run, partial(self.on_stream, link)), self.counters)
        finally:
            self._forget(link)

    async def _run_outbound(self, link: Link) -> None:
        try:
            await self._run(link)
        finally:
            self.gate.release_outbound(link.peer)

    def _forget(self, link: Link) -> None:
        link.identified.set()
        if self._links.remove(link):
            self.events.publish(PeerDisconnected(link.peer))
            for gone in self.on_peer_gone:
                call_guarded("peer_gone", partial(gone, link.peer), None, self.counters)
        link.ended.set()

    def links(self) -> list[Link]:
        """One a peer: the one that new streams go over."""
        return [link for peer in self._links.peers() if (link := self._links.best(peer)) is not None]

    def link(self, peer: PeerId) -> Link | None:
        """The one that new streams go over: direct before relayed. It lives."""
        return self._links.best(peer)

    def links_of(self, peer: PeerId) -> list[Link]:
        """All of them, those that are just ending, too."""
        return self._links.of(peer)

    def protect(self, peer: PeerId, tag: Tag) -> None:
        """Keep the peer's connections when others are trimmed, until `unprotect`; also when it comes back later."""
        self._links.tag(peer, tag)

    def unprotect(self, peer: PeerId, tag: Tag) -> None:
        self._links.untag(peer, tag)

    async def disconnect(self, peer: PeerId) -> None:
        for link in self._links.of(peer):
            await link.connection.abort()
            await link.ended.wait()

    # --- too many ----------------------------------------------------------------------------------------------------

    async def maintain(self) -> None:
        """Close what nobody needs, and notice when this machine's addresses change. Runs as long as the node."""
        at = own_hosts_now(), self.announced_addresses()
        while True:
            await trio.sleep(SWITCH_ROUND_S)
            self._trim()
            self._close_leftovers()
            before, at = at, (own_hosts_now(), self.announced_addresses())
            if at[0] != before[0]:
                self._note_move()
            if at != before:
                self._tell_addresses_changed()

    def _close_leftovers(self) -> None:
        now = trio.current_time()
        for link in idle_leftovers(self._links, lambda link: self._links.lasting(link.peer), now, CONNECTION_GRACE_S):
            self.counters["connections_left_open" if link.connection.is_over else "connections_doubled"] += 1
            self._abort_soon(link)

    def _note_move(self) -> None:
        self.counters["machine_moved"] += 1
        self._outbound.forget_failures()
        for link in self._links:
            link.connection.doubt()
        moved, self.moved = self.moved, trio.Event()
        moved.set()

    def _trim(self) -> None:
        """Above CONNECTIONS_KEPT, close the least useful connections down to CONNECTIONS_KEPT_LOW."""
        links = list(self._links)  # those that are over, too: a peer may say that it leaves and hold its place
        if len(links) > CONNECTIONS_KEPT:
            surplus = len(links) - CONNECTIONS_KEPT_LOW
            for link in self._expendable(links, surplus, spares=True):
                self.counters["connections_trimmed"] += 1
                self._abort_soon(link)

    def shed(self) -> None:
        """The process has no file descriptor left: close the least useful connections, whatever they are."""
        self.counters["descriptors_exhausted"] += 1
        now = trio.current_time()
        links = list(self._links)
        shed = self._expendable(links, SHED_CONNECTIONS, spares=False)
        if now - self._shed_logged_at >= SHED_LOG_INTERVAL_S:
            self._shed_logged_at = now
            logger.warning(
                "no file descriptor is left: closing %d of %d connections; raise the limit (ulimit -n) or lower the load",
                len(shed),
                len(links),
            )
        for link in shed:
            self.counters["connections_shed"] += 1
            self._abort_soon(link)

    def _expendable(self, links: list[Link], surplus: int, *, spares: bool) -> list[Link]:
        return expendable(
            links,
            trio.current_time(),
            surplus=surplus,
            grace_s=CONNECTION_GRACE_S,
            is_double=lambda link: self._links.lasting(link.peer) not in (None, link),
            spares=spares,
        )

    def _abort_soon(self, link: Link) -> None:
        self._nursery.start_soon(run_guarded, "abort", link.connection.abort, self.counters)

    # --- standing ----------------------------------------------------------------------------------------------------

    def report(self, peer: PeerId, kind: Misbehaviour) -> None:
        """A peer did what an honest one does not. Whoever keeps its standing hears of it; nothing else happens here."""
        self.counters[f"peer_{kind}"] += 1
        if self.gate.allows_report(peer, trio.current_time()):
            self.events.publish(PeerMisbehaved(peer, kind))

    def _note_violation(self, peer: PeerId, kind: Violation) -> None:
        """What the muxer saw."""
        misbehaviour = _MISBEHAVIOUR_OF.get(kind)
        if misbehaviour is None:
            self.counters[f"yamux_{kind}"] += 1
        else:
            self.report(peer, misbehaviour)

    def ban(self, peer: PeerId, duration_s: float) -> None:
        now = trio.current_time()
        self.gate.banned_peers.ban(peer, now + duration_s, now)
        for link in self._links.of(peer):
            self._abort_soon(link)

    def unban(self, peer: PeerId) -> None:
        self.gate.banned_peers.unban(peer)

    def is_banned(self, peer: PeerId) -> bool:
        return self.gate.banned_peers.holds(peer, trio.current_time())

    def slow(self, peer: PeerId, share: float, duration_s: float) -> None:
        self.gate.slow(peer, share, trio.current_time() + duration_s)

    # --- dialling ----------------------------------------------------------------------------------------------------

    async def connect(self, peer: PeerId, addresses: Sequence[str] = (), *, fresh: bool = False) -> Link:
        """The connection to `peer`, dialling `addresses` and the known ones if there is none. Raises TransportError.

        `fresh`: a new one at `addresses` alone, also beside others (a direct one beside a relayed one).
        """
        if peer == self.peer_id:
            raise TransportError("a node does not connect to itself", outcome_known=True)
        if self.is_banned(peer):
            raise TransportError(f"{peer} is banned", outcome_known=True, code="BANNED")
        if fresh:
            return await self._connect_anew(peer, addresses, ())
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                return self.link(peer) or await self._connect_anew(peer, addresses, self.book.get(peer))
        finally:
            # A waiter that is cancelled leaves the lock to whoever holds it.
            if not lock.locked() and self._dials.get(peer) is lock:
                del self._dials[peer]

    async def _connect_anew(self, peer: PeerId, given: Sequence[str], known: Sequence[Address]) -> Link:
        connection = await self._outbound.dial(peer, given, known)
        link = await self._start(connection)
        self.book.confirm(peer, connection.address)
        return link

    async def _start(self, connection: MuxedConnection, *, is_punched: bool = False) -> Link:
        """Take in and run a connection that has no place yet. Raises TransportError."""
        peer = connection.peer
        refusal = self.gate.admit_outbound(peer, trio.current_time())
        if refusal is not None:
            self.counters[refusal.value] += 1
            await connection.abort()
            raise TransportError(f"the connection to {peer} was refused here: {refusal}", outcome_known=True)
        link = self._take_in(connection, origin_of(connection.address))
        link.is_punched = is_punched
        self._nursery.start_soon(self._run_outbound, link)
        return link

    async def dial_direct(self, peer: PeerId, addresses: Sequence[Address]) -> Link:
        """A new connection without a relay, also beside others. Raises TransportError."""
        return await self.connect(peer, [str(each) for each in addresses if each.relay is None], fresh=True)

    async def try_dial(self, peer: PeerId, target: Address) -> None:
        """Whether `peer` answers at `target`: a new connection, used by nobody and dropped at once. Raises TransportError."""
        connection = await self._outbound.dial_address(peer, target)
        await connection.abort()

    async def take_punched_pipe(self, pipe: Pipe, peer: PeerId, *, as_listener: bool) -> Link:
        """A pipe that both ends dialled; `as_listener` tells whose part we take in its handshake. Raises TransportError."""
        connection = await self._outbound.secure(pipe, peer, as_listener=as_listener)
        return await self._start(connection, is_punched=True)


def _refuse_stream(link: Link, stream: MuxStream) -> None:
    stream.release()
