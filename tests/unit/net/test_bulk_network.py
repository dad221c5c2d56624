"""Data sockets between whole networks: on the listening port, beside libp2p, and what strangers get there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import pytest
import trio
from bulk_pair import Path, pipe_of, until
from net_nodes import assert_serves, ends, open_node, port_of, raw_pipe, raw_socket

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import BulkFrame, Stream
from cocoon_p2p.net.rates import Rate
from cocoon_p2p.testing.net_contract import ECHO, echo

BULK, PIECE_BYTES, PIECES = "/test/bulk/1", 1_000_000, 20


def piece(number: int) -> BulkFrame:
    return BulkFrame(b"head", number.to_bytes(4) * (PIECE_BYTES // 4), b"tail", sealed=True)


async def send_pieces(stream: Stream) -> None:
    stream.expect_bulk(PIECES * PIECE_BYTES)
    for number in range(PIECES):
        await stream.send(piece(number))


async def receive_pieces(stream: Stream) -> None:
    for number in range(PIECES):
        assert await stream.receive() == b"".join(piece(number)[:3])


@asynccontextmanager
async def two_nodes(network_key: bytes | None = None) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """The second, which listens nowhere, has dialled the first."""
    async with (
        open_node(1, network_key=network_key) as first,
        open_node(2, listen=(), network_key=network_key) as second,
    ):
        await second.connect(first.peer_id, first.addresses())
        yield first, second


@asynccontextmanager
async def with_path(network: Libp2pNetwork, path: Path) -> AsyncIterator[str]:
    """An address from which all connections pass through `path` to the network."""
    async with trio.open_nursery() as nursery:
        (front,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(path.carry, port_of(network)), [front])
        yield f"/ip4/127.0.0.1/tcp/{front.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("network_key", [None, bytes(range(32))], ids=["public", "private"])
@pytest.mark.parametrize("sender", ["dialler", "listener"])
async def test_bulk_goes_by_data_socket_whoever_dialled(sender: str, network_key: bytes | None) -> None:
    async def serve(stream: Stream) -> None:
        await (receive_pieces(stream) if sender == "dialler" else send_pieces(stream))
        await stream.send(b"done")

    async with two_nodes(network_key) as (first, second):
        first.set_handler(BULK, serve)
        for _ in range(2):  # by the second time the socket is there
            stream = await second.open_stream(first.peer_id, BULK)
            await (send_pieces(stream) if sender == "dialler" else receive_pieces(stream))
            assert await stream.receive() == b"done"
            with pytest.raises(EndOfStream):
                await stream.receive()
            await stream.aclose()
        assert (second if sender == "dialler" else first).counters()["data_socket_opened"] == 1
        (there,), (here,) = first.peers(), second.peers()
        sent, received = (here, there) if sender == "dialler" else (there, here)
        assert sent.bytes_sent > 2 * PIECES * PIECE_BYTES
        assert received.bytes_received > 2 * PIECES * PIECE_BYTES


async def test_what_begins_like_a_data_socket_and_is_none_harms_nobody() -> None:
    async with open_node(1) as network:
        network.set_handler(ECHO, echo)
        async with raw_socket(network) as stream:
            await stream.send_all(b"\x00CCD" + bytes(32))
            with trio.fail_after(1.0):
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some() == b""
        assert network.counters()["data_socket_token_refused"] == 1
        await assert_serves(network)


async def test_strangers_with_tokens_that_are_none_ban_their_subnet() -> None:
    async with open_node(1) as network:
        network.set_handler(ECHO, echo)
        gate = network._switch.gate
        public = gate.limits.of_origins["public"]
        gate.set_limits(
            replace(
                gate.limits,
                of_origins={**gate.limits.of_origins, "loopback": public},
                failures=Rate(0.001, 3.0),
            )
        )
        for number in range(4):
            async with raw_pipe(network, source="127.0.0.66") as pipe:
                await pipe.send_all(b"\x00CCD" + bytes((number,)) * 32)
                await ends(pipe)
        assert network.counters()["data_socket_token_refused"] == 4
        assert network.counters()["subnets_banned"] == 1
        async with raw_pipe(network, source="127.0.0.66") as pipe:
            await ends(pipe)
        assert network.counters()["inbound_refused_banned_subnet"] == 1
        await assert_serves(network)  # from another address


@asynccontextmanager
async def punched(*, listens: bool) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """Two nodes with a connection as hole punching makes it: between two ports where nobody listens. The first is its
    dialler; `listens`: the second said where it listens, on the same machine."""
    async with open_node(1, listen=()) as first, open_node(2) as second:
        if not listens:
            second.announce(["/ip4/127.0.0.99/tcp/9"])
        (door,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = door.socket.getsockname()[1]
        near = pipe_of(await trio.open_tcp_stream("127.0.0.1", port), f"/ip4/127.0.0.1/tcp/{port}")
        far = pipe_of(await door.accept())
        await door.aclose()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(first._switch.take_punched_pipe, near, second.peer_id, as_listener=False))
            nursery.start_soon(partial(second._switch.take_punched_pipe, far, first.peer_id, as_listener=True))
        (here,), (there,) = first._switch.links(), second._switch.links()
        assert here.connection.is_outbound and not there.connection.is_outbound
        await here.identified.wait()
        await there.identified.wait()
        yield first, second


@pytest.mark.parametrize("listens", [True, False], ids=["listens there", "listens nowhere"])
@pytest.mark.parametrize("sender", ["dialler", "listener"])
async def test_beside_a_punched_connection(sender: str, listens: bool) -> None:
    """Nobody listens at the port that it goes to: what is known of the peer's listening is tried, or nothing; what is not
    possible there is no mark against the peer."""

    async def serve(stream: Stream) -> None:
        await receive_pieces(stream)
        await stream.send(b"done")

    async with punched(listens=listens) as (first, second):
        one, two = (first, second) if sender == "dialler" else (second, first)
        two.set_handler(BULK, serve)
        for _ in range(2):
            stream = await one.open_stream(two.peer_id, BULK)
            if listens:
                stream.expect_bulk(PIECES * PIECE_BYTES)
                await until(lambda: one.counters()["data_socket_opened"] == 1)
            await send_pieces(stream)
            assert await stream.receive() == b"done"
            await stream.aclose()
        assert one.counters()["data_socket_opened"] == int(listens)
        assert one.counters()["data_socket_refused"] == 0
        assert not one._data_sockets.is_off(two.peer_id) and not two._data_sockets.is_off(one.peer_id)
        assert one.counters()["data_socket_request_failed"] == (not listens and sender == "listener")


async def test_a_node_that_stops_in_the_middle_is_missed_within_a_second() -> None:
    async def drain(stream: Stream) -> None:
        while True:
            await stream.receive()

    async with open_node(1) as first:
        first.set_handler(BULK, drain)
        sending = trio.Event()

        async def send(second: Libp2pNetwork) -> None:
            stream = await second.open_stream(first.peer_id, BULK)
            stream.expect_bulk(BULK_BYTES_MIN)
            await until(lambda: second.counters()["data_socket_opened"] == 1)
            while True:
                await stream.send(piece(1))
                sending.set()

        before = first.counters()["handler_disconnected"]
        async with open_node(2, listen=()) as second:
            await second.connect(first.peer_id, first.addresses())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, second)
                await sending.wait()
                nursery.cancel_scope.cancel()
        with trio.fail_after(1.0):
            await until(lambda: first.counters()["handler_disconnected"] > before)
        await until(lambda: not first._data_sockets._sidecars)


async def test_a_path_that_breaks_data_sockets_alone_leaves_the_stream() -> None:
    """A firewall that lets one connection through: the transfer fails once, and the retry goes over the stream."""
    path = Path()
    total = 0

    def count(data: bytes) -> bytes:
        nonlocal total
        total += len(data)
        return data

    async def serve(stream: Stream) -> None:
        await receive_pieces(stream)
        await stream.send(b"done")

    async with open_node(1) as first, open_node(2, listen=()) as second, with_path(first, path) as address:
        first.set_handler(BULK, serve)
        await second.connect(first.peer_id, [address])
        libp2p = len(path.sockets)
        path.alter = count
        stream = await second.open_stream(first.peer_id, BULK)
        stream.expect_bulk(BULK_BYTES_MIN)
        await until(lambda: second.counters()["data_socket_opened"] == 1)
        with pytest.raises(TransportError):
            for number in range(PIECES):
                await stream.send(piece(number))
                for socket in path.sockets[libp2p:]:
                    await trio.aclose_forcefully(socket)
            await stream.receive()
        again = await second.open_stream(first.peer_id, BULK)
        await send_pieces(again)
        assert await again.receive() == b"done"
        assert second.counters()["data_socket_opened"] == 1
        assert second.counters()["data_socket_broke"] + first.counters()["data_socket_broke"] >= 1
        assert total > PIECES * PIECE_BYTES
        assert len(second.peers()) == 1
