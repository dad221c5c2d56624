"""The port `Network`: everything the rest of the program knows of the network.

Behind it stand `libp2p.py` (TCP, Noise, yamux, Kademlia, gossipsub) and `memory.py` (the same, simulated, on trio's
clock). `cocoon_p2p.testing.net_contract` holds the tests that both pass.

Errors: every method that touches a peer raises `TransportError` and nothing else of the network; a peer that breaks the
framing raises `RemoteProtocolError`. `trio.Cancelled` passes through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from cocoon_p2p.ids import PeerId

Bytes = bytes | bytearray | memoryview


class BulkFrame(NamedTuple):
    """A frame in three pieces, so that its large body need not be copied into one: head ‖ body ‖ tail. The network may
    carry the body beside the stream (protocols/data/1); the receiver sees one frame either way."""

    head: Bytes
    body: Bytes
    tail: Bytes
    sealed: bool
    """The body is ciphertext that whoever receives it can check, so it needs no encryption on its way."""

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return len(self.head) + len(self.body) + len(self.tail)


class Stream(Protocol):
    """An ordered, bidirectional stream of frames to one peer.

    A frame is 1 to `limits.FRAME_BYTES_MAX` bytes. On the wire each is preceded by its length (u32, big-endian); the
    length 0 is the end frame, so that a stream that was cut off is told from one that was closed.
    """

    @property
    def peer(self) -> PeerId:
        """The authenticated peer at the other end."""

    @property
    def protocol(self) -> str: ...

    async def send(self, *frames: Bytes | BulkFrame) -> None:
        """Send frames in order, together. Waits while the peer's window is full (back-pressure). Safe to call from
        several tasks: the frames of one call stay together. Raises TransportError(outcome_known=False), and
        LocalProtocolError for a frame that is empty or too long."""

    def expect_bulk(self, payload_bytes: int) -> None:
        """About so many bytes will be sent as BulkFrames: from limits.BULK_BYTES_MIN on the network prepares, in the
        background, to carry their bodies beside the stream. Only a hint: waits for nothing, raises nothing."""

    async def receive(self) -> Bytes:
        """The next frame; `bytes` if it is short, a read-only view if it is long, whose memory is used again when nobody
        holds the view any more. Raises EndOfStream after the peer's end frame, TransportError when the stream was cut
        off, RemoteProtocolError when the announced length is over the bound (the stream is then reset)."""

    def doubt_bulk(self) -> bool:
        """To be asked when sealed content of the last received frame does not open. True: it came beside the stream,
        where anybody on the path could alter it. The peer is then not to blame, and is asked to use the stream for a
        while. False: it came authenticated, and is the peer's own."""

    async def aclose(self) -> None:
        """Send the end frame and close; never raises TransportError. Idempotent."""

    async def reset(self) -> None:
        """Abort both directions at once; the peer's receive() raises TransportError. Idempotent."""


StreamHandler = Callable[[Stream], Awaitable[None]]
"""Runs for the life of one inbound stream. An exception it raises resets this stream and harms no other."""

RecordValidator = Callable[[str, bytes], int]
"""(key, value) -> sequence number; of two valid records the higher sequence number wins. Raises RemoteProtocolError for
a record that is not valid under this key. Pure and quick: it runs on every record that passes."""

MessageValidator = Callable[[PeerId, bytes], bool]
"""(author, data) -> whether to accept and forward. An exception counts as False."""


@dataclass(frozen=True, slots=True)
class PeerAddresses:
    """A peer and where it says it can be reached: multiaddrs without the /p2p/ part."""

    peer: PeerId
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ConnectedPeer:
    peer: PeerId
    address: str
    """Multiaddr of the other end of the connection ("" where the transport has none)."""
    direction: Literal["inbound", "outbound"]
    connected_at: float
    """trio.current_time() at connection."""
    agent: str
    """The agent version it told us by identify; "" before that."""
    latency_s: float | None
    """Round-trip time of the last keep-alive ping; None before the first."""
    transport: Literal["tcp", "websocket", "memory"] = "tcp"
    relayed: bool = False
    """Whether a relay carries the connection (it sees its bytes, sealed, and their number)."""
    bytes_received: int = 0
    bytes_sent: int = 0
    """Of all connections to this peer that are open now, on the wire."""
    listens_on: tuple[str, ...] = ()
    """Multiaddrs without /p2p/ at which it said it can be reached, or we reached it; () before identify. They are its
    own words."""


def dialable_at(peer: ConnectedPeer) -> tuple[str, ...]:
    """Where a new connection to a peer could be made: where ours was made to, and what the peer says."""
    worked = (peer.address,) if peer.direction == "outbound" and peer.address else ()
    return tuple(dict.fromkeys((*worked, *peer.listens_on)))


NO_RELAY_YET_HINT = "its node is behind a router and has no relay yet; ask again in a few seconds"
"""For who knows nothing of a peer but addresses of a private network elsewhere."""


