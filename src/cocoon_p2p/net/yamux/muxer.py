"""py-libp2p's yamux with what can be mended from outside: keep-alive, bounded buffers, data that survives the end of the
connection, writers that may wait, and reads and writes that can be cancelled.

Symptoms and tests of each cure stand in libp2p_cures.py.
"""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.stream_muxer.yamux import yamux as library

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import KEEPALIVE_INTERVAL_S, KEEPALIVE_MISSES_MAX, STREAM_WINDOW_BYTES_MAX, STREAMS_PER_PEER_MAX
from cocoon_p2p.net.supervisor import foreign_errors

library.MAX_WINDOW_SIZE = STREAM_WINDOW_BYTES_MAX  # a data frame that announces more ends the connection

_WINDOW_POLL_S = 0.005
"""The library has no event for a window that opens; it polls itself, at 10 ms."""
_PIECE_BYTES = 65519 - library.HEADER_SIZE
"""With its header exactly one Noise message, hence one write, which cancellation cannot cut in two. The library's own
frames are 17 bytes longer, and their second message costs as much as the first."""
_GOODBYE_S = 0.25
_LINGER_S = 5.0
"""How long a stream that we closed waits for the peer's end before it is reset."""
_HEADER = struct.Struct(library.YAMUX_HEADER_FORMAT)


class Socket(Protocol):
    @property
    def address(self) -> str: ...

    async def close(self) -> None: ...


class _BoundedBuffer(bytearray):
    """The receive buffer of one stream. The library logs a peer that overruns its window and takes the bytes all the
    same; the exception makes it close that stream's reading side instead, so at most this much is held."""

    def extend(self, data: bytes) -> None:  # type: ignore[override]
        if len(self) + len(data) > STREAM_WINDOW_BYTES_MAX:
            raise MuxedStreamError("the peer ignores the window")
        super().extend(data)


class _Buffers(dict[int, bytearray]):
    """The library puts a plain bytearray for each new stream."""

    def __setitem__(self, stream_id: int, buffer: bytearray) -> None:
        super().__setitem__(stream_id, _BoundedBuffer(buffer))


class _Yamux(library.Yamux):  # type: ignore[misc]
    """Keep-alive instead of an RTT measurement that ignores silence."""

    def __init__(self, secured: ISecureConn, peer: ID, on_silence: Callable[[], None]) -> None:
        super().__init__(secured, peer, is_initiator=secured.is_initiator)
        self.stream_buffers = _Buffers()
        self._on_silence = on_silence
        self.last_round_trip_s: float | None = None

    async def _measure_rtt_loop(self) -> None:
        """Started by the library beside its reader; pings as often as keep-alive needs, the first time at once."""
        misses = 0
        while misses < KEEPALIVE_MISSES_MAX:
            started = trio.current_time()
            try:
                answered = await self._ping(KEEPALIVE_INTERVAL_S)
            except TransportError:
                return  # it is closed; the reader sees that too
            if answered:
                misses = 0
                self.last_round_trip_s = trio.current_time() - started
                await trio.sleep(KEEPALIVE_INTERVAL_S)
            else:
                misses += 1
        self._on_silence()

    async def _ping(self, timeout_s: float) -> bool:
        """False when no answer came, or when not even the ping could be written."""
        with trio.move_on_after(timeout_s) as scope:
            self._ping_id: int = (self._ping_id + 1) & 0xFFFFFFFF
            self._ping_event = trio.Event()
            self._ping_sent_time = trio.current_time()
            header = _HEADER.pack(0, library.TYPE_PING, library.FLAG_SYN, 0, self._ping_id)
            with foreign_errors("ping", outcome_known=True):
                await self._write_frame(header)
            await self._ping_event.wait()
        return not scope.cancelled_caught

    def wake_all(self) -> None:
        """Let every reader and writer of this connection see that it is over. The library does so on most, not all, ways
        out, and forgets the buffers; those that were handed out live on in their streams."""
        self.event_shutting_down.set()
        for stream in self.streams.values():
            stream.closed = stream.send_closed = stream.recv_closed = True
            if stream.stream_id in self.stream_events:
                self.stream_events[stream.stream_id].set()


