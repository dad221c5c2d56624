"""What comes in: listening sockets, and the connections that arrive at them until they have proven who they are."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import trio

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import HANDSHAKE_TIMEOUT_S
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.supervisor import Counters, deadline, run_guarded
from cocoon_p2p.net.switch.gate import Gate
from cocoon_p2p.net.switch.origins import Origin, origin_of
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.listen import open_listeners, sort_incoming
from cocoon_p2p.net.transport.pipe import Pipe, TcpPipe
from cocoon_p2p.net.transport.websocket import accept_websocket
from cocoon_p2p.net.yamux.connection import MuxedConnection

logger = logging.getLogger("cocoon_p2p.net")

ServeConnection = Callable[[MuxedConnection, Origin], Awaitable[None]]
"""Has a connection whose peer the gate has admitted, for as long as it lives."""


class Inbound:
    """The listeners of one node, and all places of the gate that inbound connections take.

    `serve_data` has what begins as a data socket, and closes it when it returns False: a stranger sent it. `on_shortage`
    is called when the system has no descriptor left for a connection.
    """

    def __init__(
        self,
        upgrader: Upgrader,
        gate: Gate,
        counters: Counters,
        nursery: trio.Nursery,
        *,
        serve: ServeConnection,
        serve_data: Callable[[TcpPipe], Awaitable[bool]],
        on_shortage: Callable[[], object],
    ) -> None:
        self.listening: list[Address] = []
        self._upgrader = upgrader
        self._gate = gate
        self._counters = counters
        self._nursery = nursery
        self._serve = serve
        self._serve_data = serve_data
        self._on_shortage = on_shortage

    async def listen(self, addresses: Sequence[str]) -> None:
        """Raises ConfigError: not an address, in use, not ours to listen on."""
        for text in addresses:
            try:
                address = parse_address(text)
            except ValueError as error:
                raise ConfigError(
                    str(error), hint="network.listen takes addresses like /ip4/0.0.0.0/tcp/4001"
                ) from error
            if address.relay is not None:
                raise ConfigError(
                    f"{text!r}: nobody listens at a relay by himself",
                    hint="a node that others cannot reach asks relays by itself",
                )
            for listener in await open_listeners(address):
                self.listening.append(replace(listener.address, websocket=address.websocket))
                self._nursery.start_soon(listener.serve, self._arrive, self._on_shortage)

    def _arrive(self, pipe: TcpPipe) -> None:
        """Refuse what is to be refused before it costs a task."""
        origin = origin_of(pipe.address)
        refusal = self._gate.admit_arrival(origin, trio.current_time())
        if refusal is None:
            self._nursery.start_soon(self._run, pipe, origin)
        else:
            self._counters[refusal.value] += 1
            pipe.abort()

    async def take(self, pipe: Pipe) -> None:
        """A pipe that somebody opened to us in another way, for as long as it lives. Raises nothing of the network."""
        origin = origin_of(pipe.address)
        refusal = self._gate.admit_arrival(origin, trio.current_time())
        if refusal is None:
            await self._run(pipe, origin)
        else:
            self._counters[refusal.value] += 1
            pipe.abort()

    async def _run(self, pipe: Pipe, origin: Origin) -> None:
        """Whatever happens on an admitted pipe ends this one and nothing else; its places are given back at the end."""
        arrival = _Arrival(self._gate, origin)
        try:
            await run_guarded("inbound", partial(self._run_admitted, pipe, arrival), self._counters)
        finally:
            arrival.end()

    async def _run_admitted(self, pipe: Pipe, arrival: _Arrival) -> None:
        is_over = True
        try:
            connection = await self._shake_hands(pipe, arrival)
            arrival.has_shaken_hands()
            if isinstance(connection, TcpPipe):
                is_over = False  # it is for others to close, or to keep
                if not await self._serve_data(connection):
                    self._note_failure(arrival.origin)
            elif connection is not None and self._admits(connection.peer, arrival.origin):
                try:
                    await self._serve(connection, arrival.origin)
                finally:
                    self._gate.release_peer(connection.peer)
        finally:
            if is_over:
                pipe.abort()

    async def _shake_hands(self, pipe: Pipe, arrival: _Arrival) -> MuxedConnection | TcpPipe | None:
        """A connection, or a data socket; None when it failed."""
        try:
            with deadline(HANDSHAKE_TIMEOUT_S, "handshake"):
                if isinstance(pipe, TcpPipe):
                    kind = await sort_incoming(pipe)
                    if kind == "data":
                        return pipe
                    if kind == "websocket":
                        pipe = await accept_websocket(pipe)
                return await self._upgrader.inbound(pipe)
        except TransportError as error:
            self._counters["handshake_failed"] += 1
            logger.debug("handshake with %s: %s", pipe.address, error)
            self._note_failure(arrival.origin)
            return None

    def _admits(self, peer: PeerId, origin: Origin) -> bool:
        """Whether a peer that has proven who it is may stay; then it has a place."""
        refusal = self._gate.admit_inbound(peer, trio.current_time())
        if refusal is not None:
            self._counters[refusal.value] += 1
            self._note_failure(origin)
        return refusal is None

    def _note_failure(self, origin: Origin) -> None:
        if self._gate.note_failure(origin, trio.current_time()):
            self._counters["subnets_banned"] += 1
            ban_s = self._gate.limits.subnet_ban_s
            logger.warning("too many failed handshakes: %s is refused for %.0f s", origin, ban_s)


class _Arrival:
    """The places that one inbound connection takes before its peer is known."""

    def __init__(self, gate: Gate, origin: Origin) -> None:
        self.origin = origin
        self._gate = gate
        self._shaking = True

    def has_shaken_hands(self) -> None:
        if self._shaking:
            self._shaking = False
            self._gate.release_handshake(self.origin)

    def end(self) -> None:
        self.has_shaken_hands()
        self._gate.release_arrival(self.origin)
