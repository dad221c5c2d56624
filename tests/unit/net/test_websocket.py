"""WebSocketPipe against itself, against wsproto driven by hand, and against trio-websocket in both directions."""

from __future__ import annotations

import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_pairs import ScriptedPipe, chunks, handshake, pipes_are_closed, read_exactly, receive_exactly, tcp_pipes
from trio_websocket import WebSocketConnection, WebSocketRequest, open_websocket, serve_websocket
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import WEBSOCKET_HEAD_BYTES_MAX
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.transport.dial import dial
from cocoon_p2p.net.transport.pipe import TcpPipe, finishes_sends
from cocoon_p2p.net.transport.websocket import WebSocketPipe, accept_websocket, connect_websocket

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0
RANDOM = random.Random(11)
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def pair(*, buffer_bytes: int | None = None) -> tuple[WebSocketPipe, WebSocketPipe]:
    """The client's end and the server's."""
    near, far = tcp_pipes(buffer_bytes=buffer_bytes)
    ends: list[WebSocketPipe] = []

    async def accept() -> None:
        ends.append(await accept_websocket(far))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await connect_websocket(near, f"{near.address}/ws", "127.0.0.1:1")
    return client, ends[0]


@pytest.mark.parametrize("size", [1, 125, 126, 65535, 65536, 1_000_000])
async def test_bytes_both_ways(size: int) -> None:
    data = RANDOM.randbytes(size)
    with trio.fail_after(PATIENCE_S):
        client, server = await pair()
        assert client.transport == server.transport == "websocket"
        assert client.address.endswith("/ws") and server.address.endswith("/ws")
        assert finishes_sends(client)
        for sender, receiver in ((client, server), (server, client)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send_all, data)
                assert await read_exactly(receiver, size) == data


async def test_what_send_now_takes_only_in_part_is_gone_on_with() -> None:
    data = RANDOM.randbytes(700_000)
    with trio.fail_after(PATIENCE_S):
        client, server = await pair(buffer_bytes=8192)
        for sender, receiver in ((client, server), (server, client)):
            taken = sender.send_now(data)
            assert 0 < taken < len(data)
            taken += sender.send_now(data[taken:])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send_all, data[taken:])
                assert await read_exactly(receiver, len(data)) == data
            assert sender.send_now(b"next") == 4
            assert await read_exactly(receiver, 4) == b"next"


async def test_noise_through_a_websocket() -> None:
    data = RANDOM.randbytes(3_000_000)
    with trio.fail_after(PATIENCE_S):
        near, far = await handshake(*await pair())
        for sender, receiver in ((near, far), (far, near)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send, data)
                assert await receive_exactly(receiver, len(data)) == data


async def test_a_close_is_the_end_of_the_stream() -> None:
    with trio.fail_after(PATIENCE_S):
        client, server = await pair()
        client.abort()
        client.abort()
        assert await server.receive_into(memoryview(bytearray(10))) == 0
        with pytest.raises(TransportError):
            await server.send_all(b"x")
        server.abort()


# --- by hand ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def by_hand() -> AsyncIterator[tuple[WebSocketPipe, TcpPipe, WSConnection]]:
    """Our server's end, and a client that is driven frame by frame."""
    near, far = tcp_pipes()
    client = WSConnection(ConnectionType.CLIENT)
    await near.send_all(client.send(Request(host="x", target="/")))
    server = await accept_websocket(far)
    await _feed(client, near)
    assert isinstance(next(client.events()), AcceptConnection)
    with trio.fail_after(PATIENCE_S):
        yield server, near, client
    server.abort()


async def _feed(client: WSConnection, pipe: TcpPipe) -> None:
    room = memoryview(bytearray(65536))
    client.receive_data(bytes(room[: await pipe.receive_into(room)]))


