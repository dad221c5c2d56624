"""Our side of the tests of this folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from foreign import Foreign

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.identify.identify import PING
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.switch.switch import Link
from cocoon_p2p.testing.net_contract import ECHO, VALIDATORS

PATIENCE_S = 60.0
"""Only a hanging test meets it: other programs start and beat at their own pace, on a machine that may be busy."""
_POLL_S = 0.01


@asynccontextmanager
async def open_node(
    number: int,
    *,
    bootstrap: Sequence[str] = (),
    listen: Sequence[str] = ("/ip4/127.0.0.1/tcp/0",),
    network_key: bytes | None = None,
    dht_server: bool = True,
) -> AsyncIterator[Libp2pNetwork]:
    with trio.fail_after(PATIENCE_S):
        async with open_libp2p(
            hashlib.sha256(b"interop node %d" % number).digest(),
            listen=listen,
            agent=f"interop/{number}",
            bootstrap=bootstrap,
            validators=VALIDATORS,
            network_key=network_key,
            dht_server=dht_server,
        ) as network:
            yield network


async def dial_each_other(network: Libp2pNetwork, foreign: Foreign, *, we_dial: bool) -> None:
    await dial(network, foreign, network.addresses()[0], we_dial=we_dial)


async def identified_link(network: Libp2pNetwork, peer: PeerId) -> Link:
    link = network._switch.link(peer)
    assert link is not None
    await link.identified.wait()
    return link


async def ping(network: Libp2pNetwork, peer: PeerId) -> None:
    stream = await network._streams.open_raw(peer, PING)
    for _ in range(3):
        data = os.urandom(32)
        await stream.write(data)
        assert await stream.read_exactly(32) == data
    await stream.close()


def trouble(network: Libp2pNetwork) -> dict[str, int]:
    """What went wrong, but for the DHT's own questions, which other programs answer late on a busy machine."""
    return {name: count for name, count in network.counters().items() if name != "dht_rpc_failed"}


async def polled(condition: Callable[[], bool]) -> None:
    """Wait for what has no event: state that messages of the other side change."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(_POLL_S)


async def dial(network: Libp2pNetwork, foreign: Foreign, ours: str, *, we_dial: bool) -> None:
    """They at our address `ours`, or we at theirs. By then each knows of the other."""
    if we_dial:
        await network.connect(foreign.peer_id, foreign.addresses)
        await identified_link(network, foreign.peer_id)  # it has answered, so it has the connection in its list
    else:
        await foreign.call("connect", address=f"{ours}/p2p/{network.peer_id}")
        await polled(lambda: bool(network.peers()))


async def exchange(network: Libp2pNetwork, foreign: Foreign, sizes: Sequence[int] = (1, 65_520, 300_000)) -> None:
    """A ping, and frames there and back on a stream of either side at once."""
    await ping(network, foreign.peer_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(echoed_by_us, network, foreign, sizes)
        nursery.start_soon(echoed_by_them, network, foreign, sizes)


async def echoed_by_us(network: Libp2pNetwork, foreign: Foreign, sizes: Sequence[int]) -> None:
    assert await foreign.call("echo", peer=network.peer_id, sizes=list(sizes))


async def echoed_by_them(network: Libp2pNetwork, foreign: Foreign, sizes: Sequence[int]) -> None:
    frames = [os.urandom(size) for size in sizes]
    stream = await network.open_stream(foreign.peer_id, ECHO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send, *frames)
        for frame in frames:
            assert await stream.receive() == frame
    await stream.aclose()