class MuxedConnection:
    """One authenticated connection and its streams. `run` must run as long as it is used."""

    def __init__(self, secured: ISecureConn, peer: PeerId, socket: Socket) -> None:
        self.peer = peer
        self.address = socket.address
        self.is_outbound: bool = secured.is_initiator
        self._ended = False
        self.streams_inbound = 0
        self.streams_outbound = 0
        self._socket = socket
        self._nursery: trio.Nursery | None = None
        self._silent = trio.Event()
        self._yamux = _Yamux(secured, ID(peer_id_to_bytes(peer)), self._silent.set)

    @property
    def latency_s(self) -> float | None:
        return self._yamux.last_round_trip_s

    @property
    def is_over(self) -> bool:
        """No stream can be opened any more."""
        return self._ended or self._yamux.event_shutting_down.is_set()

    async def run(self, on_stream: Callable[[MuxStream], None]) -> None:
        """Until either side closes, the peer falls silent, or we are cancelled. Calls `on_stream` for each inbound stream.

        Raises TransportError when the library failed in another way than by the connection's end.
        """
        try:
            with foreign_errors("connection", outcome_known=False):
                async with trio.open_nursery() as nursery:
                    self._nursery = nursery
                    nursery.start_soon(self._accept, on_stream)
                    nursery.start_soon(self._abort_when_silent)
                    try:
                        await self._yamux.start()
                    finally:
                        self._nursery = None  # before it closes: a task that ends now must not start another in it
                    nursery.cancel_scope.cancel()
        finally:
            we_end_it = not self.is_over
            self._ended = True
            self._yamux.wake_all()
            with trio.CancelScope(shield=True):
                try:
                    if we_end_it:
                        await self._say_goodbye()
                finally:
                    await self._socket.close()

    async def open_stream(self) -> MuxStream:
        """Raises TransportError, with code TOO_MANY_STREAMS at the cap: the library would wait in silence at 256."""
        if self.streams_outbound >= STREAMS_PER_PEER_MAX:
            raise TransportError(
                f"{self.streams_outbound} streams to {self.peer} are open already",
                outcome_known=True,
                code="TOO_MANY_STREAMS",
            )
        if self.is_over:
            raise TransportError(f"the connection to {self.peer} is closed", outcome_known=True, code="DISCONNECTED")
        stream = None
        self.streams_outbound += 1
        try:
            with foreign_errors(f"stream to {self.peer}", outcome_known=True, code="DISCONNECTED"):
                await self._yamux.event_started.wait()
                stream = MuxStream(self, self._yamux, await self._yamux.open_stream(), inbound=False)
                return stream
        finally:
            if stream is None:
                self.streams_outbound -= 1

    async def abort(self) -> None:
        """Close the socket at once; `run` then returns."""
        self._ended = True
        await self._socket.close()

    def forget(self, stream: MuxStream) -> None:
        """A stream of ours is over."""
        if stream.inbound:
            self.streams_inbound -= 1
        else:
            self.streams_outbound -= 1

    def in_background(self, stream: MuxStream, operation: Callable[[], Awaitable[None]]) -> None:
        """Run `operation`, the last one of a stream of this connection."""
        if self._nursery is not None:
            self._nursery.start_soon(operation)
        else:
            stream.release()

    async def _accept(self, on_stream: Callable[[MuxStream], None]) -> None:
        while True:
            try:
                stream = await self._yamux.accept_stream()
            except MuxedConnUnavailable:
                return
            if self.streams_inbound >= STREAMS_PER_PEER_MAX or stream.stream_id not in self._yamux.stream_buffers:
                with foreign_errors("reset", outcome_known=True):
                    await stream.reset()
            else:
                self.streams_inbound += 1
                on_stream(MuxStream(self, self._yamux, stream, inbound=True))

    async def _abort_when_silent(self) -> None:
        await self._silent.wait()
        await self.abort()

    async def _say_goodbye(self) -> None:
        header = _HEADER.pack(0, library.TYPE_GO_AWAY, 0, 0, library.GO_AWAY_NORMAL)
        with trio.move_on_after(_GOODBYE_S):
            with suppress(IOException, RawConnError):  # it may be closed already
                await self._yamux._write_frame(header)


