"""What the network port moves by itself: a process that sends as many pieces as it is asked for, out of memory.

`python -m bench.blob_port` prints its address. Sealed pieces travel as they are, others are encrypted on their way, as those of
models are (protocols/data/1 §4.2)."""

from __future__ import annotations

import secrets
import sys
import time

import trio

from cocoon_p2p.errors import EndOfStream
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import MIB
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.port import BulkFrame, Stream

SOURCE = "/bench/source/1"


async def give(stream: Stream) -> None:
    """Pieces of 1 MiB: as many as the first frame says, and whether they are sealed."""
    try:
        asked = bytes(await stream.receive())
        count, sealed = int.from_bytes(asked[:8]), asked[8:] == b"s"
        piece = memoryview(bytearray(secrets.token_bytes(MIB)))
        stream.expect_bulk(count * MIB)
        await stream.send(b"ready")
        await stream.receive()
        for number in range(count):
            await stream.send(BulkFrame(number.to_bytes(8), piece, b"", sealed=sealed))
        await stream.receive()
    except EndOfStream:
        await stream.aclose()


async def take(address: str, megabytes: int, *, sealed: bool) -> float:
    """MB/s of so many MiB."""
    where, _, peer = address.partition("/p2p/")
    async with open_libp2p(secrets.token_bytes(32), listen=(), agent="cocoon-bench", dht_server=False) as network:
        await network.connect(PeerId(peer), [where])
        stream = await network.open_stream(PeerId(peer), SOURCE)
        await stream.send(megabytes.to_bytes(8) + (b"s" if sealed else b"e"))
        await stream.receive()
        await trio.sleep(0.2)  # for the data socket
        begun = time.perf_counter()
        await stream.send(b"go")
        for _ in range(megabytes):
            await stream.receive()
        took = time.perf_counter() - begun
        await stream.aclose()
    return megabytes * MIB / took / 1e6


async def main() -> None:
    async with open_libp2p(secrets.token_bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], agent="cocoon-bench") as network:
        network.set_handler(SOURCE, give)
        sys.stdout.write(f"{network.addresses()[0]}/p2p/{network.peer_id}\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(main)
