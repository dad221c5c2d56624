"""A link with latency: a TCP proxy that hands on every byte a fixed time after it came, however many are under way.

`python -m bench.net_peers.delay PORT MILLISECONDS` prints its own port. Only the ends' flow control limits what is under
way, so what passes shows how far their windows reach.
"""

from __future__ import annotations

import collections
import sys
import time
from functools import partial

import trio

_READ_BYTES = 1 << 20


async def hand_on(source: trio.SocketStream, target: trio.SocketStream, delay_s: float) -> None:
    waiting: collections.deque[tuple[float, bytes]] = collections.deque()
    came = trio.Event()
    ended = False

    async def write() -> None:
        nonlocal came
        while True:
            while not waiting:
                if ended:
                    return
                came = trio.Event()
                await came.wait()
            due, piece = waiting.popleft()
            pause = due - time.perf_counter()
            if pause > 0:
                await trio.sleep(pause)
            await target.send_all(piece)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        while piece := await source.receive_some(_READ_BYTES):
            waiting.append((time.perf_counter() + delay_s, piece))
            came.set()
        ended = True
        came.set()


async def serve(port: int, delay_s: float, client: trio.SocketStream) -> None:
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server:
            for stream in (client, server):
                stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hand_on, client, server, delay_s)
                nursery.start_soon(hand_on, server, client, delay_s)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass


async def main(port: int, milliseconds: float) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(partial(serve, port, milliseconds / 1000), listeners)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), float(sys.argv[2]))
