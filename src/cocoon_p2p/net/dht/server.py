"""The answering side of the DHT: what others may ask of us, and what we keep for them."""

from __future__ import annotations

from typing import Any

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_FLOOD_PATIENCE_S,
    DHT_PROVIDERS_MAX,
    DHT_REQUESTS_PER_PEER_BURST,
    DHT_REQUESTS_PER_PEER_S,
)
from cocoon_p2p.net.addresses import address_to_bytes, parse_dialable
from cocoon_p2p.net.dht.kademlia import position_of, position_of_peer
from cocoon_p2p.net.dht.lookup import tellable
from cocoon_p2p.net.dht.messages import add_peers, content_id_of, read_message, read_peers, send_message
from cocoon_p2p.net.dht.stores import ProviderStore, RecordStore, Stored
from cocoon_p2p.net.dht.table import RoutingTable
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.port import RecordValidator
from cocoon_p2p.net.rates import Buckets, Rate
from cocoon_p2p.net.supervisor import deadline
from cocoon_p2p.net.switch.origins import origin_of
from cocoon_p2p.net.switch.switch import Switch
from cocoon_p2p.net.yamux.stream import MuxStream

_IDLE_S = 60.0
"""How long a stream of requests may be silent; askers keep theirs open for the next question."""
_SEND_S = 10.0
"""How long an asker may take to read its answer."""


