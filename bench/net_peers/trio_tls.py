"""A trio TLS stream: what a Python program without libp2p would use."""

from __future__ import annotations

import os
import ssl
import struct
import sys
import time
from functools import partial
from pathlib import Path

import trio

from bench.net_peers.lines import answer
from bench.net_peers.measures import PIECE_BYTES, summary, timed_each

SINK, ECHO = 0, 1
_HEAD = struct.Struct("!BQ")
"""What to do; for SINK how many bytes follow, for ECHO how long each message is."""

TlsStream = trio.SSLStream[trio.SocketStream]


async def read_exactly(stream: TlsStream, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


async def serve(context: ssl.SSLContext, socket: trio.SocketStream) -> None:
    async with trio.SSLStream(socket, context, server_side=True, https_compatible=True) as stream:
        kind, size = _HEAD.unpack(await read_exactly(stream, _HEAD.size))
        if kind == SINK:
            taken = 0
            while taken < size:
                taken += len(await stream.receive_some(PIECE_BYTES))
            await stream.send_all(b"k")
        else:
            try:
                while True:
                    await stream.send_all(await read_exactly(stream, size))
            except EOFError:
                pass


class Client:
    def __init__(self, certificate: Path) -> None:
        self._context = ssl.create_default_context(cafile=str(certificate))
        self._port = 0

    async def connect(self, address: str) -> None:
        self._port = int(address)
        await trio.lowlevel.checkpoint()

    async def one_way(self, megabytes: int) -> float:
        piece = os.urandom(PIECE_BYTES)
        async with await self._open() as stream:
            begun = time.perf_counter()
            await stream.send_all(_HEAD.pack(SINK, megabytes * PIECE_BYTES))
            for _ in range(megabytes):
                await stream.send_all(piece)
            await read_exactly(stream, 1)
            return time.perf_counter() - begun

    async def round_trips(self, count: int, size: int) -> dict[str, float]:
        payload = os.urandom(size)
        async with await self._open() as stream:
            await stream.send_all(_HEAD.pack(ECHO, size))

            async def step() -> None:
                await stream.send_all(payload)
                await read_exactly(stream, size)

            return summary(await timed_each(step, count))

    async def _open(self) -> TlsStream:
        stream = await trio.open_ssl_over_tcp_stream(
            "localhost", self._port, ssl_context=self._context, https_compatible=True
        )
        await stream.do_handshake()
        return stream


async def main(certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(serve, context), listeners)
        client = Client(certificate)
        names = ("connect", "one_way", "round_trips")
        await answer(str(listeners[0].socket.getsockname()[1]), {name: getattr(client, name) for name in names})
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
