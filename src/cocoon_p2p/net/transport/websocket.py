"""WebSocket (RFC 6455) as a pipe: for browsers, and for networks that let nothing but HTTP through.

As js-libp2p's @libp2p/websockets has it: path "/", no subprotocol, binary messages whose boundaries mean nothing. Without
extensions, so that nothing is inflated.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import WEBSOCKET_FRAMES_BURST, WEBSOCKET_FRAMES_PER_S, WEBSOCKET_HEAD_BYTES_MAX
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.rates import Pace
from cocoon_p2p.net.transport.coded import CodedPipe
from cocoon_p2p.net.transport.pipe import Pipe

_READ_BYTES = 64 * 1024
_HEAD_READ_BYTES = 1024
_EVENTS_AT_ONCE = 256
"""Frames may be as short as two bytes, and each takes some 10 µs: so many before other tasks run."""
_NORMAL = 1000
_UNSUPPORTED = 1003  # both RFC 6455 §7.4.1


class WebSocketPipe(CodedPipe):
    """What `accept_websocket` and `connect_websocket` return. `connection` is through with its handshake.

    Messages may be of any length: their bytes are handed on as they come, and none are gathered here.
    """

    def __init__(self, below: Pipe, address: str, connection: WSConnection) -> None:
        super().__init__(below, address)
        self.transport = "websocket"
        self._connection = connection
        self._frames = Pace(WEBSOCKET_FRAMES_PER_S, WEBSOCKET_FRAMES_BURST, trio.current_time())
        self._room = memoryview(bytearray(_READ_BYTES))
        self._received = memoryview(b"")
        self._ended = False
        self._sending = False
        self._answer = b""
        """The last pong or close that could not go out yet; RFC 6455 §5.5.3 lets a newer pong replace an older one."""

    def __repr__(self) -> str:
        return f"<WebSocketPipe {self.address}>"

    async def receive_into(self, buffer: memoryview) -> int:
        while not self._received and not self._ended:
            if wait_s := self._frames.wait_s(trio.current_time()):
                await trio.sleep(wait_s)  # and its sender with us
            elif self._take_in() == _EVENTS_AT_ONCE:
                await trio.lowlevel.checkpoint()
            elif not self._received and not self._ended:
                size = await self._below.receive_into(self._room)
                self._ended = not size
                self._connection.receive_data(bytes(self._room[:size]))
        size = min(len(self._received), len(buffer))
        buffer[:size] = self._received[:size]
        self._received = self._received[size:]
        return size

    async def send_all(self, data: Bytes) -> None:
        self._sending = True
        try:
            await super().send_all(data)
        finally:
            self._sending = False

    def abort(self) -> None:
        """With a Close frame, if the system takes it at once."""
        if self._connection.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
            with suppress(TransportError):  # it may be broken already
                self._reply(CloseConnection(code=_NORMAL))
        super().abort()

    def _encode(self, data: Bytes) -> bytes:
        if self._connection.state is not ConnectionState.OPEN:
            raise TransportError("the other end closed the WebSocket", outcome_known=False, code="DISCONNECTED")
        answer, self._answer = self._answer, b""
        return answer + self._connection.send(BytesMessage(data=bytes(data)))

    def _take_in(self) -> int:
        """Some of what has come: how many frames. Raises TransportError."""
        pieces: list[bytes | bytearray] = []
        count = 0
        for event in islice(self._connection.events(), _EVENTS_AT_ONCE):
            count += 1
            if isinstance(event, BytesMessage):
                pieces.append(event.data)
            elif isinstance(event, Ping):
                self._reply(event.response())
            elif isinstance(event, CloseConnection):
                self._ended = True
            elif isinstance(event, TextMessage):
                self._reply(CloseConnection(code=_UNSUPPORTED))
                raise TransportError("text in a WebSocket of libp2p", outcome_known=False, code="WEBSOCKET")
        self._received = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self._frames.spend(trio.current_time(), count)
        return count

    def _reply(self, event: Event) -> None:
        """At once when nobody is in the middle of a frame, else before the next one. The reader never waits to write."""
        self._answer = bytes(self._connection.send(event))
        if not self._sending and not self._ahead:
            data, self._answer = self._lead + self._answer, b""
            self._lead = data[self._below.send_now(data) :]


async def accept_websocket(below: Pipe) -> WebSocketPipe:
    """The listening end. A client that asks for something else gets an HTTP error. The caller sets the deadline and, when
    this raises TransportError, aborts the pipe."""
    connection = WSConnection(ConnectionType.SERVER)
    try:
        await _shake_hands(below, connection, Request)
    except TransportError as error:
        if isinstance(error.__cause__, RemoteProtocolError) and error.__cause__.event_hint is not None:
            await below.send_all(connection.send(error.__cause__.event_hint))
        raise
    await below.send_all(connection.send(AcceptConnection()))
    return WebSocketPipe(below, f"{below.address}/ws", connection)


async def connect_websocket(below: Pipe, address: str, host: str) -> WebSocketPipe:
    """The dialling end; `host` is what the Host header says. The caller sets the deadline and, when this raises
    TransportError, aborts the pipe."""
    connection = WSConnection(ConnectionType.CLIENT)
    await below.send_all(connection.send(Request(host=host, target="/")))
    await _shake_hands(below, connection, AcceptConnection)
    return WebSocketPipe(below, address, connection)


async def _shake_hands(below: Pipe, connection: WSConnection, wanted: type[Event]) -> None:
    """Until the other end has said its part of the HTTP. Raises TransportError."""
    room = memoryview(bytearray(_HEAD_READ_BYTES))
    received = 0
    while received < WEBSOCKET_HEAD_BYTES_MAX:
        size = await below.receive_into(room)
        if not size:
            raise _refused("the connection was closed in the handshake")
        received += size
        try:
            connection.receive_data(bytes(room[:size]))
            event = next(connection.events(), None)
        except (RemoteProtocolError, LocalProtocolError, ValueError) as error:
            raise _refused("no WebSocket handshake") from error
        if isinstance(event, wanted):
            return
        if isinstance(event, RejectConnection):
            raise _refused(f"the server answered {event.status_code}")
    raise _refused(f"more than {WEBSOCKET_HEAD_BYTES_MAX} bytes of HTTP headers")


def _refused(text: str) -> TransportError:
    return TransportError(f"WebSocket: {text}", outcome_known=True, code="WEBSOCKET")
