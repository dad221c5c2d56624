"""Networks on loopback for the tests of this folder."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.testing.net_contract import ECHO, PATIENCE_S, VALIDATORS


def seed_of(number: int) -> bytes:
    return hashlib.sha256(b"test node %d" % number).digest()


@asynccontextmanager
async def open_node(
    number: int,
    *,
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    bootstrap: Sequence[str] = (),
    dht_server: bool = True,
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
