"""yamux between two of our own ends: data, windows, half-close, reset, cancellation, the end of the connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from yamux_pairs import PATIENCE_S, connected

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import STREAM_LINGER_S, STREAM_WINDOW_BYTES_INITIAL, STREAMS_PER_PEER_MAX


async def test_both_directions() -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        await ours.write(b"ping")
        theirs = await bob.accept()
        assert await theirs.read(100) == b"ping"
        await theirs.write(b"po", memoryview(b"n"), bytearray(b"g"))
        assert await ours.read_exactly(4) == b"pong"
        assert (ours.inbound, theirs.inbound) == (False, True)
        assert (alice.connection.streams_outbound, bob.connection.streams_inbound) == (1, 1)


async def test_a_stream_that_nobody_writes_to_is_known_to_the_peer() -> None:
    async with connected() as (alice, bob):
        await alice.open()
        with trio.fail_after(PATIENCE_S):
            await bob.accept()


@pytest.mark.parametrize("size", [1, 4095, 4096, 65507, 65508, 2**20, 5 * 2**20 + 1])
async def test_what_is_written_is_read(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        ours = await alice.open()
        nursery.start_soon(ours.write, data[: size // 3], data[size // 3 :])
        theirs = await bob.accept()
        assert await theirs.read_exactly(size) == data
        received = bytearray(size)
        nursery.start_soon(theirs.write, data)
        filled = 0
        with memoryview(received) as view:
            while filled < size:
                filled += await ours.read_into(view[filled:])
        assert received == data


async def test_half_close_by_the_opener() -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        await ours.write(b"question")
        ours.close_write()
        theirs = await bob.accept()
        assert await theirs.read(100) == b"question"
        assert await theirs.read(100) == b""
        await theirs.write(b"answer")
        await theirs.close()
        assert await ours.read(100) == b"answer"
        assert await ours.read(100) == b""
        await ours.close()
        await trio.testing.wait_all_tasks_blocked()
        for end in (alice, bob):
            assert not end.connection._streams and not end.connection._lingering
            assert end.connection.streams_inbound == end.connection.streams_outbound == 0


async def test_half_close_by_the_acceptor() -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        theirs = await bob.accept()
        theirs.close_write()
        assert await ours.read(100) == b""
        await ours.write(b"still heard")
        assert await theirs.read(100) == b"still heard"
        with pytest.raises(TransportError):
            await theirs.write(b"x")


async def test_writers_wait_for_the_window() -> None:
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        ours = await alice.open()
        written = trio.Event()

        async def write() -> None:
            await ours.write(bytes(STREAM_WINDOW_BYTES_INITIAL + 1))
            written.set()

        nursery.start_soon(write)
        theirs = await bob.accept()
        await trio.testing.wait_all_tasks_blocked()
        assert not written.is_set()
        assert theirs._buffered == STREAM_WINDOW_BYTES_INITIAL
        await theirs.read_exactly(STREAM_WINDOW_BYTES_INITIAL // 2)
        await written.wait()
        await theirs.read_exactly(STREAM_WINDOW_BYTES_INITIAL // 2 + 1)


async def test_a_slow_reader_slows_its_writer_only() -> None:
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        stuck = await alice.open()
        nursery.start_soon(stuck.write, bytes(10 * 2**20))
        await bob.accept()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            ours = await alice.open()
            nursery.start_soon(ours.write, bytes(2**20))
            theirs = await bob.accept()
            with trio.fail_after(PATIENCE_S):
                await theirs.read_exactly(2**20)
            await theirs.close()
            await ours.close()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("by_opener", [True, False])
async def test_a_reset_is_seen_by_reader_and_writer(by_opener: bool) -> None:
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        ours = await alice.open()
        theirs = await bob.accept()
        one, other = (ours, theirs) if by_opener else (theirs, ours)
        await one.write(b"before")

        async def refused(operation: str) -> None:
            with pytest.raises(TransportError) as caught:
                if operation == "read":
                    assert await other.read(100) == b"before"
                    await other.read(100)
                else:
                    await other.write(bytes(10 * 2**20))
            assert caught.value.code == "CUT_OFF" and not caught.value.outcome_known

        nursery.start_soon(refused, "read")
        nursery.start_soon(refused, "write")
        await trio.testing.wait_all_tasks_blocked()
        await one.reset()
        for operation in (one.read(1), one.write(b"x")):
            with pytest.raises(TransportError):
                await operation
        await trio.testing.wait_all_tasks_blocked()
        for end in (alice, bob):
            assert not end.connection._streams
            assert end.connection.streams_inbound == end.connection.streams_outbound == 0


async def test_a_reset_wakes_our_own_reader_and_writer() -> None:
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        ours = await alice.open()
        await bob.accept()

        async def cut_off(operation: str) -> None:
            with pytest.raises(TransportError):
                await (ours.read(1) if operation == "read" else ours.write(bytes(2**20)))

        nursery.start_soon(cut_off, "read")
        nursery.start_soon(cut_off, "write")
        await trio.testing.wait_all_tasks_blocked()
        ours.reset_soon()


async def test_what_came_before_a_reset_after_the_end_is_a_clean_end(autojump_clock: MockClock) -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        await ours.write(b"all of it")
        await ours.close()
        theirs = await bob.accept()
        await trio.sleep(STREAM_LINGER_S + 1)  # ours is reset, because the peer did not end its side
        assert alice.connection.streams_outbound == 0
        assert await theirs.read(100) == b"all of it"
        assert await theirs.read(100) == b""
        with pytest.raises(TransportError):
            await theirs.write(b"too late")
        await theirs.close()
        assert bob.connection.streams_inbound == 0


async def test_streams_cost_no_tasks() -> None:
    async with connected() as (alice, bob):
        for _ in range(200):
            ours = await alice.open()
            await ours.write(b"x")
            theirs = await bob.accept()
            await ours.close()
            await theirs.close()
            await trio.testing.wait_all_tasks_blocked()
        for end in (alice, bob):
            nursery = end.connection._nursery
            assert nursery is not None and len(nursery.child_tasks) <= 3
            assert not end.connection._streams and not end.connection._lingering


async def test_after_close_what_comes_is_discarded() -> None:
    async with connected() as (alice, bob), trio.open_nursery() as nursery:
        ours = await alice.open()
        theirs = await bob.accept()
        nursery.start_soon(theirs.write, bytes(3 * 2**20))
        await trio.testing.wait_all_tasks_blocked()
        await ours.close()
        assert await ours.read(100) == b""
        await trio.testing.wait_all_tasks_blocked()
        assert ours._buffered == 0 and not theirs._writing  # it got rid of all of it
        await theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        assert not alice.connection._streams and not bob.connection._streams


async def test_too_many_streams_are_an_error_at_either_end() -> None:
    async with connected() as (alice, bob):
        streams = [await alice.open() for _ in range(STREAMS_PER_PEER_MAX)]
        with pytest.raises(TransportError) as caught:
            await alice.open()
        assert caught.value.code == "TOO_MANY_STREAMS" and caught.value.outcome_known
        for _ in streams:
            await bob.accept()
        alice.connection.streams_outbound = 0  # as a peer would that knows no such bound
        refused = await alice.open()
        with pytest.raises(TransportError):
            await refused.read(1)
        alice.connection.streams_outbound += STREAMS_PER_PEER_MAX
        assert bob.violations == ["too_many_streams"]
        streams[0].reset_soon()
        await trio.testing.wait_all_tasks_blocked()
        await (await alice.open()).write(b"room again")
        theirs = await bob.accept()
        assert await theirs.read(100) == b"room again"


async def test_a_cancelled_read_loses_nothing(autojump_clock: MockClock) -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        theirs = await bob.accept()
        received = b""
        for number in range(10):
            await ours.write(b"%d" % number)
            for _ in range(2):  # the second finds nothing, and is cancelled
                with trio.move_on_after(0.1):
                    received += await theirs.read(10)
        assert received == b"0123456789"


async def test_a_cancelled_write_ends_its_stream_and_no_other(autojump_clock: MockClock) -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        with trio.move_on_after(1):
            await ours.write(bytes(2**20))
        with pytest.raises(TransportError):
            await ours.write(b"x")
        await ours.close()  # which is a reset
        theirs = await bob.accept()
        with pytest.raises(TransportError):
            await theirs.read_exactly(2**20)
        other = await alice.open()
        await other.write(b"fine")
        assert await (await bob.accept()).read(10) == b"fine"


async def test_the_end_of_the_connection() -> None:
    async with connected() as (alice, bob):
        ours = await alice.open()
        await ours.write(b"last words")
        theirs = await bob.accept()
        await alice.connection.abort()
        await bob.ended.wait()
        assert await theirs.read(100) == b"last words"
        for stream in (ours, theirs):
            with pytest.raises(TransportError) as caught:
                await stream.read(1)
            assert caught.value.code == "CUT_OFF"
            with pytest.raises(TransportError):
                await stream.write(b"x")
            await stream.close()
            await stream.reset()
        for end in (alice, bob):
            assert end.connection.is_over
            with pytest.raises(TransportError) as caught:
                await end.open()
            assert caught.value.code == "DISCONNECTED" and caught.value.outcome_known


async def test_what_was_closed_just_before_the_end_is_whole() -> None:
    async with connected() as (alice, bob):
        async with trio.open_nursery():
            ours = await alice.open()
            await ours.write(bytes(100_000))
            ours.close_soon()
            await alice.connection._say_goodbye(0)
            await alice.connection.abort()
        theirs = await bob.accept()
        await bob.ended.wait()
        assert await theirs.read_exactly(100_000) == bytes(100_000)
        assert await theirs.read(1) == b""


async def test_a_second_reader_or_writer_is_told() -> None:
    async with connected() as (alice, _), trio.open_nursery() as nursery:
        ours = await alice.open()
        nursery.start_soon(ours.read, 1)
        nursery.start_soon(ours.write, bytes(2**20))
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await ours.read(1)
        with pytest.raises(trio.BusyResourceError):
            await ours.write(b"x")
        nursery.cancel_scope.cancel()