class DhtServer:
    def __init__(self, switch: Switch, table: RoutingTable, validators: dict[str, RecordValidator]) -> None:
        self._switch = switch
        self._table = table
        own = position_of_peer(switch.peer_id)
        self.records = RecordStore(validators, own)
        self.providers = ProviderStore(own)
        self._requests: Buckets[PeerId] = Buckets(Rate(DHT_REQUESTS_PER_PEER_S, DHT_REQUESTS_PER_PEER_BURST))
        self._waited_s: dict[PeerId, float] = {}
        switch.on_peer_gone.append(lambda peer: self._waited_s.pop(peer, None))

    def expire(self, now: float) -> None:
        self.records.expire(now)
        self.providers.expire(now)

    def own_addresses(self) -> list[bytes]:
        return [address_to_bytes(address) for address in parse_dialable(self._switch.announced_addresses())]

    async def serve(self, stream: MuxStream) -> None:
        """Requests of one stream, until the peer ends it. Raises CocoonError: the stream is then reset."""
        peer = stream.peer
        with trio.move_on_after(_IDLE_S) as scope:
            while True:
                try:
                    request = await read_message(stream)
                except TransportError:
                    return  # the usual end: nothing follows the last request
                except RemoteProtocolError:
                    self._switch.report(peer, "malformed")
                    raise
                scope.deadline = float("inf")
                if not await self._take_turn(peer):
                    return
                try:
                    answer = self._answer(peer, request)
                except RemoteProtocolError as error:
                    self._note_fault(peer, error)
                    raise
                if answer is not None:
                    with deadline(_SEND_S, "kad"):
                        await send_message(stream, answer)
                scope.deadline = trio.current_time() + _IDLE_S

    async def _take_turn(self, peer: PeerId) -> bool:
        """All streams of one peer together get so many answers a second; the next question waits, and its writer with it.
        False when the peer has gone meanwhile: what it left in its streams would keep us busy, and their places, for hours."""
        # SPEC kad/1 §6.3
        while not self._requests.take(peer, trio.current_time()):
            self._switch.counters["dht_throttled"] += 1
            pause_s = 1 / DHT_REQUESTS_PER_PEER_S
            await trio.sleep(pause_s)
            if self._switch.link(peer) is None:
                return False
            self._waited_s[peer] = self._waited_s.get(peer, 0.0) + pause_s
            if self._waited_s[peer] >= DHT_FLOOD_PATIENCE_S:
                del self._waited_s[peer]
                self._switch.report(peer, "flood")
        return True

    def _note_fault(self, peer: PeerId, error: RemoteProtocolError) -> None:
        """Clocks that differ, and namespaces that we do not know, are nobody's fault."""
        self._switch.counters["dht_request_invalid"] += 1
        if error.code == "SIGNATURE":
            self._switch.report(peer, "forged_record")
        elif error.code not in ("EXPIRED", "NAMESPACE"):
            self._switch.report(peer, "malformed")

    def _answer(self, peer: PeerId, request: Message) -> Message | None:
        answer = Message(type=request.type, key=request.key)
        match request.type:
            case Message.PUT_VALUE:
                return self._put(peer, request)
            case Message.GET_VALUE:
                value = self.records.get(request.key.decode("ascii", "replace"), trio.current_time())
                if value is not None:
                    answer.record.key, answer.record.value = request.key, value
            case Message.ADD_PROVIDER:
                self._add_provider(peer, request)
                return None
            case Message.GET_PROVIDERS:
                providers = self.providers.get(content_id_of(request.key), trio.current_time())
                add_peers(answer.providerPeers, [p for p in providers if p != self._switch.peer_id], self._switch.book)
                if self._switch.peer_id in providers:
                    self._add_ourselves(answer.providerPeers)
            case Message.FIND_NODE:
                return self._find(peer, request)
            case Message.PING:
                return answer
            case _:
                raise RemoteProtocolError(f"kad: no request of type {request.type}", code="UNKNOWN_TAG")
        nearest = self._table.nearest(position_of(request.key))
        add_peers(answer.closerPeers, [near for near in nearest if near != peer], self._switch.book)
        return answer

    def _find(self, peer: PeerId, request: Message) -> Message:
        """The peer asked for comes first if we know where it is, also one that serves no DHT, also ourselves. go-libp2p
        asks each new peer for itself, and keeps those out of its table that answer with nobody."""
        answer = Message(type=Message.FIND_NODE, key=request.key)
        near = [near for near in self._table.nearest(position_of(request.key)) if near != peer]
        if request.key == peer_id_to_bytes(self._switch.peer_id):
            self._add_ourselves(answer.closerPeers)
        elif (wanted := _peer_id_or_none(request.key)) not in (None, peer) and self._switch.book.get(wanted):
            near = [wanted, *(other for other in near if other != wanted)]
        add_peers(answer.closerPeers, near, self._switch.book)
        return answer

    def _add_ourselves(self, field: Any) -> None:
        entry = field.add()
        entry.id = peer_id_to_bytes(self._switch.peer_id)
        entry.addrs.extend(self.own_addresses())

    def _put(self, peer: PeerId, request: Message) -> Message:
        """The record that we now hold under the key; the writer sees by it whether its own was taken."""
        if request.record.key != request.key or not request.key.isascii():
            raise RemoteProtocolError("kad: the record has another key than the request", code="MALFORMED")
        key, now = request.key.decode("ascii"), trio.current_time()
        stored = self.records.put(key, request.record.value, now, peer)
        if stored is Stored.STALE:
            self._switch.counters["dht_record_stale"] += 1
        elif stored is Stored.NO_ROOM:
            self._switch.counters["dht_record_no_room"] += 1
        answer = Message(type=Message.PUT_VALUE, key=request.key)
        answer.record.key, answer.record.value = request.key, self.records.get(key, now) or b""
        return answer

    def _add_provider(self, peer: PeerId, request: Message) -> None:
        """A peer speaks for itself only."""
        # SPEC kad/1 §5
        content_id = content_id_of(request.key)
        for provider, addresses in read_peers(request.providerPeers, DHT_PROVIDERS_MAX):
            if provider != peer:
                self._switch.counters["dht_provider_of_another"] += 1
            elif self.providers.add(content_id, peer, trio.current_time(), subnet_of(self._switch, peer)):
                ((_, tellable_addresses),) = tellable(self._switch, peer, [(peer, addresses)])
                self._switch.book.add(peer, tellable_addresses)
            else:
                self._switch.counters["dht_provider_no_room"] += 1


def subnet_of(switch: Switch, peer: PeerId) -> str | None:
    """That of a connected peer with a public address; None for all others, of whom there may be many in one net."""
    link = switch.link(peer)
    if link is None:
        return None
    origin = origin_of(link.connection.address)
    return origin.name if origin.kind == "public" else None


def _peer_id_or_none(key: bytes) -> PeerId | None:
    try:
        return peer_id_from_bytes(key)
    except ValueError:
        return None
