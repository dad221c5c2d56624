"""Streams between peers: agreeing on a protocol, serving it, opening it, and redialling once when a connection has died."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    DEATH_NOTICE_S,
    HANDLER_GRACE_S,
    REFUSED_STREAM_WAIT_S,
    REFUSED_STREAMS_HELD_MAX,
    STREAM_OPEN_TIMEOUT_S,
)
from cocoon_p2p.net import multistream
from cocoon_p2p.net.external_frames import DataLane
from cocoon_p2p.net.framing import FramedStream
from cocoon_p2p.net.port import StreamHandler
from cocoon_p2p.net.supervisor import deadline, run_guarded, run_handler
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")

ProtocolHandler = Callable[[MuxStream], Awaitable[None]]
"""Serves an inbound stream of one of libp2p's own protocols. The stream is closed afterwards, and reset if it raises."""
_REDIALS = 1


class Streams:
    """The protocols of one node."""

    def __init__(self, switch: Switch, nursery: trio.Nursery) -> None:
        self._switch = switch
        self._nursery = nursery
        self._internal: dict[str, ProtocolHandler] = {}
        self._application: dict[str, StreamHandler] = {}
        self._refusals_held: Counter[PeerId] = Counter()
        self.lane_of: Callable[[Link], DataLane] | None = None
        """What gives the application's streams data sockets (net/bulk)."""
        switch.on_stream = self._start_serving

    def protocols(self) -> list[str]:
        return [*self._internal, *self._application]

    def set_internal(self, protocol: str, handler: ProtocolHandler) -> None:
        self._internal[protocol] = handler

    def remove_internal(self, protocol: str) -> None:
        """Serve it no longer; streams that are open go on."""
        self._internal.pop(protocol, None)

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        self._application[protocol] = handler

    # --- opening -----------------------------------------------------------------------------------------------------

    async def open_framed(self, peer: PeerId, protocol: str) -> FramedStream:
        """A stream of the application. Raises TransportError."""
        link, stream = await self._open(peer, (protocol,), None)
        return self._framed(link, stream, protocol)

    async def open_raw(self, peer: PeerId, *protocols: str, link: Link | None = None) -> MuxStream:
        """A stream of one of libp2p's protocols, over `link` or whichever connection there is. Raises TransportError."""
        _, stream = await self._open(peer, protocols, link)
        return stream

    async def _open(self, peer: PeerId, protocols: tuple[str, ...], over: Link | None) -> tuple[Link, MuxStream]:
        for redials_left in range(_REDIALS, -1, -1):
            link = over or await self._switch.connect(peer)
            try:
                return link, await self._open_on(link, protocols)
            except TransportError as error:
                if over is not None or not redials_left or not await _has_died(link, error):
                    raise
        raise AssertionError("the last round returns or raises")

    async def _open_on(self, link: Link, protocols: tuple[str, ...]) -> MuxStream:
        with deadline(STREAM_OPEN_TIMEOUT_S, f"stream to {link.peer}"):
            stream = await link.connection.open_stream()
            agreed = False
            try:
                await multistream.propose(stream, *protocols)
                agreed = True
            except RemoteProtocolError as error:
                self._switch.report(link.peer, "malformed")
                raise TransportError(f"{link.peer}: {error}", outcome_known=True, code="MULTISTREAM") from error
            finally:
                if not agreed:
                    stream.reset_soon()
        link.used_at = trio.current_time()
        return stream

    def _framed(self, link: Link, stream: MuxStream, protocol: str) -> FramedStream:
        link.application_streams += 1

        def done() -> None:
            link.application_streams -= 1
            link.used_at = trio.current_time()

        lane = None if self.lane_of is None else self.lane_of(link)
        return FramedStream(link.peer, protocol, stream, on_done=done, lane=lane)

    # --- serving -----------------------------------------------------------------------------------------------------

    def _start_serving(self, link: Link, stream: MuxStream) -> None:
        refusal = self._switch.gate.admit_stream(link.peer, link.origin, trio.current_time())
        if refusal is not None:
            self._switch.counters[refusal.value] += 1
            stream.reset_soon()
            return
        self._nursery.start_soon(self._serve_guarded, link, stream)

    async def _serve_guarded(self, link: Link, stream: MuxStream) -> None:
        """What fails here, outside of the handler, harms this stream alone, too."""
        try:
            if not await run_guarded("stream", partial(self._serve, link, stream), self._switch.counters):
                stream.reset_soon()
        finally:
            self._switch.gate.release_stream(link.peer, link.origin)

    async def _serve(self, link: Link, stream: MuxStream) -> None:
        protocol = await self._agree(link, stream)
        if protocol is None:
            await stream.reset()
            return
        link.used_at = trio.current_time()
        handler, internal = self._application.get(protocol), self._internal.get(protocol)
        if handler is not None:
            await self._serve_application(handler, link, self._framed(link, stream, protocol))
        elif internal is None:  # not served any more since the peer asked
            await stream.reset()
        elif await run_guarded("protocol", partial(internal, stream), self._switch.counters):
            await stream.close()
        else:
            await stream.reset()

    async def _serve_application(self, handler: StreamHandler, link: Link, stream: FramedStream) -> None:
        """Until the handler is done, at most HANDLER_GRACE_S beyond its connection."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_over, link, nursery.cancel_scope)
            await run_handler(handler, stream, self._switch.counters)
            nursery.cancel_scope.cancel()

    async def _cancel_when_over(self, link: Link, scope: trio.CancelScope) -> None:
        await link.ended.wait()
        await trio.sleep(HANDLER_GRACE_S)
        self._switch.counters["handler_outlived_connection"] += 1
        scope.cancel()

    async def _agree(self, link: Link, stream: MuxStream) -> str | None:
        """The protocol of an inbound stream; None when there is none to agree on."""
        refuse = partial(self._hold_refusal, link.peer)
        try:
            with deadline(STREAM_OPEN_TIMEOUT_S, "negotiation"):
                return await multistream.accept(stream, self.protocols(), on_unknown=refuse)
        except CocoonError as error:
            self._switch.counters["negotiation_failed"] += 1
            logger.debug("stream of %s: %s", link.peer, error)
            if isinstance(error, RemoteProtocolError):
                self._switch.report(link.peer, "malformed")
            elif error.code == "TIMEOUT" and not link.connection.is_over:
                self._switch.report(link.peer, "idle_streams")
            return None

    async def _hold_refusal(self, peer: PeerId) -> None:
        """Before a stream for a protocol that we do not speak is answered: a peer that asks for many waits for it.

        Raises TransportError when too many of its streams wait already.
        """
        if self._switch.gate.allows_refusal(peer, trio.current_time()):
            return
        self._switch.counters["stream_refused_unknown_protocols"] += 1
        if self._refusals_held[peer] >= REFUSED_STREAMS_HELD_MAX:
            raise TransportError(f"{peer} asks for too many protocols", outcome_known=True, code="RATE")
        self._refusals_held[peer] += 1
        try:
            await trio.sleep(REFUSED_STREAM_WAIT_S)
        finally:
            self._refusals_held[peer] -= 1
            if not self._refusals_held[peer]:
                del self._refusals_held[peer]


async def _has_died(link: Link, error: TransportError) -> bool:
    """Whether the connection, and not just a stream of it, is gone."""
    if error.code in ("DISCONNECTED", "CUT_OFF"):
        with trio.move_on_after(DEATH_NOTICE_S):
            await link.ended.wait()
    return link.ended.is_set()
