"""Two nodes' data sockets over real sockets on loopback, beside a connection and streams that are simulated, and a path
between them that can break and alter what passes."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.bulk.lanes import Connection, Lane
from cocoon_p2p.net.bulk.service import DataSockets
from cocoon_p2p.net.framing import FramedStream
from cocoon_p2p.net.memory_streams import Connection as StreamConnection
from cocoon_p2p.net.memory_streams import open_pipe
from cocoon_p2p.net.port import BulkFrame, Bytes
from cocoon_p2p.net.supervisor import run_guarded
from cocoon_p2p.net.transport.pipe import TcpPipe

DIALLER = PeerId("12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP")
LISTENER = PeerId("12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp")
PATIENCE_S = 10.0
BODY_BYTES = 300_000


@dataclass(eq=False)
class FakeConnection:
    peer: PeerId
    is_outbound: bool
    address: str
    transport: Literal["tcp", "websocket"] = "tcp"
    relayed: bool = False


@dataclass(eq=False)
class FakeLink:
    connection: FakeConnection
    ended: trio.Event = field(default_factory=trio.Event)
    is_punched: bool = False


class Control:
    """One end of a control stream."""

    def __init__(self, connection: Connection, stream: trio.StapledStream) -> None:  # type: ignore[type-arg]
        self.connection = connection
        self._stream = stream

    async def read_exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = await self._stream.receive_some(size - len(data))
            except trio.BrokenResourceError as error:
                raise TransportError("reset", outcome_known=True) from error
            if not piece:
                raise TransportError("ended", outcome_known=True)
            data += piece
        return bytes(data)

    async def write(self, *parts: Bytes) -> None:
        await self._stream.send_all(b"".join(parts))

    async def close(self) -> None:
        await self._stream.aclose()

    async def reset(self) -> None:
        await self._stream.aclose()


class Path:
    """What lies between the dialler and the listener's port."""

    def __init__(self) -> None:
        self.alter: Callable[[bytes], bytes] = lambda data: data
        """On everything that the dialler sends."""
        self.alter_back: Callable[[bytes], bytes] = lambda data: data
        self.blocked = False
        self.sockets: list[trio.SocketStream] = []

    async def carry(self, port: int, inner: trio.SocketStream) -> None:
        """Until either side ends."""
        if self.blocked:
            return
        async with inner, await trio.open_tcp_stream("127.0.0.1", port) as outer, trio.open_nursery() as nursery:
            self.sockets += [inner, outer]
            nursery.start_soon(self._copy, inner, outer, "alter", nursery.cancel_scope)
            nursery.start_soon(self._copy, outer, inner, "alter_back", nursery.cancel_scope)

    async def _copy(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        alter: str,
        scope: trio.CancelScope,
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await sink.send_all(getattr(self, alter)(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def cut(self) -> None:
        for stream in self.sockets:
            await trio.aclose_forcefully(stream)


class Node:
    """One side."""

    def __init__(self, pair: Pair, connection: FakeConnection) -> None:
        self.counters: Counter[str] = Counter()
        self.link = FakeLink(connection)
        self.sockets = DataSockets(
            pair.nursery,
            self.counters,
            dial=pair.dial,
            open_control=partial(pair.open_control, self),
        )
        pair.nursery.start_soon(self.sockets.run)
        pair.nursery.start_soon(self.sockets.watch, self.link)

    def lane(self) -> Lane:
        return self.sockets.lane(self.link)

    @property
    def outlets(self) -> list[object]:
        return list(self.sockets.lane(self.link)._sidecar.outlets)

    @property
    def inlets(self) -> list[object]:
        return list(self.sockets.lane(self.link)._sidecar.inlets.values())


class Pair:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.path = Path()
        self.speaks = True
        """Whether the listener knows the protocol."""
        self.front_port = 0
        """Where the path begins."""
        self.behind_port = 0
        """Where the listener listens: to be dialled for a path without anything between."""
        self.dialler = Node(self, FakeConnection(LISTENER, True, "/ip4/127.0.0.1/tcp/1"))
        self.listener = Node(self, FakeConnection(DIALLER, False, "/ip4/127.0.0.1/tcp/2"))
        self.sinks = {id(self.dialler): self.listener, id(self.listener): self.dialler}

    async def dial(self, address: str) -> TcpPipe:
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", self.front_port)
        except OSError as error:
            raise TransportError(str(error), outcome_known=True) from error
        return pipe_of(stream, address)

    async def open_control(self, node: Node, connection: Connection) -> Control:
        if not self.speaks:
            raise TransportError("unknown protocol", outcome_known=True)
        near, far = trio.testing.memory_stream_pair()
        other = self.sinks[id(node)]
        self.nursery.start_soon(self._answer, other, Control(other.link.connection, far))
        return Control(connection, near)

    async def _answer(self, node: Node, stream: Control) -> None:
        await run_guarded("answer", partial(node.sockets.answer, stream), node.counters)
        await stream.close()

    def streams(self, *, with_lanes: bool = True) -> tuple[FramedStream, FramedStream]:
        """The dialler's and the listener's end of a new stream."""
        near = StreamConnection("", True, 0.0)
        near.other = StreamConnection("", False, 0.0, other=near)
        here, there = open_pipe(near, lambda: 0.0, lambda: True)
        lanes = (self.dialler.lane(), self.listener.lane()) if with_lanes else (None, None)
        return (
            FramedStream(LISTENER, "/test/1", here, lane=lanes[0]),
            FramedStream(DIALLER, "/test/1", there, lane=lanes[1]),
        )

    async def ready(self, node: Node, stream: FramedStream) -> None:
        """Have a data socket for what `node` sends."""
        count = len(node.outlets)
        stream.expect_bulk(BULK_BYTES_MIN)
        await until(lambda: len(node.outlets) > count)


def bulk(number: int, *, sealed: bool = True, size: int = BODY_BYTES) -> BulkFrame:
    return BulkFrame(b"head %d" % number, number.to_bytes(4) * (size // 4), b"tail", sealed)


def whole(frame: BulkFrame) -> bytes:
    return b"".join(frame[:3])


def pipe_of(stream: trio.SocketStream, address: str = "/ip4/127.0.0.1/tcp/3") -> TcpPipe:
    return TcpPipe(socket.socket(fileno=stream.socket.detach()), address)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


@asynccontextmanager
async def open_pair() -> AsyncIterator[Pair]:
    with trio.fail_after(2 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            pair = Pair(nursery)
            (behind,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            (front,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            port = pair.behind_port = behind.socket.getsockname()[1]
            pair.front_port = front.socket.getsockname()[1]

            async def take(stream: trio.SocketStream) -> None:
                await pair.listener.sockets.take_pipe(pipe_of(stream))

            nursery.start_soon(trio.serve_listeners, take, [behind])
            nursery.start_soon(trio.serve_listeners, partial(pair.path.carry, port), [front])
            yield pair
            nursery.cancel_scope.cancel()
