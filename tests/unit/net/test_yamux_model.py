"""Many streams at once, at random, against the simplest model: what was written is what is read, in order."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yamux_pairs import End, connected

from cocoon_p2p.errors import TransportError
from cocoon_p2p.net.yamux.stream import MuxStream

SIZES = st.sampled_from([1, 2, 11, 4096, 4097, 60_000, 131_072, 262_143, 262_144, 262_145, 600_000])
ENDINGS = st.sampled_from(["close", "close_write", "reset"])


def chopper(seed: int):  # type: ignore[no-untyped-def]
    """Cuts what is sent at random, sometimes into single bytes."""
    chance = random.Random(seed)

    def cut(data: bytes) -> list[bytes]:
        chunks, start = [], 0
        while start < len(data):
            size = chance.choice([1, 5, 12, 13, 500, 70_000, 1 << 20]) if start < 200 else 70_000
            chunks.append(data[start : start + size])
            start += size
        return chunks

    return cut


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


async def write_all(stream: MuxStream, data: bytes, chance: random.Random) -> None:
    start = 0
    while start < len(data):
        size = chance.choice([1, 100, 4096, 100_000, 400_000])
        part = memoryview(data)[start : start + size]
        await stream.write(part[: len(part) // 2], part[len(part) // 2 :])
        start += size
        if chance.random() < 0.3:
            await trio.lowlevel.checkpoint()


async def read_all(stream: MuxStream, chance: random.Random) -> bytes:
    """Until the end, by all the ways there are to read."""
    received = bytearray()
    buffer = memoryview(bytearray(100_000))
    while True:
        size = chance.choice([1, 7, 4096, 100_000])
        if chance.random() < 0.5:
            part = await stream.read(size)
        else:
            part = bytes(buffer[: await stream.read_into(buffer[:size])])
        if not part:
            return bytes(received)
        received += part
        if len(received) < 100 and chance.random() < 0.5:
            await trio.lowlevel.checkpoint()


async def exchange(alice: End, bob: End, sizes: list[tuple[int, int]], seed: int) -> None:
    """Each end opens every second stream; on each both ends write and read at once."""

    async def talk(stream: MuxStream, number: int, sent: int, expected: int, side: int) -> None:
        chance = random.Random(seed + 2 * number + side)
        async with trio.open_nursery() as nursery:

            async def write() -> None:
                await write_all(stream, content(seed + 2 * number + side, sent), chance)
                stream.close_write()

            nursery.start_soon(write)
            assert await read_all(stream, chance) == content(seed + 2 * number + 1 - side, expected)

    async def accept(end: End) -> None:
        stream = await end.accept()
        number = int.from_bytes(await stream.read_exactly(1))
        there, back = sizes[number]
        await talk(stream, number, back, there, 1)

    async with trio.open_nursery() as nursery:
        for number, (there, back) in enumerate(sizes):
            opener, acceptor = (alice, bob) if number % 2 else (bob, alice)
            stream = await opener.open()
            nursery.start_soon(accept, acceptor)
            await stream.write(bytes([number]))
            nursery.start_soon(talk, stream, number, there, back, 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=8), st.integers(0, 2**32), st.sampled_from([100, 1 << 20])
)
def test_what_is_written_is_what_is_read(sizes: list[tuple[int, int]], seed: int, capacity: int) -> None:
    async def main() -> None:
        async with connected(cut=chopper(seed), capacity=capacity) as (alice, bob):
            await exchange(alice, bob, sizes, seed)
            await trio.testing.wait_all_tasks_blocked()
            for end in (alice, bob):
                connection = end.connection
                assert not connection._streams and not connection._lingering and end.violations == []
                assert connection.streams_inbound == connection.streams_outbound == 0

    trio.run(main)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 700_000), st.integers(0, 2**32), st.booleans(), ENDINGS)
def test_an_end_at_any_byte(at: int, seed: int, by_reader: bool, ending: str) -> None:
    """What was read is the beginning of what was written; a reset is never taken for an end."""
    data = content(seed, 700_000)

    async def main() -> None:
        async with connected(cut=chopper(seed)) as (alice, bob), trio.open_nursery() as nursery:
            ours = await alice.open()
            received = bytearray()
            cut_off = False

            async def write() -> None:
                end = len(data) if by_reader else at
                try:
                    await ours.write(data[:end])
                    await end_it(ours)
                except TransportError:
                    assert by_reader

            async def end_it(stream: MuxStream) -> None:
                if ending == "reset":
                    stream.reset_soon()
                elif ending == "close":
                    stream.close_soon()
                else:
                    stream.close_write()

            nursery.start_soon(write)
            theirs = await bob.accept()
            try:
                while part := await theirs.read(10_000):
                    received += part
                    if by_reader and len(received) >= at:
                        await end_it(theirs)
            except TransportError:
                cut_off = True
            assert bytes(received) == data[: len(received)]
            assert cut_off == (ending == "reset" and (not by_reader or at <= len(received)))
            if not cut_off and (not by_reader or ending == "close_write"):
                assert len(received) == (len(data) if by_reader else at)
            for stream in (ours, theirs):
                stream.close_soon()
            await trio.testing.wait_all_tasks_blocked()
            for end in (alice, bob):
                assert not end.connection._streams and end.violations == []
                assert end.connection.streams_inbound == end.connection.streams_outbound == 0

    trio.run(main)


@pytest.mark.parametrize("count", [1, 64])
async def test_both_ends_open_at_once(count: int) -> None:
    async with connected() as (alice, bob):
        for end in (alice, bob):
            for number in range(count):
                stream = await end.open()
                await stream.write(b"%d" % number)
        for end in (alice, bob):
            texts = {await (await end.accept()).read(100) for _ in range(count)}
            assert texts == {b"%d" % number for number in range(count)}
