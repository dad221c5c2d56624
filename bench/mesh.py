"""What gossip costs on the wire: real nodes on loopback, bytes received for each byte of a message and subscriber."""

from __future__ import annotations

import hashlib
import os
from contextlib import AsyncExitStack

import trio

from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.port import Network
from cocoon_p2p.wire.capacity import CAPACITY_TOPIC

NODES = 60
"""The larger the network, the smaller the part of the copies that an author sends himself: 10 bytes on the wire for each byte
among 24 nodes, 8 among 60."""
CONNECTIONS = 8
"""That each node makes; as many again are made to it."""
MESSAGES = 60
MESSAGE_BYTES = 350
"""About what a signed announcement of one model has."""
WINDOW_S = 8.0
SETTLE_S = 5.0
"""A few heartbeats, until the mesh has its shape."""


def bytes_on_the_wire() -> float:
    """For each byte of a gossiped message and each subscriber: copies, signatures, and the talk about what one has; what
    an idle mesh says anyway is taken off. About 25 s of real time."""
    return trio.run(_measure)


async def _measure() -> float:
    async with AsyncExitStack() as stack:
        nodes: list[Network] = []
        for number in range(NODES):
            seed = hashlib.sha256(f"mesh {number}".encode()).digest()
            nodes.append(
                await stack.enter_async_context(
                    open_libp2p(seed, listen=("/ip4/127.0.0.1/tcp/0",), agent="mesh", mdns=False, upnp=False)
                )
            )
        nursery = await stack.enter_async_context(trio.open_nursery())
        for node in nodes:
            await nursery.start(_listen, node)
        for number, node in enumerate(nodes):
            for step in range(1, CONNECTIONS + 1):
                other = nodes[(number + step * step) % NODES]
                if other is not node:
                    await node.connect(other.peer_id, other.addresses())
        await trio.sleep(SETTLE_S)
        idle = await _received(nodes, 0)
        busy = await _received(nodes, MESSAGES)
        nursery.cancel_scope.cancel()
    return (busy - idle) / (MESSAGES * MESSAGE_BYTES * (NODES - 1))


async def _received(nodes: list[Network], messages: int) -> int:
    """Bytes that all nodes received within WINDOW_S in which so many messages were published."""
    before = _bytes(nodes)
    end = trio.current_time() + WINDOW_S
    for number in range(messages):
        await nodes[number % NODES].publish(CAPACITY_TOPIC, os.urandom(MESSAGE_BYTES))
        await trio.sleep(0.5 * WINDOW_S / messages)
    await trio.sleep_until(end)
    return _bytes(nodes) - before


def _bytes(nodes: list[Network]) -> int:
    return sum(peer.bytes_received for node in nodes for peer in node.peers())


async def _listen(node: Network, *, task_status: trio.TaskStatus[None]) -> None:
    async with node.subscribe(CAPACITY_TOPIC, lambda author, data: True) as messages:
        task_status.started()
        async for _ in messages:
            pass
