"""Asking another peer of the DHT: over one idle stream a peer where there is one, over a new one otherwise."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import DHT_STREAM_IDLE_S
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.dht.messages import read_message, send_message
from cocoon_p2p.net.dht.table import RoutingTable
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.yamux.stream import MuxStream

logger = logging.getLogger("cocoon_p2p.net")


class Rpc:
    """Knows which connections it made itself: nobody else may need them."""

    def __init__(self, switch: Switch, streams: Streams, table: RoutingTable, protocol: str) -> None:
        self._switch = switch
        self._streams = streams
        self._table = table
        self._protocol = protocol
        self._pool: dict[PeerId, tuple[MuxStream, float]] = {}
        """The idle stream of a peer, and since when it is idle."""
        self.made: dict[PeerId, float] = {}
        """Peers that were connected to be asked, and when they were asked last."""
        switch.on_peer_gone.append(self._forget)

    async def ask(self, peer: PeerId, *requests: Message, addresses: Sequence[Address] = ()) -> Message:
        """Send requests, and return the answer to the last. `addresses` are tried beside those of the address book when the
        peer is not connected. Raises CocoonError.

        A stream that was used before saves its opening, which costs three times as much as the question; the peer may
        have closed it in the meantime, and then a new one is opened.
        """
        # SPEC kad/1 §3.1
        if peer in self.made:
            self.made[peer] = trio.current_time()
        pooled, _ = self._pool.pop(peer, (None, 0.0))
        if pooled is not None:
            try:
                return await self._ask_on(pooled, requests)
            except TransportError:
                pass
        if self._switch.link(peer) is None:
            await self._switch.connect(peer, [str(address) for address in addresses])
            self.made[peer] = trio.current_time()
        return await self._ask_on(await self._streams.open_raw(peer, self._protocol), requests)

    async def _ask_on(self, stream: MuxStream, requests: Sequence[Message]) -> Message:
        answered = False
        try:
            for request in requests:
                await send_message(stream, request)
            for _ in requests:
                answer = await read_message(stream)
                if answer.type == requests[-1].type:
                    answered = stream.peer not in self._pool
                    self._table.seen(stream.peer, trio.current_time())
                    return answer
            raise RemoteProtocolError("kad: an answer to another request", code="MALFORMED")
        finally:
            if answered:
                self._pool[stream.peer] = stream, trio.current_time()
            else:
                stream.close_soon()

    def note_failure(self, peer: PeerId, error: CocoonError) -> None:
        """Who cannot be reached leaves the table; who is only slow stays; who breaks the protocol loses standing."""
        self._switch.counters["dht_rpc_failed"] += 1
        if isinstance(error, RemoteProtocolError):
            self._switch.report(peer, "malformed")
        if self._switch.link(peer) is None:
            self._table.remove(peer)
        logger.debug("kad with %s: %s", peer, error)

    def close_idle(self, now: float) -> None:
        """Streams that were not used for DHT_STREAM_IDLE_S."""
        for peer, (stream, since) in list(self._pool.items()):
            if now - since >= DHT_STREAM_IDLE_S:
                del self._pool[peer]
                stream.close_soon()

    def _forget(self, peer: PeerId) -> None:
        self._pool.pop(peer, None)
        self.made.pop(peer, None)