@dataclass(frozen=True, slots=True)
class Reachability:
    """Whether others can dial this node, and how it knows."""

    state: Literal["unknown", "reachable", "relayed", "private"]
    """reachable: others dialled us at one of `addresses`. relayed: they cannot, but a relay takes connections for us.
    private: they cannot, and there is no relay; we only dial. unknown: nobody has told us yet."""
    reason: str
    """One sentence: what was seen."""
    advice: str = ""
    """One sentence: what the operator can do for more; "" when there is nothing to be done."""
    addresses: tuple[str, ...] = ()
    """Those that others are told, without /p2p/ at the end."""
    observed: tuple[str, ...] = ()
    """The IP addresses that peers say our connections come from; () while nobody is connected."""
    mapped: tuple[str, ...] = ()
    """Public addresses that a router forwards to us (UPnP)."""
    relays: tuple[PeerId, ...] = ()
    """Relays that hold a reservation for us."""


@dataclass(frozen=True, slots=True)
class PeerConnected:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class PeerDisconnected:
    peer: PeerId


Misbehaviour = Literal["malformed", "overrun", "flood", "bad_signature", "forged_record", "idle_streams"]
"""What a peer did to the network layer: broke a protocol's form; sent more than its window; asked or sent far more than it
may; handed on what is signed wrongly; stored a record under another's name; opened streams and never used them."""


@dataclass(frozen=True, slots=True)
class PeerMisbehaved:
    """An authenticated peer did what an honest one does not. Repetitions within a second may be left out."""

    peer: PeerId
    kind: Misbehaviour


@dataclass(frozen=True, slots=True)
class AddressesChanged:
    """`reachability().addresses` may be others than before: a relay takes connections for us, or this machine has moved."""


NetworkEvent = PeerConnected | PeerDisconnected | PeerMisbehaved | AddressesChanged


class Network(Protocol):
    """One node's view of the network. Made by an async context manager (`open_libp2p`, `MemoryHub.open`) that listens on
    entry and, on exit, closes listeners, connections and streams."""

    @property
    def peer_id(self) -> PeerId: ...

    def addresses(self) -> tuple[str, ...]:
        """The multiaddrs we listen on, without /p2p/, wildcard addresses resolved to the machine's own."""

    async def connect(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Make sure that there is a connection to `peer`. The peer proves its id in the handshake: another identity at
        that address is a TransportError. Raises TransportError (with every address's failure in the message) within
        limits.DIAL_TIMEOUT_S."""

    async def disconnect(self, peer: PeerId) -> None: ...

    async def try_dial(self, peer: PeerId, address: str) -> None:
        """Whether `peer` answers at this one address: a new connection, used by nobody and dropped at once. Raises
        TransportError, within limits.DIAL_TIMEOUT_S."""

    def peers(self) -> tuple[ConnectedPeer, ...]: ...

    async def ping(self, peer: PeerId) -> float:
        """Seconds of one round trip to a peer, connecting first if we know its addresses. Raises TransportError."""

    def ban(self, peer: PeerId, duration_s: float) -> None:
        """Drop the peer's connections and refuse new ones for so long."""

    def unban(self, peer: PeerId) -> None:
        """End a ban before its time; nothing happens without one."""

    def slow(self, peer: PeerId, share: float, duration_s: float) -> None:
        """Grant the peer this share (0–1] of the streams and rates that others get, for so long."""

    def keep(self, peer: PeerId) -> None:
        """Somebody asked for this peer by hand: its connections are not closed to make room for others', until it is
        banned."""

    def reachability(self) -> Reachability:
        """Whether others can dial us, as far as we know now."""

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[NetworkEvent]]:
        """Subscribe to what happens from now on. A subscriber that does not keep up loses the oldest events beyond
        limits.NET_EVENTS_QUEUE_MAX."""

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """A new stream to a connected peer (connecting first if we know its addresses). Raises TransportError: not
        connected, protocol unknown to the peer, too many streams."""

    def set_handler(self, protocol: str, handler: StreamHandler) -> None:
        """Serve `protocol` ("/cocoon/job/1"). One handler a protocol; set before or after listening."""

    async def dht_put(self, key: str, value: bytes) -> None:
        """Store a record at the peers nearest to its key. The key is ASCII, "/<namespace>/<rest>", and the namespace has
        a validator. Raises TransportError when nobody took it (the record is then kept locally)."""

    async def dht_get(self, key: str) -> bytes | None:
        """The valid record with the highest sequence number that a lookup of at most limits.DHT_LOOKUP_TIMEOUT_S finds
        (asking the network first, not the local copy), or None."""

    async def provide(self, content_id: bytes) -> None:
        """Tell the DHT that this node provides `content_id` (32 bytes)."""

    async def find_providers(self, content_id: bytes, count: int) -> tuple[PeerAddresses, ...]:
        """Up to `count` peers that said so, this node never among them, each once: hints, to be confirmed by asking."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip `data`; nothing is promised. Raises LocalProtocolError above limits.GOSSIP_MESSAGE_BYTES_MAX."""

    def subscribe(
        self, topic: str, validator: MessageValidator
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[PeerId, bytes]]]:
        """(author, data) of each accepted message of others, not our own."""

    def counters(self) -> Mapping[str, int]:
        """What was dropped, refused or swallowed, by a name like "handler_failed" or "gossip_rejected"."""
