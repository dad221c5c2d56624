"""Circuit relay v2 with other makes: at the relay, and at either end."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from foreign import Foreign, OpenForeign, open_json_lines_peer
from interop_nodes import open_node, ping, polled
from makes import HERE, Unavailable, js_peer

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import Stream
from cocoon_p2p.testing.net_contract import ECHO, full_addresses

SIZES = [1, 1000, 100_000]


@pytest.fixture(params=["py", "js"])
def open_relay(request: pytest.FixtureRequest) -> OpenForeign:
    """A peer of another make that can be a relay, and either end of a circuit."""
    if request.param == "py":
        return lambda: open_json_lines_peer([sys.executable, HERE / "py_relay_peer.py"])
    try:
        command = js_peer("relay.mjs")
    except Unavailable as error:
        pytest.skip(str(error))
    return lambda: open_json_lines_peer(command)


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


@asynccontextmanager
async def open_provider(relay: PeerId, addresses: list[str]) -> AsyncIterator[Libp2pNetwork]:
    """A node of ours with a reservation there, and no other way to it."""
    async with open_node(2, listen=[]) as provider:
        provider.set_handler(ECHO, echo)
        provider._relay_client.set_needed(True)
        provider._relay_client.set_needed = lambda needed: None  # type: ignore[method-assign]
        await provider.connect(relay, addresses)
        await polled(lambda: provider._relay_client.relays() == (relay,))
        yield provider


async def exchange(client: Libp2pNetwork, provider: PeerId) -> None:
    (seen,) = [peer for peer in client.peers() if peer.peer == provider]
    assert seen.relayed
    await ping(client, provider)
    stream = await client.open_stream(provider, ECHO)
    for size in SIZES:
        data = os.urandom(size)
        await stream.send(data)
        assert await stream.receive() == data
    await stream.aclose()


def through(relay: Foreign | Libp2pNetwork, address: str) -> str:
    return f"{address}/p2p/{relay.peer_id}/p2p-circuit"


async def test_two_of_ours_through_their_relay(open_relay: OpenForeign) -> None:
    async with (
        open_relay() as relay,
        open_provider(relay.peer_id, relay.addresses) as provider,
        open_node(1) as client,
    ):
        await client.connect(provider.peer_id, [through(relay, relay.addresses[0])])
        await exchange(client, provider.peer_id)


async def test_they_are_reached_through_our_relay(open_relay: OpenForeign) -> None:
    async with open_node(3) as relay, open_relay() as provider, open_node(1) as client:
        relay._relay_server.set_enabled(True)
        assert await provider.call("reserve", address=full_addresses(relay)[0])
        await client.connect(provider.peer_id, [through(relay, relay.addresses()[0])])
        await exchange(client, provider.peer_id)


async def test_they_reach_us_through_our_relay(open_relay: OpenForeign) -> None:
    async with open_node(3) as relay:
        relay._relay_server.set_enabled(True)
        async with open_provider(relay.peer_id, list(relay.addresses())) as provider, open_relay() as client:
            await client.call("connect", address=full_addresses(relay)[0])
            circuit = through(relay, relay.addresses()[0])
            await client.call("dial", address=f"{circuit}/p2p/{provider.peer_id}")
            assert await client.call("echo", peer=provider.peer_id, sizes=SIZES)
            (seen,) = [peer for peer in provider.peers() if peer.peer == client.peer_id]
            assert seen.relayed


async def test_two_of_ours_through_gos_relay(open_go: Callable[..., AbstractAsyncContextManager[Foreign]]) -> None:
    async with (
        open_go(relay=1, relayService=1, forceReachabilityPublic=1) as relay,
        open_provider(relay.peer_id, relay.addresses) as provider,
        open_node(1) as client,
    ):
        await client.connect(provider.peer_id, [through(relay, relay.addresses[0])])
        await exchange(client, provider.peer_id)


async def test_go_is_reached_through_our_relay(open_go: Callable[..., AbstractAsyncContextManager[Foreign]]) -> None:
    """It finds the relay, reserves and keeps the place by itself."""
    async with open_node(3) as relay, open_node(1) as client:
        relay._relay_server.set_enabled(True)
        private = {"relay": 1, "autoRelay": 1, "relayDiscovery": 0, "forceReachabilityPrivate": 1}
        async with open_go(**private, trustedRelays=full_addresses(relay)[0]) as provider:
            await polled(lambda: provider.peer_id in relay._relay_server.reservations())
            await client.connect(provider.peer_id, [through(relay, relay.addresses()[0])])
            await exchange(client, provider.peer_id)


async def test_go_reaches_us_through_our_relay(open_go: Callable[..., AbstractAsyncContextManager[Foreign]]) -> None:
    async with open_node(3) as relay:
        relay._relay_server.set_enabled(True)
        async with open_provider(relay.peer_id, list(relay.addresses())) as provider, open_go(relay=1) as client:
            circuit = through(relay, relay.addresses()[0])
            await client.call("connect", address=f"{circuit}/p2p/{provider.peer_id}")
            assert await client.call("echo", peer=provider.peer_id, sizes=SIZES)
            (seen,) = [peer for peer in provider.peers() if peer.peer == client.peer_id]
            assert seen.relayed
