"""What is left of a node's memory after many connections and many small messages: within 7 MB of what it was.

The suite makes two thousand connections. The whole figure (100,000 connections, 1,000,000 messages):

    COCOON_BAD_DAYS_CONNECTIONS=100000 COCOON_BAD_DAYS_MESSAGES=1000000 pytest -s tests/unit/net/test_bad_days_memory.py
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from net_nodes import peer_of, seed_of
from rude_ends import GREETING, child, line_of, open_socket

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net import multistream
from cocoon_p2p.net.framing import FramedStream
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.rates import Rate
from cocoon_p2p.net.switch.gate import GateLimits, OriginLimits
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import ECHO, echo

pytestmark = [pytest.mark.slow, pytest.mark.processes]

CONNECTIONS = int(os.environ.get("COCOON_BAD_DAYS_CONNECTIONS", "2000"))
MESSAGES = int(os.environ.get("COCOON_BAD_DAYS_MESSAGES", "60000"))
GROWTH_MAX = 7 * 1024**2
IDENTITIES = 64
BATCH = 50

MEASURED = f"""
import gc, sys, trio
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.switch.gate import GateLimits, OriginLimits
from cocoon_p2p.net.rates import Rate
from cocoon_p2p.testing.net_contract import echo
def memory():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
async def main():
    async with open_libp2p(bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], agent="measured") as network:
        network.set_handler("{ECHO}", echo)
        ample = Rate(1e9, 1e9)
        network._switch.gate.set_limits(GateLimits(
            of_origins={{"loopback": OriginLimits(500, 500, ample, bannable=False)}}, arrivals=ample, handshakes=500))
        async def answer():
            async for line in trio.lowlevel.FdStream(0):
                order, *rest = line.decode().split()
                if order == "dial":
                    for _ in range(int(rest[0])):
                        await network.connect(PeerId(rest[1]), [rest[2]])
                        await network.disconnect(PeerId(rest[1]))
                with trio.fail_after(60):
                    while any(network._switch.gate.places().values()):
                        await trio.sleep(0.01)
                print(memory(), flush=True)
        print(network.peer_id, network.addresses()[0], flush=True)
        await answer()
trio.run(main)
"""


@asynccontextmanager
async def measured() -> AsyncIterator[tuple[trio.Process, PeerId, str]]:
    async with child(MEASURED) as process:
        peer, address = (await line_of(process.stdout)).split()
        yield process, PeerId(peer), address


async def memory_of(process: trio.Process, order: str = "measure") -> int:
    """Bytes, when all connections have gone."""
    await process.stdin.send_all(order.encode() + b"\n")
    return int(await line_of(process.stdout))


async def connect(peer: PeerId, address: str, number: int) -> tuple[MuxedConnection, TcpPipe]:
    port = int(address.rpartition("/")[2])
    pipe = TcpPipe(socket.socket(fileno=(await open_socket(port)).detach()), address)
    return await Upgrader.from_seed(peer_of(number), seed_of(number)).outbound(pipe, peer), pipe


async def visit(peer: PeerId, address: str, turn: int) -> None:
    """One connection, which ends in one of four ways."""
    if turn % 4 == 0:
        with await open_socket(int(address.rpartition("/")[2])) as sock:
            await sock.send(GREETING)
            await sock.recv(1)
        return
    connection, pipe = await connect(peer, address, 100 + turn % IDENTITIES)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, MuxStream.release)
        stream = await connection.open_stream()
        await multistream.propose(stream, ECHO)
        framed = FramedStream(peer, ECHO, stream)
        await framed.send(b"hello")
        assert await framed.receive() == b"hello"
        if turn % 4 == 1:
            await framed.aclose()
        elif turn % 4 == 2:
            pipe.abort()
        nursery.cancel_scope.cancel()


async def visit_often(peer: PeerId, address: str, count: int) -> None:
    turns = iter(range(count))

    async def visitor() -> None:
        for turn in turns:
            await visit(peer, address, turn)

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(visitor)


async def talk(peer: PeerId, address: str, count: int) -> None:
    connection, _ = await connect(peer, address, 99)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, MuxStream.release)
        stream = await connection.open_stream()
        await multistream.propose(stream, ECHO)
        framed = FramedStream(peer, ECHO, stream)
        for start in range(0, count, BATCH):
            await framed.send(*(b"message %d" % number for number in range(start, start + BATCH)))
            for _ in range(BATCH):
                await framed.receive()
        await framed.aclose()
        nursery.cancel_scope.cancel()


def report(what: str, count: int, before: int, after: int, began: float) -> None:
    took = time.perf_counter() - began
    print(
        f"\n{what}: {count} in {took:.1f} s; memory {before / 1e6:.1f} MB before, {(after - before) / 1e6:+.2f} MB after"
    )


async def test_memory_after_many_connections() -> None:
    async with measured() as (process, peer, address):
        await visit_often(peer, address, CONNECTIONS // 5)
        before = await memory_of(process)
        began = time.perf_counter()
        await visit_often(peer, address, CONNECTIONS)
        after = await memory_of(process)
        report("connections", CONNECTIONS, before, after, began)
        assert after - before < GROWTH_MAX


async def test_memory_after_many_messages() -> None:
    async with measured() as (process, peer, address):
        await talk(peer, address, MESSAGES // 10)
        before = await memory_of(process)
        began = time.perf_counter()
        await talk(peer, address, MESSAGES)
        after = await memory_of(process)
        report("messages", MESSAGES, before, after, began)
        assert after - before < GROWTH_MAX


async def test_memory_after_many_dials() -> None:
    """The other end of a connection: the one that makes it."""
    count = CONNECTIONS // 5
    async with (
        measured() as (process, _, _),
        open_libp2p(seed_of(1), listen=["/ip4/127.0.0.1/tcp/0"], agent="t") as node,
    ):
        node.set_handler(ECHO, echo)
        allow_all(node)
        order = f"dial {{}} {node.peer_id} {node.addresses()[0]}"
        before = await memory_of(process, order.format(count // 5))
        began = time.perf_counter()
        after = await memory_of(process, order.format(count))
        report("dials", count, before, after, began)
        assert after - before < GROWTH_MAX


def allow_all(node: Libp2pNetwork) -> None:
    ample = Rate(1e9, 1e9)
    of_origins = {"loopback": OriginLimits(500, 500, ample, bannable=False)}
    node._switch.gate.set_limits(GateLimits(of_origins=of_origins, arrivals=ample))  # type: ignore[arg-type]
