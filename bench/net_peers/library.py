"""py-libp2p as shipped: `new_host` with TCP, Noise and yamux, as its documentation has it."""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from libp2p import generate_new_ed25519_identity, new_host
from libp2p.crypto.x25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from bench.net_peers.lines import answer
from bench.net_peers.measures import PIECE_BYTES, Step, beside, rate, summary, timed_each

logging.getLogger("libp2p").setLevel(logging.CRITICAL)
ECHO, SINK = TProtocol("/bench/echo/1"), TProtocol("/bench/sink/1")
_LENGTH = struct.Struct("!Q")
SETTLE_S = 1.5
"""Until its identify is through; it runs beside everything else."""


def make_host() -> Any:
    key = generate_new_ed25519_identity()
    noise = Noise(key, noise_privkey=create_new_key_pair().private_key)
    return new_host(key_pair=key, sec_opt={NOISE: noise}, muxer_opt={TProtocol(YAMUX): Yamux})


async def read_exactly(stream: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.read(size - len(data))
    return bytes(data)


async def echo(stream: Any) -> None:
    try:
        while data := await stream.read(PIECE_BYTES):
            await stream.write(data)
    except StreamEOF:
        pass
    await stream.close()


async def sink(stream: Any) -> None:
    (size,) = _LENGTH.unpack(await read_exactly(stream, _LENGTH.size))
    taken = 0
    while taken < size:
        taken += len(await stream.read(PIECE_BYTES))
    await stream.write(_LENGTH.pack(taken))
    await stream.close()


class Client:
    def __init__(self, host: Any) -> None:
        self._host = host
        self._info: Any = None

    async def connect(self, address: str) -> None:
        self._info = info_from_p2p_addr(Multiaddr(address))
        await self._host.connect(self._info)
        await trio.sleep(SETTLE_S)

    async def one_way(self, megabytes: int) -> float:
        piece = os.urandom(PIECE_BYTES)
        stream = await self._host.new_stream(self._info.peer_id, [SINK])
        begun = time.perf_counter()
        await stream.write(_LENGTH.pack(megabytes * PIECE_BYTES))
        for _ in range(megabytes):
            await stream.write(piece)
        await read_exactly(stream, _LENGTH.size)
        took = time.perf_counter() - begun
        await stream.close()
        return took

    async def round_trips(self, count: int, size: int) -> dict[str, float]:
        async with self._echo_step(size) as step:
            return summary(await timed_each(step, count))

    async def new_streams(self, count: int) -> dict[str, float]:
        payload = os.urandom(64)

        async def step() -> None:
            stream = await self._host.new_stream(self._info.peer_id, [ECHO])
            await stream.write(payload)
            await read_exactly(stream, len(payload))
            await stream.close()

        return summary(await timed_each(step, count))

    async def connections(self, count: int) -> dict[str, float]:
        took = []
        for _ in range(count):
            host = make_host()
            async with host.run(listen_addrs=[]):
                begun = time.perf_counter()
                await host.connect(self._info)
                took.append((time.perf_counter() - begun) * 1000)
        return summary(took)

    async def calls(self, in_flight: int, seconds: float) -> float:
        return await rate(partial(self._echo_step, 64), in_flight, seconds)

    async def beside_bulk(self, megabytes: int) -> dict[str, float]:
        async with self._echo_step(1024) as step:
            return summary(await beside(step, partial(self.one_way, megabytes)))

    @asynccontextmanager
    async def _echo_step(self, size: int) -> AsyncIterator[Step]:
        stream = await self._host.new_stream(self._info.peer_id, [ECHO])
        payload = os.urandom(size)

        async def step() -> None:
            await stream.write(payload)
            await read_exactly(stream, size)

        yield step
        await stream.close()


async def main() -> None:
    host = make_host()
    host.set_stream_handler(ECHO, echo)
    host.set_stream_handler(SINK, sink)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        client = Client(host)
        names = ("connect", "one_way", "round_trips", "new_streams", "connections", "calls", "beside_bulk")
        await answer(str(host.get_addrs()[0]), {name: getattr(client, name) for name in names})


if __name__ == "__main__":
    trio.run(main)
