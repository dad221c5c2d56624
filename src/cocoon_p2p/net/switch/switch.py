"""Connections: listening, dialling, keeping, and opening and serving streams on them.

Takes the place of py-libp2p's Swarm and BasicHost, whose faults (inbound slots that are never given back, exceptions that
end the host, a pause of 250 ms before each dial, silent reuse of a port …) cannot occur in what does without their code.
libp2p_cures.py lists them.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    CONNECTIONS_KEPT,
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    DIAL_TIMEOUT_S,
    DIALS_PER_PEER_MAX,
    HANDSHAKE_TIMEOUT_S,
    HANDSHAKES_PER_ADDRESS_MAX,
    NET_EVENTS_QUEUE_MAX,
)
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import Address, parse_address, parse_dialable, resolve_wildcards
from cocoon_p2p.net.feeds import Feed
from cocoon_p2p.net.port import NetworkEvent, PeerConnected, PeerDisconnected
from cocoon_p2p.net.supervisor import Counters, call_guarded, foreign_errors, run_guarded
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.yamux.muxer import MuxedConnection, MuxStream

logger = logging.getLogger("cocoon_p2p.net")


@dataclass(slots=True, eq=False)
class Link:
    """A connection in use."""

    connection: MuxedConnection
    connected_at: float
    used_at: float
    agent: str = ""
    protocols: frozenset[str] = frozenset()
    application_streams: int = 0
    identified: trio.Event = field(default_factory=trio.Event)
    """Set when identify is through, and when the connection ends."""
    ended: trio.Event = field(default_factory=trio.Event)
    """Set when the switch has forgotten the connection."""

    @property
    def peer(self) -> PeerId:
        return self.connection.peer


LinkTask = Callable[[Link], Awaitable[None]]


class Switch:
    """All connections of one node. `nursery` lives as long as the node."""

    def __init__(self, upgrader: Upgrader, nursery: trio.Nursery, counters: Counters) -> None:
        self.upgrader = upgrader
        self.peer_id = upgrader.peer_id
        self.book = AddressBook()
        self.events: Feed[NetworkEvent] = Feed(NET_EVENTS_QUEUE_MAX)
        self.counters = counters
        self.announced: tuple[str, ...] = ()
        self.on_stream: Callable[[Link, MuxStream], None] = _refuse_stream
        self.on_link: list[LinkTask] = []
        """Run, guarded, for each new connection."""
        self.on_peer_gone: list[Callable[[PeerId], object]] = []
        """Called, guarded, when the last connection of a peer has ended."""
        self._nursery = nursery
        self._links: dict[PeerId, list[Link]] = {}
        """Never an empty list. Only `_admit` and `_forget` change it, and neither awaits anything."""
        self._listening: list[Address] = []
        self._handshakes: Counter[str] = Counter()
        self._dials: dict[PeerId, trio.Lock] = {}
        self._banned_until: dict[PeerId, float] = {}

    # --- listening ---------------------------------------------------------------------------------------------------

    def announced_addresses(self) -> tuple[str, ...]:
        """What others are told: what the operator announces, or else what we listen on."""
        return self.announced or self.addresses()

    def addresses(self) -> tuple[str, ...]:
        return resolve_wildcards(self._listening)

    async def listen(self, addresses: Sequence[str]) -> None:
        """Raises ConfigError: not an address, in use, not ours to listen on."""
        for text in addresses:
            self._nursery.start_soon(self._serve, await self._bind(text))

    async def _bind(self, text: str) -> list[trio.SocketListener]:
        try:
            address = parse_address(text)
        except ValueError as error:
            raise ConfigError(str(error), hint="network.listen takes addresses like /ip4/0.0.0.0/tcp/4001") from error
        try:
            # Without SO_REUSEPORT, which py-libp2p sets: with it a second node would share the port in silence.
            listeners = await trio.open_tcp_listeners(address.port, host=address.host)
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            raise ConfigError(
                f"cannot listen on {address}: {'address already in use' if in_use else error.strerror or error}",
                code="ADDRESS_IN_USE" if in_use else None,
                hint="choose another port with --listen or [network] listen; tcp/0 takes any free one"
                if in_use
                else None,
            ) from error
        for listener in listeners:
            host, port = listener.socket.getsockname()[:2]
            self._listening.append(Address("ip6" if ":" in host else "ip4", host, port))
        return listeners

    async def _serve(self, listeners: list[trio.SocketListener]) -> None:
        try:
            await trio.serve_listeners(self._take, listeners, handler_nursery=self._nursery)
        finally:
            for listener in listeners:
                listener.socket.close()

    async def _take(self, stream: trio.SocketStream) -> None:
        """One inbound socket, for as long as it lives. Whatever happens on it ends this one and nothing else."""
        await run_guarded("inbound", partial(self._serve_inbound, stream), self.counters)

    async def _serve_inbound(self, stream: trio.SocketStream) -> None:
        """The socket's place is given back when it ends; trio.serve_listeners then closes it."""
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:  # gone before we looked
            await trio.aclose_forcefully(stream)
            return
        if self._handshakes[host] >= HANDSHAKES_PER_ADDRESS_MAX or self._link_count() >= CONNECTIONS_MAX:
            self.counters["inbound_refused"] += 1
            await trio.aclose_forcefully(stream)
            return
        address = f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/{port}"
        try:
            with self._counted_handshake(host), deadline(HANDSHAKE_TIMEOUT_S, "handshake"):
                connection = await self.upgrader.upgrade_inbound(stream, address)
        except TransportError as error:
            self.counters["handshake_failed"] += 1
            logger.debug("handshake with %s: %s", address, error)
            await trio.aclose_forcefully(stream)
            return
        link = self._admit(connection)
        if link is None:
            await connection.abort()
        else:
            await self._run(link)

    @contextmanager
    def _counted_handshake(self, host: str) -> Iterator[None]:
        self._handshakes[host] += 1
        try:
            yield
        finally:
            self._handshakes[host] -= 1
            if not self._handshakes[host]:
                del self._handshakes[host]

    def _admit(self, connection: MuxedConnection) -> Link | None:
        """Take a connection in, to be run at once; None when it is refused, and then the caller aborts it.

        Without an await: several connections of one peer may come at the same time.
        """
        peer = connection.peer
        if len(self._links.get(peer, ())) >= CONNECTIONS_PER_PEER_MAX or self.is_banned(peer):
            self.counters["connection_refused"] += 1
            return None
        now = trio.current_time()
        link = Link(connection, connected_at=now, used_at=now)
        links = self._links.setdefault(peer, [])
        links.append(link)
        if len(links) == 1:
            self.events.publish(PeerConnected(link.peer))
        for task in self.on_link:
            self._nursery.start_soon(run_guarded, "link_task", partial(task, link), self.counters)
        self._trim()
        return link

    async def _run(self, link: Link) -> None:
        """Serve an admitted connection until it ends. Raises nothing but cancellation."""
        connection = link.connection
        try:
            await run_guarded("connection", partial(connection.run, partial(self.on_stream, link)), self.counters)
        finally:
            self._forget(link)

    def _forget(self, link: Link) -> None:
        link.identified.set()
        links = self._links[link.peer]
        links.remove(link)
        if not links:
            del self._links[link.peer]
            self.events.publish(PeerDisconnected(link.peer))
            for gone in self.on_peer_gone:
                call_guarded("peer_gone", partial(gone, link.peer), None, self.counters)
        link.ended.set()

    def _trim(self) -> None:
        """Above CONNECTIONS_KEPT, close the least recently used connection on which no job runs."""
        if self._link_count() <= CONNECTIONS_KEPT:
            return
        idle = [link for links in self._links.values() for link in links if not link.application_streams]
        if idle:
            self.counters["connections_trimmed"] += 1
            self._abort_soon(min(idle, key=lambda link: link.used_at))

    def _abort_soon(self, link: Link) -> None:
        self._nursery.start_soon(run_guarded, "abort", link.connection.abort, self.counters)

    def _link_count(self) -> int:
        return sum(map(len, self._links.values()))

    # --- connections -------------------------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """One a peer: the one that new streams go over."""
        return [link for peer in self._links if (link := self.link(peer)) is not None]

    def link(self, peer: PeerId) -> Link | None:
        """One that lives: a connection that has just broken is still in the table for a moment."""
        return next((link for link in self._links.get(peer, ()) if not link.connection.is_over), None)

    async def connect(self, peer: PeerId, addresses: Sequence[str] = ()) -> Link:
        """The connection to `peer`, dialling `addresses` and the known ones. Raises TransportError."""
        if peer == self.peer_id:
            raise TransportError("a node does not connect to itself", outcome_known=True)
        if self.is_banned(peer):
            raise TransportError(f"{peer} is banned", outcome_known=True, code="BANNED")
        lock = self._dials.setdefault(peer, trio.Lock())
        try:
            async with lock:
                return self.link(peer) or await self._connect_anew(peer, addresses)
        finally:
            # A waiter that is cancelled leaves the lock to whoever holds it.
            if not lock.locked() and self._dials.get(peer) is lock:
                del self._dials[peer]

    async def _connect_anew(self, peer: PeerId, addresses: Sequence[str]) -> Link:
        targets, failures = self._targets(peer, addresses)
        connection = await self._race(peer, targets, failures)
        link = self._admit(connection)
        if link is None:
            await connection.abort()
            raise TransportError(f"the connection to {peer} was refused", outcome_known=True)
        self._nursery.start_soon(self._run, link)
        self.book.add(peer, [connection.address])
        return link

    async def disconnect(self, peer: PeerId) -> None:
        for link in list(self._links.get(peer, ())):
            await link.connection.abort()
            await link.ended.wait()

    def ban(self, peer: PeerId, duration_s: float) -> None:
        self._banned_until[peer] = trio.current_time() + duration_s
        for link in self._links.get(peer, ()):
            self._abort_soon(link)

    def unban(self, peer: PeerId) -> None:
        self._banned_until.pop(peer, None)

    def is_banned(self, peer: PeerId) -> bool:
        until = self._banned_until.get(peer)
        if until is not None and trio.current_time() >= until:
            del self._banned_until[peer]
            return False
        return until is not None

    def _targets(self, peer: PeerId, addresses: Sequence[str]) -> tuple[list[Address], dict[str, str]]:
        """What to dial, and why some addresses are not among it."""
        failures: dict[str, str] = {}
        targets: list[Address] = []
        for text in addresses:
            found = parse_dialable([text])
            if not found:
                failures[text] = "not an address that this node can dial"
            elif found[0].peer not in (None, peer):
                failures[text] = "names another peer"
            else:
                targets.append(Address(found[0].kind, found[0].host, found[0].port))
        targets = list(dict.fromkeys(targets + self.book.get(peer)))[:DIALS_PER_PEER_MAX]
        if not targets and not failures:
            raise TransportError(f"no address of {peer} is known", outcome_known=True, code="NO_ADDRESS")
        return targets, failures

    async def _race(self, peer: PeerId, targets: list[Address], failures: dict[str, str]) -> MuxedConnection:
        """Dial all at once, without the library's head start of 250 ms for the first; the first to succeed wins."""
        won: list[MuxedConnection] = []
        tried_up_to = trio.current_time() + DIAL_TIMEOUT_S

        async def attempt(target: Address, scope: trio.CancelScope) -> None:
            try:
                connection = await self._dial(peer, target)
            except TransportError as error:
                failures[str(target)] = error.message
                return
            if won:
                await connection.abort()
            else:
                won.append(connection)
                scope.cancel()

        with trio.move_on_at(tried_up_to) as timeout:
            async with trio.open_nursery() as nursery:
                for target in targets:
                    nursery.start_soon(attempt, target, nursery.cancel_scope)
        if won:
            return won[0]
        if timeout.cancelled_caught:
            failures |= {str(target): "timed out" for target in targets if str(target) not in failures}
        reasons = "; ".join(f"{address}: {reason}" for address, reason in failures.items())
        raise TransportError(f"cannot connect to {peer}: {reasons}", outcome_known=True, code="UNREACHABLE")

    async def _dial(self, peer: PeerId, target: Address) -> MuxedConnection:
        with foreign_errors("dial", outcome_known=True):
            stream = await trio.open_tcp_stream(target.host, target.port)
        connection = None
        try:
            with deadline(HANDSHAKE_TIMEOUT_S, "handshake"):
                connection = await self.upgrader.upgrade_outbound(stream, str(target), peer)
        finally:
            if connection is None:
                await trio.aclose_forcefully(stream)
        return connection


@contextmanager
def deadline(timeout_s: float, what: str) -> Iterator[None]:
    """Raises TransportError when the block takes longer."""
    with trio.move_on_after(timeout_s) as scope:
        yield
    if scope.cancelled_caught:
        raise TransportError(f"{what}: timed out", outcome_known=True, code="TIMEOUT")


def _refuse_stream(link: Link, stream: MuxStream) -> None:
    stream.release()