async def test_a_ping_is_answered_while_bytes_flow() -> None:
    async with by_hand() as (server, pipe, client):
        await pipe.send_all(client.send(Ping(payload=b"are you there")) + client.send(BytesMessage(data=b"data")))
        assert await read_exactly(server, 4) == b"data"
        await _feed(client, pipe)
        assert list(client.events()) == [Pong(payload=b"are you there")]


async def test_a_pong_waits_for_the_frame_in_progress() -> None:
    near, far = tcp_pipes(buffer_bytes=8192)
    client = WSConnection(ConnectionType.CLIENT)
    await near.send_all(client.send(Request(host="x", target="/")))
    server = await accept_websocket(far)
    await _feed(client, near)
    assert isinstance(next(client.events()), AcceptConnection)
    received = bytearray()
    pongs = []

    async def receive() -> None:
        while len(received) < 1_000_006:
            await _feed(client, near)
            for event in client.events():
                if isinstance(event, BytesMessage):
                    received.extend(event.data)
                else:
                    pongs.append(event)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, b"a" * 1_000_000)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(client.send(Ping(payload=b"1")) + client.send(Ping(payload=b"2")))
            await near.send_all(client.send(BytesMessage(data=b"go on")))
            assert await read_exactly(server, 5) == b"go on"
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            await server.send_all(b"behind")
    assert received == b"a" * 1_000_000 + b"behind"
    assert pongs == [Pong(payload=b"2")], "RFC 6455 §5.5.3: the newest is enough"


async def test_text_is_refused() -> None:
    async with by_hand() as (server, pipe, client):
        await pipe.send_all(client.send(TextMessage(data="hello")))
        with pytest.raises(TransportError, match="text"):
            await server.receive_into(memoryview(bytearray(10)))
        await _feed(client, pipe)
        (event,) = client.events()
        assert isinstance(event, CloseConnection)
        assert event.code == 1003


async def test_a_broken_frame_ends_it() -> None:
    async with by_hand() as (server, pipe, client):
        await pipe.send_all(client.send(BytesMessage(data=b"good")) + b"\x0f\x80")  # an opcode that does not exist
        assert await read_exactly(server, 4) == b"good"
        assert await server.receive_into(memoryview(bytearray(10))) == 0


async def test_a_frame_of_any_announced_length_is_handed_on_as_it_comes() -> None:
    async with by_hand() as (server, pipe, _):
        await pipe.send_all(b"\x82\xff" + (2**60).to_bytes(8) + bytes(4))  # masked with zeros
        for _ in range(10):
            await pipe.send_all(b"x" * 10_000)
            assert await read_exactly(server, 10_000) == b"x" * 10_000


async def test_a_flood_of_tiny_frames_lets_others_run() -> None:
    async with by_hand() as (server, pipe, _):
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                pipe.send_all, b"\x8a\x80\x00\x00\x00\x00" * 20_000 + b"\x82\x81\x00\x00\x00\x00x"
            )  # pongs
            nursery.start_soon(count)
            assert await read_exactly(server, 1) == b"x"
            assert turns > 50
            nursery.cancel_scope.cancel()


@given(st.lists(st.binary(max_size=3000), max_size=5), st.lists(st.integers(1, 500), max_size=20))
@settings(max_examples=30, deadline=None)
def test_messages_arrive_however_the_wire_is_cut(messages: list[bytes], cuts: list[int]) -> None:
    async def main() -> None:
        client = WSConnection(ConnectionType.CLIENT)
        client.send(Request(host="x", target="/"))
        from_server = ScriptedPipe([UPGRADE])
        await accept_websocket(from_server)
        frames = b"".join(_client_frame(message) for message in messages)
        pipe = ScriptedPipe([UPGRADE, *chunks(frames, cuts)])
        server = await accept_websocket(pipe)
        received = bytearray()
        room = memoryview(bytearray(700))
        while size := await server.receive_into(room):
            received += room[:size]
        assert received == b"".join(messages)

    trio.run(main)


