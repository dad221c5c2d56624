"""Data sockets between whole networks: on the listening port, beside libp2p, and what strangers get there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import pytest
import trio
from bulk_pair import Path, until
from net_nodes import assert_serves, open_node, port_of, raw_socket

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import BulkFrame, Stream
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
async def two_nodes() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """The second, which listens nowhere, has dialled the first."""
    async with open_node(1) as first, open_node(2, listen=()) as second:
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


@pytest.mark.parametrize("sender", ["dialler", "listener"])
async def test_bulk_goes_by_data_socket_whoever_dialled(sender: str) -> None:
    async def serve(stream: Stream) -> None:
        await (receive_pieces(stream) if sender == "dialler" else send_pieces(stream))
        await stream.send(b"done")

    async with two_nodes() as (first, second):
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
