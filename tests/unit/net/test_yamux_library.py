"""Our yamux against py-libp2p's own, at either end of a connection, opened from either side."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.abc import ConnectionType, ISecureConn
from libp2p.io.exceptions import IncompleteReadError
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream
from yamux_pairs import End, MemorySession, session_pair

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.yamux.stream import MuxStream

LARGE = random.Random(1).randbytes(8 * 2**20)


class LibraryConnection(ISecureConn):  # type: ignore[misc]
    """A session as the library sees it."""

    def __init__(self, session: MemorySession) -> None:
        self.is_initiator = session.is_initiator
        self._session = session
        self._buffer = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        while len(self._buffer) < (n or 1):
            data = await self._session.receive()
            if not data:
                raise IncompleteReadError("closed", n or 1, len(self._buffer))
            self._buffer += data
        taken = bytes(self._buffer[: n or len(self._buffer)])
        del self._buffer[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        await self._session.send(data)

    async def close(self) -> None:
        self._session.abort()

    def get_local_peer(self) -> Any: ...
    def get_local_private_key(self) -> Any: ...
    def get_remote_peer(self) -> Any: ...
    def get_remote_public_key(self) -> Any: ...
    def get_remote_address(self) -> Any: ...
    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


@dataclass
class Pair:
    ours: End
    library: Yamux
    we_open: bool

    async def stream(self) -> tuple[MuxStream, YamuxStream]:
        """One that is open at both ends."""
        if self.we_open:
            mine = await self.ours.open()
            return mine, await self.library.accept_stream()
        theirs = await self.library.open_stream()
        return await self.ours.accept(), theirs


@asynccontextmanager
async def connected(*, we_dial: bool, we_open: bool) -> AsyncIterator[Pair]:
    one, other = session_pair()
    ours, theirs = (one, other) if we_dial else (other, one)
    end = End(ours)
    library = Yamux(LibraryConnection(theirs), ID(b"peer"), is_initiator=theirs.is_initiator)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.run)
            nursery.start_soon(library.start)
            await library.event_started.wait()
            yield Pair(end, library, we_open)
            nursery.cancel_scope.cancel()


@pytest.fixture(params=["dial, open", "dial, accept", "listen, open", "listen, accept"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    async with connected(we_dial="dial" in request.param, we_open="open" in request.param) as both:
        yield both


async def read_all(stream: YamuxStream) -> bytes:
    data = bytearray()
    try:
        while True:
            data += await stream.read(100_000)
    except MuxedStreamEOF:
        return bytes(data)


async def test_small_messages(pair: Pair) -> None:
    for _ in range(20):
        mine, theirs = await pair.stream()
        for number in range(10):
            await mine.write(b"%d" % number)
            assert await theirs.read(100) == b"%d" % number
            await theirs.write(b"%d!" % number)
            assert await mine.read(100) == b"%d!" % number
        await theirs.close()
        await mine.close()


async def test_large_transfers_both_ways_at_once(pair: Pair) -> None:
    mine, theirs = await pair.stream()
    received = []
    async with trio.open_nursery() as nursery:

        async def we_write() -> None:
            await mine.write(LARGE)
            mine.close_write()

        async def they_write() -> None:
            await theirs.write(LARGE[::-1])
            await theirs.close()

        async def they_read() -> None:
            received.append(await read_all(theirs))

        nursery.start_soon(we_write)
        nursery.start_soon(they_write)
        nursery.start_soon(they_read)
        assert await mine.read_exactly(len(LARGE)) == LARGE[::-1]
        assert await mine.read(1) == b""
    assert received == [LARGE]
    await trio.testing.wait_all_tasks_blocked()
    assert not pair.ours.connection._streams and not pair.library.streams
    assert pair.ours.violations == []


async def test_half_close_by_us(pair: Pair) -> None:
    mine, theirs = await pair.stream()
    await mine.write(b"question")
    mine.close_write()
    assert await read_all(theirs) == b"question"
    await theirs.write(b"answer")
    await theirs.close()
    assert await mine.read(100) == b"answer"
    assert await mine.read(100) == b""


async def test_half_close_by_the_library(pair: Pair) -> None:
    mine, theirs = await pair.stream()
    await theirs.write(b"question")
    await theirs.close()
    assert await mine.read_exactly(8) == b"question"
    assert await mine.read(100) == b""
    await mine.write(b"answer")
    await mine.close()
    assert await read_all(theirs) == b"answer"


async def test_reset_by_us(pair: Pair) -> None:
    mine, theirs = await pair.stream()
    await mine.write(b"x")
    assert await theirs.read(1) == b"x"
    await mine.reset()
    with pytest.raises((MuxedStreamReset, MuxedStreamEOF)):
        await theirs.read(1)
    assert theirs.reset_received


async def test_reset_by_the_library(pair: Pair) -> None:
    mine, theirs = await pair.stream()
    await theirs.reset()
    with pytest.raises(TransportError):
        await mine.read(1)
    with pytest.raises(TransportError):
        await mine.write(b"x")


async def test_the_library_goes_away(pair: Pair) -> None:
    mine, _ = await pair.stream()
    await pair.library.close()
    with pytest.raises(TransportError):
        await mine.read(1)
    await pair.ours.ended.wait()


async def test_we_go_away(pair: Pair) -> None:
    _, theirs = await pair.stream()
    await pair.ours.connection.abort()
    with pytest.raises((MuxedStreamReset, MuxedStreamEOF)):
        await theirs.read(1)
    await pair.ours.ended.wait()


async def test_pings_of_both(pair: Pair) -> None:
    await pair.stream()
    # The library pings after half a second, and has no event for the answer.
    while not (pair.library.rtt() and pair.ours.connection.latency_s):  # noqa: ASYNC110
        await trio.sleep(0.02)
