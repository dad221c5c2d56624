"""Networks on loopback for the tests of this folder."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.testing.net_contract import ECHO, PATIENCE_S, VALIDATORS


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"test node %d" % number).digest()


def peer_of(number: int) -> PeerId:
    """Of the node that `open_node` makes."""
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number)).public_key()
    return peer_id_from_public_key(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


@asynccontextmanager
async def open_node(
    number: int,
    *,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    bootstrap: Sequence[str] = (),
    dht_server: bool = True,
    network_key: bytes | None = None,
) -> AsyncIterator[Libp2pNetwork]:
    """Whatever hangs fails after PATIENCE_S."""
    with trio.fail_after(PATIENCE_S):
        async with open_libp2p(
            seed_of(number),
            listen=listen,
            agent=f"test/{number}",
            bootstrap=bootstrap,
            validators=VALIDATORS,
            dht_server=dht_server,
            network_key=network_key,
        ) as network:
            yield network


async def polled(condition: Callable[[], bool]) -> None:
    """Wait for what has no event: state inside a node that messages of others change."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


@asynccontextmanager
async def raw_socket(network: Libp2pNetwork) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port_of(network)) as stream:
        yield stream


def port_of(network: Libp2pNetwork) -> int:
    return int(network.addresses()[0].rpartition("/")[2])


async def assert_serves(network: Libp2pNetwork, number: int = 9) -> None:
    """A peer that comes now is served."""
    async with open_node(number) as fresh:
        await fresh.connect(network.peer_id, network.addresses())
        stream = await fresh.open_stream(network.peer_id, ECHO)
        await stream.send(b"there?")
        assert await stream.receive() == b"there?"


@asynccontextmanager
async def raw_pipe(network: Libp2pNetwork, *, source: str = "127.0.0.1") -> AsyncIterator[TcpPipe]:
    """A socket of our own to a node, from another address of this machine if need be."""
    sock = trio.socket.socket()
    try:
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port_of(network)))
    except BaseException:
        sock.close()
        raise
    pipe = TcpPipe(socket.socket(fileno=sock.detach()), network.addresses()[0])
    try:
        yield pipe
    finally:
        pipe.abort()


async def ends(pipe: TcpPipe) -> None:
    """Wait until the other end closes; what it sends before is of no interest."""
    room = memoryview(bytearray(65536))
    with trio.fail_after(PATIENCE_S), suppress(TransportError):
        while await pipe.receive_into(room):
            pass
