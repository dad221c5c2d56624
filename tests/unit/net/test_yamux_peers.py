"""What a peer of another make, or a hostile one, may send to a connection: frame by frame."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock
from yamux_pairs import Bare, bare, session_pair

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.limits import (
    KEEPALIVE_DOUBT_S,
    KEEPALIVE_INTERVAL_S,
    KEEPALIVE_MISSES_MAX,
    STREAM_WINDOW_BYTES_INITIAL,
    STREAMS_PER_PEER_MAX,
    YAMUX_PING_REPLIES_PER_S,
    YAMUX_REPLIES_MAX,
)
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    NORMAL,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    WINDOW_UPDATE,
    encode_header,
)
from cocoon_p2p.net.yamux.stream import PIECE_BYTES, MuxStream

WINDOW = STREAM_WINDOW_BYTES_INITIAL


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return encode_header(DATA, flags, number, len(payload)) + payload


async def opened(peer: Bare) -> MuxStream:
    """Stream 1, opened by the peer, of whose acceptance it has been told."""
    await peer.send(encode_header(WINDOW_UPDATE, SYN, 1, 0))
    assert (await peer.next())[:4] == (WINDOW_UPDATE, ACK, 1, 0)
    return await peer.end.accept()


async def test_a_stream_opened_with_data_and_end() -> None:
    async with bare() as peer:
        await peer.send(data(1, b"all at once", SYN | FIN))
        stream = await peer.end.accept()
        assert await stream.read(100) == b"all at once"
        assert await stream.read(100) == b""
        await stream.write(b"answer")
        await stream.close()
        answer = await peer.next()
        while answer.kind == WINDOW_UPDATE and answer.flags == ACK:  # by itself, or with the data
            answer = await peer.next()
        assert (answer.kind, bytes(answer.payload)) == (DATA, b"answer")
        assert (await peer.next())[:4] == (WINDOW_UPDATE, FIN, 1, 0)
        assert not peer.end.connection._streams


async def test_an_answer_at_once_is_the_acceptance_too() -> None:
    async with bare() as peer:
        await peer.send(data(1, b"question", SYN))
        stream = await peer.end.accept()
        await stream.write(b"answer")
        assert (await peer.next())[:3] in ((DATA, ACK, 1), (WINDOW_UPDATE, ACK, 1))


async def test_our_first_data_opens_the_stream() -> None:
    async with bare() as peer:
        stream = await peer.end.open()
        await stream.write(b"hi")
        first = await peer.next()
        assert (first.kind, first.flags, first.stream_id, bytes(first.payload)) == (DATA, SYN, 2, b"hi")
        await peer.send(data(2, b"hello", ACK))
        assert await stream.read(100) == b"hello"
        for _ in range(2):
            assert (await peer.end.open()).number % 2 == 0


async def test_a_stream_opened_with_a_larger_window() -> None:
    async with bare() as peer:
        await peer.send(encode_header(WINDOW_UPDATE, SYN, 1, WINDOW))
        stream = await peer.end.accept()
        with trio.fail_after(5):
            await stream.write(bytes(2 * WINDOW))


async def test_writers_take_turns() -> None:
    """A large write holds a small one up by a frame or two, not by all that it has to send."""
    async with bare(capacity=1) as peer, trio.open_nursery() as nursery:
        large, small = await peer.end.open(), await peer.end.open()
        nursery.start_soon(large.write, bytes(50 * 2**20))
        while (await peer.next()).stream_id != large.number:
            pass
        await peer.send(encode_header(WINDOW_UPDATE, 0, large.number, 100 * 2**20))

        async def write_small() -> None:
            for _ in range(5):
                await small.write(b"small")

        nursery.start_soon(write_small)
        for _ in range(5):
            before = 0
            while (frame := await peer.next()).stream_id != small.number:
                before += len(frame.payload)
            assert before <= 4 * PIECE_BYTES
        nursery.cancel_scope.cancel()


async def test_an_end_beside_data_comes_after_it() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        frame = data(1, bytes(1000), FIN)
        for start in range(0, len(frame), 100):
            await peer.send(frame[start : start + 100])
        assert await stream.read_exactly(1000) == bytes(1000)
        assert await stream.read(1) == b""


async def test_a_reset_in_the_middle_of_a_frame_of_ours_is_no_fault() -> None:
    """What comes for a stream that we reset was on its way."""
    async with bare() as peer:
        stream = await opened(peer)
        frame = data(1, bytes(1000))
        await peer.send(frame[:500])
        await trio.testing.wait_all_tasks_blocked()
        await stream.reset()
        await peer.send(frame[500:], data(1, b"more"), encode_header(WINDOW_UPDATE, 0, 1, 5))
        await peer.send(data(3, b"next", SYN))
        assert await (await peer.end.accept()).read(100) == b"next"
        assert (await peer.next())[:3] == (WINDOW_UPDATE, RST, 1)
        assert peer.end.violations == []


async def test_a_window_overrun_ends_that_stream() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        await peer.send(data(3, b"", SYN))
        other = await peer.end.accept()
        await peer.send(data(1, bytes(WINDOW)))
        await trio.testing.wait_all_tasks_blocked()
        assert stream._buffered == WINDOW and peer.end.violations == []
        await peer.send(data(1, b"x"), data(1, bytes(1000)), data(3, b"unharmed"))
        assert await other.read(100) == b"unharmed"
        assert peer.end.violations == ["window_overrun"]
        assert stream._buffered == 0
        with pytest.raises(TransportError):
            await stream.read(1)
        assert (await peer.next())[:3] == (WINDOW_UPDATE, ACK, 3)
        assert (await peer.next())[:3] == (WINDOW_UPDATE, RST, 1)


async def test_data_after_the_end_ends_that_stream() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        await peer.send(encode_header(WINDOW_UPDATE, FIN, 1, 0), data(1, b"more"))
        with pytest.raises(TransportError):
            await stream.read(1)
        assert peer.end.violations == ["window_overrun"]


async def test_a_window_full_of_single_bytes_takes_little_memory() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        await peer.send(b"".join(data(1, b"%d" % (number % 10)) for number in range(50_000)))
        await trio.testing.wait_all_tasks_blocked()
        assert len(stream._pieces) <= 3
        assert await stream.read_exactly(50_000) == b"0123456789" * 5000


async def test_a_small_piece_does_not_keep_what_came_with_it() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        await peer.send(data(3, b"", SYN), data(3, bytes(200_000)), data(1, bytes(5000)), data(1, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert all(type(piece) is not memoryview for piece in stream._pieces)


async def test_a_flood_of_streams() -> None:
    async with bare() as peer:
        for number in range(1, 20_001, 2):
            await peer.send(encode_header(WINDOW_UPDATE, SYN, number, 0))
            if number % 100 == 1:
                await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        connection = peer.end.connection
        assert connection.streams_inbound == len(connection._streams) == STREAMS_PER_PEER_MAX
        assert peer.end.violations == ["too_many_streams"] * (10_000 - STREAMS_PER_PEER_MAX)


async def test_streams_opened_and_reset_leave_nothing() -> None:
    async with bare() as peer:
        for number in range(1, 2001, 2):
            await peer.send(data(number, b"x", SYN), encode_header(WINDOW_UPDATE, RST, number, 0))
            stream = await peer.end.accept()
            await stream.close()
        await trio.testing.wait_all_tasks_blocked()
        connection = peer.end.connection
        assert connection.streams_inbound == len(connection._streams) == len(connection._lingering) == 0


async def test_pings_are_answered_at_a_bounded_rate(autojump_clock: MockClock) -> None:
    async with bare() as peer:
        for number in range(3 * YAMUX_PING_REPLIES_PER_S):
            await peer.send(encode_header(PING, SYN, 0, number))
        await trio.testing.wait_all_tasks_blocked()
        assert peer.end.violations == ["ping_flood"] * (2 * YAMUX_PING_REPLIES_PER_S)
        await trio.sleep(0.5)
        await peer.send(encode_header(PING, SYN, 0, 7777))
        replies = []
        while 7777 not in replies:
            frame = await peer.next(pings=True)
            if frame.flags == ACK:
                replies.append(frame.length)
        assert replies == [*range(YAMUX_PING_REPLIES_PER_S), 7777]


async def test_a_peer_that_reads_no_replies_is_cut_off() -> None:
    async with bare(capacity=100) as peer:
        await peer.send(b"".join(encode_header(WINDOW_UPDATE, SYN, number, 0) for number in range(1, 5001, 2)))
        await peer.end.ended.wait()
        assert peer.end.violations[-1] == "reply_flood"
        refused = peer.end.violations.count("too_many_streams")
        assert YAMUX_REPLIES_MAX <= refused <= YAMUX_REPLIES_MAX + 2


@pytest.mark.parametrize(
    "frames",
    [
        [b"\x01" + bytes(11)],
        [b"\x00\x09" + bytes(10)],
        [encode_header(DATA, 0, 1, 2**31)],
        [encode_header(WINDOW_UPDATE, SYN, 0, 0)],
        [encode_header(WINDOW_UPDATE, SYN, 2, 0)],  # ours to open
        [encode_header(WINDOW_UPDATE, SYN, 1, 0)] * 2,
        [b"GET / HTTP/1.1\r\n\r\n"],
    ],
)
async def test_who_breaks_the_rules_is_told_and_left(frames: list[bytes]) -> None:
    ours, theirs = session_pair()
    violations: list[str] = []
    connection = MuxedConnection(theirs, on_violation=violations.append)
    peer = Bare(ours, None)  # type: ignore[arg-type]
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def run() -> None:
                with pytest.raises(RemoteProtocolError) as caught:
                    await connection.run(lambda stream: None)
                assert caught.value.code == "YAMUX"

            nursery.start_soon(run)
            await peer.send(*frames)
            frame = await peer.next()
            while frame.kind != GO_AWAY:
                frame = await peer.next()
            assert frame.length == PROTOCOL_ERROR
            with pytest.raises(EOFError):
                await peer.next()
    assert violations == ["yamux"] and connection.is_over


async def test_a_peer_that_goes_away_finishes_what_it_began() -> None:
    async with bare() as peer:
        stream = await opened(peer)
        await peer.send(encode_header(GO_AWAY, 0, 0, NORMAL), data(1, b"the rest", FIN))
        assert await stream.read(100) == b"the rest"
        assert await stream.read(100) == b""
        assert peer.end.connection.is_over
        with pytest.raises(TransportError) as caught:
            await peer.end.open()
        assert caught.value.code == "DISCONNECTED"
        await stream.write(b"fine")


async def test_we_say_that_we_go_away() -> None:
    async with bare() as peer:
        await opened(peer)
        stream = await peer.end.open()
        await stream.write(b"x")
        stream.close_soon()
        peer.end.connection._nursery.cancel_scope.cancel()  # type: ignore[union-attr]
        frames = [await peer.next(), await peer.next(), await peer.next()]
        assert [(frame.kind, frame.flags) for frame in frames] == [(DATA, SYN), (WINDOW_UPDATE, FIN), (GO_AWAY, 0)]
        assert frames[-1].length == NORMAL
        with pytest.raises(EOFError):
            await peer.next()


async def test_a_silent_peer_is_given_up(autojump_clock: MockClock) -> None:
    async with bare(patience_s=200) as peer:
        await opened(peer)
        started = trio.current_time()
        await peer.end.ended.wait()
        misses = (trio.current_time() - started) / KEEPALIVE_INTERVAL_S
        assert KEEPALIVE_MISSES_MAX - 0.1 < misses < KEEPALIVE_MISSES_MAX + 1.1


@pytest.mark.parametrize("waiting", [True, False], ids=["while a ping waits", "between pings"])
async def test_in_doubt_a_silent_peer_is_given_up_soon(autojump_clock: MockClock, waiting: bool) -> None:
    async with bare(patience_s=200) as peer:
        await opened(peer)
        if not waiting:
            for _ in range(4):  # the early ones, and the first after a pause
                number = await ping_of(peer)
                await peer.send(encode_header(PING, ACK, 0, number))
        await trio.sleep(KEEPALIVE_INTERVAL_S / 4)
        started = trio.current_time()
        peer.end.connection.doubt()
        await peer.end.ended.wait()
        pings = (trio.current_time() - started) / KEEPALIVE_DOUBT_S
        # During the one that was waiting something came.
        assert KEEPALIVE_MISSES_MAX - 0.1 < pings < KEEPALIVE_MISSES_MAX + waiting + 0.1


async def test_an_answer_ends_the_doubt(autojump_clock: MockClock) -> None:
    async with bare(patience_s=200) as peer:
        await opened(peer)
        peer.end.connection.doubt()
        for _ in range(5):
            number = await ping_of(peer)
            await trio.sleep(0.9 * KEEPALIVE_DOUBT_S)
            await peer.send(encode_header(PING, ACK, 0, number))
        started = trio.current_time()
        await peer.end.ended.wait()
        assert trio.current_time() - started > KEEPALIVE_MISSES_MAX * KEEPALIVE_INTERVAL_S


async def ping_of(peer: Bare) -> int:
    while True:
        frame = await peer.next(pings=True)
        if frame.kind == PING and frame.flags == SYN:
            return frame.length


async def test_a_peer_that_is_busy_sending_may_answer_late(autojump_clock: MockClock) -> None:
    async with bare(patience_s=200) as peer:
        await opened(peer)
        for _ in range(10):
            await trio.sleep(KEEPALIVE_INTERVAL_S * 0.9)
            await peer.send(encode_header(WINDOW_UPDATE, 0, 1, 1))
        assert not peer.end.connection.is_over
        assert peer.end.connection.latency_s is None
