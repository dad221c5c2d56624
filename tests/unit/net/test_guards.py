"""What one connection does, or has done to it, ends that connection and not the node."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from net_nodes import assert_serves, ends, open_node, polled, raw_pipe, raw_socket, seed_of

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.switch.streams import Streams
from cocoon_p2p.net.switch.switch import Link
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.pipe import Pipe
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import ECHO, echo

HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def http_server() -> AsyncIterator[str]:
    """Its address. Answers whatever comes."""

    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(HTTP)
        await stream.receive_some()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        yield f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def test_two_connections_of_a_banned_peer_at_once() -> None:
    async with open_node(1) as server, open_node(2) as client, raw_pipe(server) as one, raw_pipe(server) as other:
        server.set_handler(ECHO, echo)
        server.ban(client.peer_id, 60)
        upgrader = Upgrader.from_seed(client.peer_id, seed_of(2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrader.outbound, one, server.peer_id)
            nursery.start_soon(upgrader.outbound, other, server.peer_id)
        await ends(one)
        await ends(other)
        assert server.counters()["connection_refused_banned"] == 2
        assert server._switch.link(client.peer_id) is None
        await polled(lambda: not any(server._switch.gate.places().values()))
        await assert_serves(server)
        assert server.counters()["inbound_failed"] == 0


async def test_a_failing_handshake_harms_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: Upgrader, pipe: Pipe) -> MuxedConnection:
        raise KeyError("a bug in the handshake")

    async with open_node(1) as server:
        server.set_handler(ECHO, echo)
        with monkeypatch.context() as patched:
            patched.setattr(Upgrader, "inbound", fail)
            async with raw_pipe(server) as pipe:
                await pipe.send_all(b"\x13")
                await ends(pipe)
        await assert_serves(server)
        assert server.counters()["inbound_failed"] == 1
    assert "a bug in the handshake" in caplog.text


async def test_a_failing_farewell_harms_nothing() -> None:
    def fail(peer: PeerId) -> None:
        raise KeyError(peer)

    async with open_node(1) as server:
        server.set_handler(ECHO, echo)
        server._switch.on_peer_gone.insert(0, fail)
        await assert_serves(server, 8)
        await polled(lambda: server.counters()["peer_gone_failed"] == 1)
        await assert_serves(server, 9)


async def test_a_stream_that_cannot_be_served_harms_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        link = client._switch.link(server.peer_id)
        assert link is not None
        await link.identified.wait()
        serve = Streams._serve

        async def fail(self: Streams, link: Link, stream: MuxStream) -> None:
            if self is server._streams:
                raise KeyError("a bug in the serving of streams")
            await serve(self, link, stream)

        with monkeypatch.context() as patched:
            patched.setattr(Streams, "_serve", fail)
            with pytest.raises(TransportError):
                await client.open_stream(server.peer_id, ECHO)
        assert server.counters()["stream_failed"] >= 1
        await assert_serves(server)


@pytest.mark.parametrize(
    "garbage", [b"POST / HTTP/1.1\r\nHost: node.example\r\n" + b"x" * 200, b"\xff" * 40, b"\x01\n"]
)
async def test_a_client_that_speaks_something_else(garbage: bytes) -> None:
    async with open_node(1) as server, raw_socket(server) as stream:
        server.set_handler(ECHO, echo)
        await stream.send_all(garbage)
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # closed with bytes of ours unread
        await polled(lambda: server.counters()["handshake_failed"] == 1)
        await assert_serves(server)


async def test_a_server_that_speaks_something_else_is_a_transport_error() -> None:
    async with http_server() as address, open_node(1) as server, open_node(2) as client:
        with pytest.raises(TransportError, match="does not speak multistream-select"):
            await client.connect(server.peer_id, [address])
        await client.connect(server.peer_id, [address, *server.addresses()])


async def test_a_bootstrap_address_that_speaks_something_else() -> None:
    async with http_server() as address, open_node(1) as server:
        server.set_handler(ECHO, echo)
        async with open_node(2, bootstrap=[f"{address}/p2p/{server.peer_id}"]) as client:
            client.set_handler(ECHO, echo)
            await polled(lambda: client.counters()["bootstrap_failed"] == 1)
            await assert_serves(client)