def _client_frame(message: bytes) -> bytes:
    length = len(message)
    size = bytes([0x80 | length]) if length < 126 else b"\xfe" + length.to_bytes(2)
    mask = b"\x01\x02\x03\x04"
    return b"\x82" + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(message))


@given(st.lists(st.binary(max_size=100), max_size=10))
@settings(max_examples=60, deadline=None)
def test_garbage_after_the_handshake_is_an_end_or_an_error(pieces: list[bytes]) -> None:
    async def main() -> None:
        server = await accept_websocket(ScriptedPipe([UPGRADE, *pieces]))
        try:
            while await server.receive_into(memoryview(bytearray(100))):
                pass
        except TransportError as error:
            assert error.code == "WEBSOCKET"

    trio.run(main)


# --- the handshake ---------------------------------------------------------------------------------------------------

NO_UPGRADES = {
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n": b"HTTP/1.1 400",
    b"GET /\r\n\r\n": b"HTTP/1.1 400",
    b"\x00\x01\x02\r\n\r\n": b"HTTP/1.1 400",
    UPGRADE.replace(b"Version: 13", b"Version: 12"): b"HTTP/1.1 426",
}


@pytest.mark.parametrize(("request_bytes", "answer"), NO_UPGRADES.items())
async def test_other_requests_get_an_http_error(request_bytes: bytes, answer: bytes) -> None:
    pipe = ScriptedPipe([request_bytes])
    with pytest.raises(TransportError) as caught:
        await accept_websocket(pipe)
    assert caught.value.code == "WEBSOCKET"
    assert pipe.sent.startswith(answer)


async def test_endless_headers_are_refused() -> None:
    near, far = tcp_pipes()

    async def flood() -> None:
        await near.send_all(b"GET / HTTP/1.1\r\n")
        with pytest.raises(TransportError):
            while True:
                await near.send_all(b"X-Header: " + b"y" * 1000 + b"\r\n")

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            with pytest.raises(TransportError, match=str(WEBSOCKET_HEAD_BYTES_MAX)):
                await accept_websocket(far)
            far.abort()


async def test_a_server_that_is_none() -> None:
    for answer, text in (
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no WebSocket"),
        (b"", "closed"),
    ):
        with pytest.raises(TransportError, match=text):
            await connect_websocket(ScriptedPipe([answer]), "/ip4/192.0.2.1/tcp/1/ws", "192.0.2.1:1")


# --- against trio-websocket ------------------------------------------------------------------------------------------


async def test_we_dial_trio_websocket() -> None:
    async def echo(request: WebSocketRequest) -> None:
        assert request.path == "/"
        connection = await request.accept()
        while True:
            await connection.send_message(await connection.get_message())

    data = RANDOM.randbytes(100_000)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, echo, "127.0.0.1", 0, None)
            pipe = await dial(parse_address(f"/ip4/127.0.0.1/tcp/{server.port}/ws"))
            assert pipe.transport == "websocket"
            await pipe.send_all(data)
            assert await read_exactly(pipe, len(data)) == data
            pipe.abort()
            nursery.cancel_scope.cancel()


async def test_trio_websocket_dials_us() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def serve() -> None:
        stream = await listeners[0].accept()
        pipe = await accept_websocket(TcpPipe(_stdlib(stream), "/ip4/127.0.0.1/tcp/1"))
        await pipe.send_all(await read_exactly(pipe, 100_000))
        assert await pipe.receive_into(memoryview(bytearray(1))) == 0
        pipe.abort()

    data = RANDOM.randbytes(100_000)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            connection: WebSocketConnection
            async with open_websocket("127.0.0.1", port, "/", use_ssl=False) as connection:
                await connection.ping(b"hello")
                await connection.send_message(data)
                received = bytearray()
                while len(received) < len(data):
                    message = await connection.get_message()
                    assert isinstance(message, bytes)
                    received += message
                assert received == data
    await listeners[0].aclose()


def _stdlib(stream: trio.SocketStream) -> socket.socket:
    return socket.socket(fileno=stream.socket.detach())
