"""yamux on one authenticated connection (https://github.com/hashicorp/yamux/blob/master/spec.md and
https://github.com/libp2p/specs/blob/master/yamux/README.md): its streams, what comes in for them, and its life signs.

Three tasks, whatever the number of streams: one reads and never waits for a write, one writes control frames, one pings.
Data is written by the tasks that have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal, Protocol

import trio

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import (
    CONNECTION_WINDOW_BYTES_MAX,
    KEEPALIVE_DOUBT_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_MISSES_MAX,
    STREAM_LINGER_S,
    STREAMS_PER_PEER_MAX,
    YAMUX_PING_REPLIES_PER_S,
)
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.rates import Pace
from cocoon_p2p.net.yamux.frames import (
    ACK,
    FIN,
    GO_AWAY,
    NORMAL,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    WINDOW_UPDATE,
    FrameReader,
    Piece,
    encode_header,
)
from cocoon_p2p.net.yamux.outbox import Outbox, send_last
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.net.yamux.window import ReceiveWindow, WindowBudget

_GOODBYE_S = 0.25
_STREAM_NUMBER_MAX = 2**32 - 1
_ROUND_TRIPS_REMEMBERED = 6
_ROUND_TRIPS_EARLY, _EARLY_S = 3, 0.1
"""The first ping waits for all that happens when a connection is new; others soon tell better how long the way is."""

Violation = Literal["window_overrun", "too_many_streams", "ping_flood", "reply_flood", "yamux"]


class Pipe(Protocol):
    @property
    def address(self) -> str: ...

    @property
    def transport(self) -> Literal["tcp", "websocket"]: ...

    @property
    def relayed(self) -> bool: ...


class SecureSession(Protocol):
    """What yamux runs on; `net.noise.session.NoiseSession` is one."""

    @property
    def peer(self) -> PeerId: ...

    @property
    def is_initiator(self) -> bool: ...

    @property
    def pipe(self) -> Pipe: ...

    @property
    def bytes_received(self) -> int: ...

    @property
    def bytes_sent(self) -> int: ...

    async def receive(self) -> memoryview:
        """The next bytes; empty at the end. They stay valid as long as they are held."""

    async def send(self, *parts: Bytes) -> None:
        """All of them, in order and together. A cancelled one sends all or nothing, or aborts the session."""

    def abort(self) -> None: ...


class MuxedConnection:
    """One authenticated connection and its streams. `run` must run as long as it is used.

    `budget` is what the windows of all connections of the node may grow by. `on_violation` is called for each thing that
    a peer did which no peer in order does.
    """

    def __init__(
        self,
        session: SecureSession,
        *,
        budget: WindowBudget | None = None,
        on_violation: Callable[[Violation], object] = lambda kind: None,
    ) -> None:
        self.peer = session.peer
        self.address = session.pipe.address
        self.transport = session.pipe.transport
        self.relayed = session.pipe.relayed
        self.is_outbound = session.is_initiator
        self.streams_inbound = 0
        self.streams_outbound = 0
        self.latency_s: float | None = None
        """Seconds that the last ping took; None before the first."""
        self.outbox = Outbox(self._cut_off_flooder)
        self.on_violation = on_violation
        self.send = session.send
        self._session = session
        self._budget = WindowBudget(CONNECTION_WINDOW_BYTES_MAX, budget)
        self._on_stream: Callable[[MuxStream], None] = MuxStream.release
        self._nursery: trio.Nursery | None = None
        self._streams: dict[int, MuxStream] = {}
        self._next_number = 1 if session.is_initiator else 2
        self._lingering: dict[MuxStream, float] = {}
        """Closed by us, with the time at which they are reset, in that order."""
        self._watching = False
        self._ended = False
        self._peer_leaves = False
        self._pong = trio.Event()
        self._ping_number = 0
        self._pinging: trio.CancelScope | None = None
        self._resting: trio.CancelScope | None = None
        self._doubted = False
        self._round_trips: deque[float] = deque(maxlen=_ROUND_TRIPS_REMEMBERED)
        self._replies = Pace(YAMUX_PING_REPLIES_PER_S, YAMUX_PING_REPLIES_PER_S, 0.0)

    def __repr__(self) -> str:
        return f"<connection with {self.peer} at {self.address}>"

    @property
    def pipe(self) -> Pipe:
        """What it runs on: hole punching dials from the port of its socket."""
        return self._session.pipe

    @property
    def is_over(self) -> bool:
        """No stream can be opened any more."""
        return self._ended or self._peer_leaves

    @property
    def bytes_received(self) -> int:
        return self._session.bytes_received

    @property
    def bytes_sent(self) -> int:
        return self._session.bytes_sent

    @property
    def round_trip_s(self) -> float | None:
        """The shortest of the last pings: one that had to queue behind data tells nothing of the way."""
        return min(self._round_trips, default=None)

    # --- its life ----------------------------------------------------------------------------------------------------

    async def run(self, on_stream: Callable[[MuxStream], None]) -> None:
        """Until either side closes, the peer falls silent, or we are cancelled. Calls `on_stream` for each inbound stream.

        Raises RemoteProtocolError when the peer broke the rules.
        """
        self._on_stream = on_stream
        fault: RemoteProtocolError | None = None
        peer_closed = False
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write_control)
                nursery.start_soon(self._keep_alive)
                self._watch_lingering()
                try:
                    await self._read()
                    peer_closed = True
                except RemoteProtocolError as error:
                    fault = error
                finally:
                    self._nursery = None  # before it closes: nothing may be started in it any more
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                try:
                    if not self._ended and not peer_closed:
                        await self._say_goodbye(NORMAL if fault is None else PROTOCOL_ERROR)
                finally:
                    self._end()
        if fault is not None:
            self.on_violation("yamux")
            raise fault

    async def abort(self) -> None:
        """Close at once; `run` then returns."""
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._session.abort()
        for stream in list(self._streams.values()):
            stream.take_reset()
        self._lingering.clear()

    async def _say_goodbye(self, reason: int) -> None:
        self._peer_leaves = True  # nobody opens a stream while we wait
        await send_last(self._session, self.outbox.take() + encode_header(GO_AWAY, 0, 0, reason), _GOODBYE_S)

    async def _write_control(self) -> None:
        try:
            await self.outbox.run(self._session)
        except TransportError:
            self._peer_leaves = True  # what it sent before can still be read; the reader finds the end

    def _cut_off_flooder(self) -> None:
        self.on_violation("reply_flood")
        self._end()

    def doubt(self) -> None:
        """The way there may be gone, this machine having moved: ping now, and wait KEEPALIVE_DOUBT_S for each answer instead
        of KEEPALIVE_INTERVAL_S, until one has come."""
        self._doubted = True
        if self._resting is not None:
            self._resting.cancel()
        if self._pinging is not None:
            self._pinging.deadline = min(self._pinging.deadline, trio.current_time() + self._patience_s())

    def _patience_s(self) -> float:
        return min(KEEPALIVE_DOUBT_S, KEEPALIVE_INTERVAL_S) if self._doubted else KEEPALIVE_INTERVAL_S

    async def _keep_alive(self) -> None:
        """Ping, the first time at once. A peer from which nothing at all came while KEEPALIVE_MISSES_MAX pings should have
        been answered is gone; one that is busy sending may answer late."""
        misses = 0
        while misses < KEEPALIVE_MISSES_MAX:
            heard = self._session.bytes_received
            if await self._ping():
                misses = 0
                early = len(self._round_trips) < _ROUND_TRIPS_EARLY
                with trio.CancelScope() as self._resting:
                    await trio.sleep(min(_EARLY_S, KEEPALIVE_INTERVAL_S) if early else KEEPALIVE_INTERVAL_S)
                self._resting = None
            else:
                misses = misses + 1 if self._session.bytes_received == heard else 0
        self._end()

    async def _ping(self) -> bool:
        """False when no answer came in time."""
        self._ping_number = (self._ping_number + 1) % 2**32
        self._pong = trio.Event()
        started = trio.current_time()
        self.outbox.post(encode_header(PING, SYN, 0, self._ping_number))
        with trio.move_on_after(self._patience_s()) as self._pinging:
            await self._pong.wait()
        answered = not self._pinging.cancelled_caught
        self._pinging = None
        if answered:
            self._doubted = False
            self.latency_s = trio.current_time() - started
            self._round_trips.append(self.latency_s)
        return answered

    # --- streams -----------------------------------------------------------------------------------------------------

    async def open_stream(self) -> MuxStream:
        """A new stream, of which the peer hears with its first data, or soon.

        Raises TransportError, with code TOO_MANY_STREAMS at the cap and DISCONNECTED when there is no connection any more.
        """
        if self.streams_outbound >= STREAMS_PER_PEER_MAX:
            raise TransportError(
                f"{self.streams_outbound} streams to {self.peer} are open already",
                outcome_known=True,
                code="TOO_MANY_STREAMS",
            )
        if self.is_over or self._next_number > _STREAM_NUMBER_MAX:
            raise TransportError(f"the connection to {self.peer} is closed", outcome_known=True, code="DISCONNECTED")
        stream = self._add(self._next_number, inbound=False)
        self._next_number += 2
        self.streams_outbound += 1
        self.outbox.ask(stream)
        return stream

    def stream_ended(self, stream: MuxStream) -> None:
        """Nothing more comes or goes under its number."""
        del self._streams[stream.number]
        self._lingering.pop(stream, None)

    def stream_done(self, stream: MuxStream) -> None:
        """It holds nothing any more: its place under the cap is free."""
        if stream.inbound:
            self.streams_inbound -= 1
        else:
            self.streams_outbound -= 1

    def linger(self, stream: MuxStream) -> None:
        """Reset it unless the peer ends it within STREAM_LINGER_S."""
        if stream not in self._lingering:
            self._lingering[stream] = trio.current_time() + STREAM_LINGER_S
            self._watch_lingering()

    def _watch_lingering(self) -> None:
        """One task while there is something to watch, although most streams go away long before it looks."""
        if self._lingering and not self._watching and self._nursery is not None:
            self._watching = True
            self._nursery.start_soon(self._reset_lingering)

    async def _reset_lingering(self) -> None:
        while self._lingering:
            stream, until = next(iter(self._lingering.items()))
            if until <= trio.current_time():
                stream.reset_soon()
            else:
                await trio.sleep_until(until)
        self._watching = False

    def _add(self, number: int, *, inbound: bool) -> MuxStream:
        window = ReceiveWindow(self._budget, trio.current_time())
        stream = self._streams[number] = MuxStream(self, number, window, inbound=inbound)
        return stream

    # --- what comes in -----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Until the peer closes or the connection breaks. Raises RemoteProtocolError."""
        reader = FrameReader()
        while True:
            try:
                data = await self._session.receive()
            except TransportError:
                return
            if not data:
                return
            for piece in reader.feed(data):
                if self._ended:
                    return
                if piece.kind <= WINDOW_UPDATE:
                    self._take(piece, len(data))
                elif piece.kind == PING:
                    self._take_ping(piece.flags, piece.length)
                else:
                    self._peer_leaves = True

    def _take(self, piece: Piece, pinned_bytes: int) -> None:
        kind, flags, number, length, payload, remaining = piece
        stream = self._streams.get(number)
        if kind == WINDOW_UPDATE or len(payload) + remaining == length:  # not the rest of a frame that began before
            if flags & SYN:
                stream = self._accept(number, stream)
            if stream is None:
                return  # we reset it, and what was on its way comes still
            if kind == WINDOW_UPDATE:
                if length:
                    stream.take_credit(length)
            elif length and not stream.allows(length):
                self.on_violation("window_overrun")
                stream.reset_soon()
                return
        elif stream is None:
            return
        if payload:
            stream.take_data(payload, pinned_bytes)
        if flags & (FIN | RST) and not remaining:
            if flags & RST:
                stream.take_reset()
            else:
                stream.take_end()

    def _accept(self, number: int, known: MuxStream | None) -> MuxStream | None:
        """The new stream, or None if it is refused."""
        if known is not None or not number or number % 2 == self._next_number % 2:
            raise RemoteProtocolError(f"yamux: the peer opens stream {number}, which it can't", code="YAMUX")
        if self.streams_inbound >= STREAMS_PER_PEER_MAX:
            self.on_violation("too_many_streams")
            self.outbox.post(encode_header(WINDOW_UPDATE, RST, number, 0))
            return None
        stream = self._add(number, inbound=True)
        self.streams_inbound += 1
        self.outbox.ask(stream)
        self._on_stream(stream)
        return stream

    def _take_ping(self, flags: int, number: int) -> None:
        if flags & ACK:
            if number == self._ping_number:
                self._pong.set()
        elif self._may_reply():
            self.outbox.post(encode_header(PING, ACK, 0, number))
        else:
            self.on_violation("ping_flood")

    def _may_reply(self) -> bool:
        now = trio.current_time()
        if self._replies.wait_s(now):
            return False
        self._replies.spend(now)
        return True
