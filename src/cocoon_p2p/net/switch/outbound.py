"""What goes out: from a peer and its addresses to a connection with it (dialling.py decides which and in which order)."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import DIALS_MAX, HANDSHAKE_TIMEOUT_S
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.supervisor import deadline
from cocoon_p2p.net.switch.dialling import FailedLately, make_plan, own_hosts_now, race
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.dial import dial
from cocoon_p2p.net.transport.pipe import Pipe
from cocoon_p2p.net.yamux.connection import MuxedConnection

DialRelayed = Callable[[Address, PeerId], Awaitable[Pipe]]
"""Opens a pipe to a peer through the relay that the address names. Raises TransportError."""
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class Outbound:
    """The dials of one node. `on_shortage` is called when the system has no descriptor left for one."""

    def __init__(
        self,
        upgrader: Upgrader,
        book: AddressBook,
        *,
        dial_relayed: Callable[[], DialRelayed | None],
        on_shortage: Callable[[], object],
    ) -> None:
        self._upgrader = upgrader
        self._book = book
        self._dial_relayed = dial_relayed
        self._on_shortage = on_shortage
        self._places = trio.CapacityLimiter(DIALS_MAX)
        self._failed_lately = FailedLately()

    def forget_failures(self) -> None:
        """What could not be reached may be reached now."""
        self._failed_lately = FailedLately()

    async def dial(self, peer: PeerId, given: Sequence[str], known: Sequence[Address]) -> MuxedConnection:
        """A connection at one of these addresses; of the known ones, the one that worked last comes first. Raises
        TransportError."""
        plan = make_plan(
            peer,
            given,
            known,
            failed_lately=lambda address: self._failed_lately.holds(address, trio.current_time()),
            worked=self._book.worked(peer),
            own_hosts=own_hosts_now,
        )
        return await race(
            peer,
            plan,
            partial(self.dial_address, peer),
            on_failure=lambda address: self._failed_lately.add(address, trio.current_time()),
        )

    async def dial_address(self, peer: PeerId, target: Address) -> MuxedConnection:
        """At this address alone. Raises TransportError; the caller sets the deadline of all but the handshake."""
        pipe = await self._open_pipe(peer, target)
        connection = await self.secure(pipe, peer)
        self._failed_lately.forget(target)
        return connection

    async def secure(self, pipe: Pipe, peer: PeerId, *, as_listener: bool = False) -> MuxedConnection:
        """The handshake with `peer` over a pipe, which is closed when that fails. Raises TransportError."""
        done = False
        try:
            upgrader = self._upgrader
            # A stranger may take our first bytes for the length of a long message, and wait for it.
            doubt = "perhaps not in our private network: " if upgrader.network_key is not None else ""
            with deadline(HANDSHAKE_TIMEOUT_S, f"{doubt}handshake"):
                connection = await (upgrader.inbound(pipe) if as_listener else upgrader.outbound(pipe, peer))
            if connection.peer != peer:
                raise TransportError("another peer answers there", outcome_known=True, code="WRONG_PEER")
            done = True
        finally:
            if not done:
                pipe.abort()
        return connection

    async def _open_pipe(self, peer: PeerId, target: Address) -> Pipe:
        if target.relay is not None:
            dial_relayed = self._dial_relayed()
            if dial_relayed is None:
                raise TransportError("this node uses no relays", outcome_known=True)
            return await dial_relayed(target, peer)  # without a place: the dial of the relay needs one
        async with self._places:
            try:
                return await dial(target)
            except TransportError as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_DESCRIPTORS:
                    self._on_shortage()
                    raise TransportError("this process has no file descriptor left", outcome_known=True) from error
                raise
