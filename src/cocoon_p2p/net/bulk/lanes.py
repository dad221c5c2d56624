"""Which data sockets a connection has, and which of them a stream may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.bulk.sockets import DataInlet, DataOutlet, Traffic
from cocoon_p2p.net.external_frames import ExternalHeader


class Connection(Protocol):
    """As yamux's MuxedConnection."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def is_outbound(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def transport(self) -> Literal["tcp", "websocket"]: ...

    @property
    def relayed(self) -> bool: ...


@dataclass(slots=True, eq=False)
class Sidecar:
    """The data sockets of one connection."""

    connection: Connection
    ended: trio.Event
    """Set when the connection is over."""
    is_punched: bool = False
    """Its address is that of a hole in a router, where nobody listens."""
    has_no_way: bool = False
    """As was found out: there are no data sockets beside this connection, which says nothing of others."""
    outlets: list[DataOutlet] = field(default_factory=list)
    inlets: dict[bytes, DataInlet] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    expected: int = 0
    """Sockets agreed upon that are not there yet."""
    is_asking: bool = False

    @property
    def peer(self) -> PeerId:
        return self.connection.peer

    @property
    def fits(self) -> bool:
        """Whether the connection is of the kind that has data sockets."""
        # SPEC data/1 §2
        kind = self.connection.transport == "tcp" and not self.connection.relayed
        return kind and not self.has_no_way and not self.ended.is_set()

    def lease(self, user: object) -> DataOutlet | None:
        """A free outlet, from now on the user's."""
        for outlet in self.outlets:
            if outlet.user is None and outlet.may_begin and outlet.is_clear:
                outlet.user = user
                return outlet
        return None

    def end_use(self) -> None:
        """Send nothing more by data socket, and ask the peer to send nothing more."""
        for outlet in self.outlets:
            outlet.may_begin = False
        for inlet in self.inlets.values():
            inlet.refuse_more()

    def close(self) -> None:
        for outlet in self.outlets:
            outlet.close()
        for inlet in self.inlets.values():
            inlet.stop()
        self.outlets.clear()
        self.inlets.clear()


class Lane:
    """One stream's share of the data sockets: framing's DataLane. `ask` is to bring a new outlet, `turn_off` to end the use
    of data sockets with this peer for a while."""

    def __init__(
        self, sidecar: Sidecar, ask: Callable[[Sidecar], None], turn_off: Callable[[Sidecar, str], None]
    ) -> None:
        self._sidecar = sidecar
        self._ask = ask
        self._turn_off = turn_off
        self._is_wanted = False
        self._outlet: DataOutlet | None = None

    def expect(self, payload_bytes: int) -> None:
        if payload_bytes >= BULK_BYTES_MIN and self._sidecar.fits:
            self._is_wanted = True
            if self.outlet() is None:
                self._ask(self._sidecar)

    def outlet(self) -> DataOutlet | None:
        if self._outlet is not None and not self._outlet.may_begin:
            self._outlet = None  # its owner closes it
        if self._outlet is None and self._is_wanted:
            self._outlet = self._sidecar.lease(self)
        return self._outlet

    def inlet(self, header: ExternalHeader) -> DataInlet:
        # SPEC data/1 §5
        inlet = self._sidecar.inlets.get(header.socket_id)
        if inlet is None or inlet.is_over:
            raise TransportError("a frame by a data socket that is not there", outcome_known=False, code="DATA_SOCKET")
        if inlet.is_busy or inlet.position != header.offset:
            raise TransportError("a frame by a data socket in use", outcome_known=False, code="DATA_SOCKET")
        inlet.is_busy = True
        inlet.abandoned_at = float("inf")
        inlet.user = self
        return inlet

    def path_failed(self) -> None:
        self._turn_off(self._sidecar, "data_socket_broke")

    def doubt(self) -> None:
        self._turn_off(self._sidecar, "data_socket_altered")

    def release(self, *, peer_ended: bool) -> None:
        if self._outlet is not None:
            self._outlet.user = None
        if not peer_ended:
            self._abandon_inlets()
        self._outlet, self._is_wanted = None, False

    def abort(self) -> None:
        outlet, self._outlet, self._is_wanted = self._outlet, None, False
        if outlet is not None:
            if outlet.is_clear:
                outlet.user = None
            else:
                outlet.close()  # of what is under way on it the receiver knows no end
        self._stop_inlets()

    def _abandon_inlets(self) -> None:
        """The peer may be sending still, and nobody reads it any more; or it has sent all, and uses them for others."""
        for inlet in self._sidecar.inlets.values():
            if inlet.user is self:
                inlet.abandoned_at = trio.current_time()
                if not inlet.is_empty():
                    inlet.stop()

    def _stop_inlets(self) -> None:
        for inlet in self._sidecar.inlets.values():
            if inlet.user is self:
                inlet.stop()