class MuxStream:
    """A stream of bytes on a connection: framing's ByteStream, and multistream's reader and writer."""

    def __init__(
        self, connection: MuxedConnection, yamux: _Yamux, stream: library.YamuxStream, *, inbound: bool
    ) -> None:
        self.connection = connection
        self.inbound = inbound
        self._yamux = yamux
        self._stream = stream
        self._buffer = yamux.stream_buffers[stream.stream_id]  # ours even when the library forgets it
        self._counted = True
        self._window: int = library.DEFAULT_WINDOW_SIZE
        self._unreported = 0
        self._awaited: trio.Event | None = None

    @property
    def peer(self) -> PeerId:
        return self.connection.peer

    async def read(self, bytes_max: int) -> bytes:
        while not self._buffer:
            if self._stream.reset_received:
                raise self._cut_off()
            if self._stream.recv_closed or self._stream.closed:
                await trio.lowlevel.checkpoint()
                return b""
            await self._wait_for_data()
        data = bytes(self._buffer[:bytes_max])
        del self._buffer[: len(data)]
        with trio.CancelScope(shield=True):  # the data is taken: it must be returned
            await self._give_credit(len(data))
        return data

    async def read_exactly(self, size: int) -> bytes:
        """Raises TransportError when the stream ends before."""
        data = bytearray()
        while len(data) < size:
            piece = await self.read(size - len(data))
            if not piece:
                raise self._cut_off()
            data += piece
        return bytes(data)

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            # Without the library's limit of 5 s: a slow reader is no error.
            while self._stream.send_window <= 0 and not self._stream.send_closed:  # noqa: ASYNC110  (there is no event)
                await trio.sleep(_WINDOW_POLL_S)
            piece = rest[: max(1, min(self._stream.send_window, _PIECE_BYTES))]
            with foreign_errors(f"stream with {self.peer}", outcome_known=False, code="CUT_OFF"):
                await self._stream.write(piece)
            rest = rest[len(piece) :]

    async def close(self) -> None:
        try:
            with foreign_errors("close", outcome_known=False):
                await self._stream.close()
        except TransportError:
            self.release()
        else:
            self.connection.in_background(self, self._drain)

    async def reset(self) -> None:
        try:
            with foreign_errors("reset", outcome_known=False):
                await self._stream.reset()
        except TransportError:
            pass  # the connection is gone, and the stream with it
        finally:
            if self._awaited is not None:  # the library drops the event of a stream that we reset without setting it
                self._awaited.set()
            self.release()

    async def _drain(self) -> None:
        """Discard what still comes on a stream that we closed; reset it when the peer does not end it."""
        with trio.move_on_after(_LINGER_S) as scope, suppress(TransportError):
            while await self.read(STREAM_WINDOW_BYTES_MAX):
                pass
        if scope.cancelled_caught:
            await self.reset()
        self.release()

    def close_soon(self) -> None:
        """`close` without waiting, for where nobody may wait: a peer that takes no data would hold us."""
        self.connection.in_background(self, self.close)

    def reset_soon(self) -> None:
        self.connection.in_background(self, self.reset)

    def release(self) -> None:
        """Give back this stream's place under the cap. Idempotent."""
        if self._counted:
            self._counted = False
            self.connection.forget(self)

    async def _wait_for_data(self) -> None:
        stream_id = self._stream.stream_id
        event = self._yamux.stream_events.get(stream_id)
        if event is None:  # the connection ended and the library dropped the stream
            self._stream.recv_closed = True
            return
        self._awaited = event
        await event.wait()
        if stream_id in self._yamux.stream_events:
            self._yamux.stream_events[stream_id] = trio.Event()

    async def _give_credit(self, size: int) -> None:
        """Let the peer send on. The window doubles while it is read as fast as it fills, so a stream that nobody reads
        holds the initial 256 KiB and one in use up to STREAM_WINDOW_BYTES_MAX."""
        self._unreported += size
        try:
            with foreign_errors("window", outcome_known=False):
                if self._stream.closed:
                    if not self._buffer:
                        await self._yamux._finalize_stream(self._stream, fully_closed=True)
                elif self._unreported >= self._window // 2 and not self._stream.recv_closed:
                    growth = min(self._window, STREAM_WINDOW_BYTES_MAX - self._window)
                    credit = self._unreported + growth
                    self._window += growth
                    self._unreported = 0
                    self._stream.recv_window += credit
                    await self._stream.send_window_update(credit)
        except TransportError:
            pass  # the connection is gone; the next read says so

    def _cut_off(self) -> TransportError:
        return TransportError(f"a stream with {self.peer} was cut off", outcome_known=False, code="CUT_OFF")
