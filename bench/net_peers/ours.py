"""Our own network, through its port, as the rest of the program uses it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import trio

from bench.net_peers import sealed
from bench.net_peers.lines import answer
from bench.net_peers.measures import PIECE_BYTES, Step, beside, rate, summary, timed_each
from cocoon_p2p.errors import EndOfStream
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.port import Stream

ECHO, SINK = "/bench/echo/1", "/bench/sink/1"
AGENT = "cocoon-bench"


async def echo(stream: Stream) -> None:
    try:
        while True:
            await stream.send(await stream.receive())
    except EndOfStream:
        await stream.aclose()


async def sink(stream: Stream) -> None:
    """Takes as many bytes, in frames, as the first one says, and then says so."""
    wanted = int.from_bytes(await stream.receive())
    taken = 0
    while taken < wanted:
        taken += len(await stream.receive())
    await stream.send(taken.to_bytes(8))
    await stream.aclose()


class Client:
    def __init__(self, network: Libp2pNetwork) -> None:
        self._network = network
        self._peer = PeerId("")
        self._address = ""

    async def connect(self, address: str) -> None:
        self._address, _, peer = address.partition("/p2p/")
        self._peer = PeerId(peer)
        await self._network.connect(self._peer, [self._address])

    async def one_way(self, megabytes: int) -> float:
        """Seconds until the last byte was taken at the other end."""
        piece = os.urandom(PIECE_BYTES)
        stream = await self._network.open_stream(self._peer, SINK)
        begun = time.perf_counter()
        await stream.send((megabytes * PIECE_BYTES).to_bytes(8))
        for _ in range(megabytes):
            await stream.send(piece)
        await stream.receive()
        took = time.perf_counter() - begun
        await stream.aclose()
        return took

    async def sealed_tensor(self, megabytes: int) -> float:
        return await sealed.send(await self._network.open_stream(self._peer, sealed.PROTOCOL), megabytes)

    async def round_trips(self, count: int, size: int) -> dict[str, float]:
        async with self._echo_step(size) as step:
            return summary(await timed_each(step, count))

    async def new_streams(self, count: int) -> dict[str, float]:
        payload = os.urandom(64)

        async def step() -> None:
            stream = await self._network.open_stream(self._peer, ECHO)
            await stream.send(payload)
            await stream.receive()
            await stream.aclose()

        return summary(await timed_each(step, count))

    async def connections(self, count: int) -> dict[str, float]:
        """Each from an identity of its own; a connection counts once a stream could be opened, so handshake included."""
        took = []
        for _ in range(count):
            async with open_libp2p(secrets.token_bytes(32), listen=(), agent=AGENT, dht_server=False) as fresh:
                begun = time.perf_counter()
                await fresh.connect(self._peer, [self._address])
                took.append((time.perf_counter() - begun) * 1000)
        return summary(took)

    async def calls(self, in_flight: int, seconds: float) -> float:
        return await rate(partial(self._echo_step, 64), in_flight, seconds)

    async def beside_bulk(self, megabytes: int) -> dict[str, float]:
        async with self._echo_step(1024) as step:
            return summary(await beside(step, partial(self.one_way, megabytes)))

    @asynccontextmanager
    async def _echo_step(self, size: int) -> AsyncIterator[Step]:
        stream = await self._network.open_stream(self._peer, ECHO)
        payload = os.urandom(size)

        async def step() -> None:
            await stream.send(payload)
            await stream.receive()

        yield step
        await stream.aclose()


async def main() -> None:
    listen = ["/ip4/127.0.0.1/tcp/0"]
    async with open_libp2p(secrets.token_bytes(32), listen=listen, agent=AGENT) as network:
        network.set_handler(ECHO, echo)
        network.set_handler(SINK, sink)
        network.set_handler(sealed.PROTOCOL, sealed.take)
        client = Client(network)
        names = (
            "connect",
            "one_way",
            "sealed_tensor",
            "round_trips",
            "new_streams",
            "connections",
            "calls",
            "beside_bulk",
        )
        address = f"{network.addresses()[0]}/p2p/{network.peer_id}"
        await answer(address, {name: getattr(client, name) for name in names})


if __name__ == "__main__":
    trio.run(main)
