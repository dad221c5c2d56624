"""Frames by data socket, over real sockets: both directions, and every way out."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
import trio
from bulk_pair import BODY_BYTES, DIALLER, LISTENER, Node, Pair, bulk, open_pair, until, whole

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.limits import BULK_BYTES_MIN, DATA_SOCKETS_PER_CONNECTION_MAX
from cocoon_p2p.net.framing import FramedStream

SIDES = ["dialler", "listener"]


def ends(pair: Pair, sender: str) -> tuple[Node, FramedStream, Node, FramedStream]:
    """Who sends, its end of a new stream, who receives, and its."""
    here, there = pair.streams()
    if sender == "dialler":
        return pair.dialler, here, pair.listener, there
    return pair.listener, there, pair.dialler, here


def swept(node: Node) -> Node:
    """Without waiting for its turn."""
    node.sockets._sweep(trio.current_time())
    return node


async def send_all(stream: FramedStream, count: int, *, sealed: bool) -> None:
    for number in range(count):
        await stream.send(b"short %d" % number, bulk(number, sealed=sealed), b"after")
    await stream.aclose()


async def expect_all(stream: FramedStream, count: int, *, sealed: bool) -> int:
    """How many came by data socket."""
    external = 0
    for number in range(count):
        assert await stream.receive() == b"short %d" % number
        frame = await stream.receive()
        external += stream._reader.last_was_external
        assert frame == whole(bulk(number, sealed=sealed))
        assert await stream.receive() == b"after"
    with pytest.raises(EndOfStream):
        await stream.receive()
    return external


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "encrypted"])
@pytest.mark.parametrize("sender", SIDES)
async def test_bodies_go_beside_the_stream_in_either_direction(sender: str, sealed: bool) -> None:
    seen = bytearray()
    async with open_pair() as pair:
        node, sending, other, receiving = ends(pair, sender)
        pair.path.alter = pair.path.alter_back = lambda data: seen.extend(data) or data  # type: ignore[func-returns-value]
        await pair.ready(node, sending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 20, sealed=sealed))
            assert await expect_all(receiving, 20, sealed=sealed) == 20
        assert len(seen) > 20 * BODY_BYTES
        assert (bytes(bulk(7).body[:1000]) in seen) == sealed
        assert not any(b"head %d" % number in seen for number in range(20))
        await until(lambda: node.outlets[0].is_clear)  # type: ignore[attr-defined]
        assert node.counters["data_socket_opened"] == len(node.outlets) == len(other.inlets) == 1


async def test_what_is_sent_before_the_socket_is_there_goes_over_the_stream() -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        sending.expect_bulk(BULK_BYTES_MIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 100, sealed=True))
            assert 0 < await expect_all(receiving, 100, sealed=True) < 100


@pytest.mark.parametrize("expected", [None, BULK_BYTES_MIN - 1])
async def test_small_transfers_get_no_socket(expected: int | None) -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        if expected is not None:
            sending.expect_bulk(expected)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 3, sealed=True))
            assert await expect_all(receiving, 3, sealed=True) == 0
        assert not pair.dialler.outlets


@pytest.mark.parametrize("why", ["blocked", "unspoken", "relayed", "websocket", "without lanes"])
@pytest.mark.parametrize("sender", SIDES)
async def test_without_a_data_socket_all_goes_over_the_stream(sender: str, why: str) -> None:
    async with open_pair() as pair:
        pair.path.blocked = why == "blocked"
        pair.speaks = why != "unspoken"
        for node in (pair.dialler, pair.listener):
            node.link.connection.relayed = why == "relayed"
            node.link.connection.transport = "websocket" if why == "websocket" else "tcp"
        here, there = pair.streams(with_lanes=why != "without lanes")
        sending, receiving = (here, there) if sender == "dialler" else (there, here)
        sending.expect_bulk(BULK_BYTES_MIN)
        node, peer = (pair.dialler, LISTENER) if sender == "dialler" else (pair.listener, DIALLER)
        if why in ("blocked", "unspoken"):
            await until(lambda: node.sockets.is_off(peer))
            assert node.counters["data_socket_refused"] == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 3, sealed=True))
            assert await expect_all(receiving, 3, sealed=True) == 0


async def test_a_socket_is_used_again_by_the_next_stream() -> None:
    async with open_pair() as pair:
        for _ in range(3):
            sending, receiving = pair.streams()
            sending.expect_bulk(BULK_BYTES_MIN)
            await until(lambda: bool(pair.dialler.outlets))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(send_all, sending, 4, sealed=True))
                assert await expect_all(receiving, 4, sealed=True) == 4
            await until(lambda: pair.dialler.outlets[0].is_clear)  # type: ignore[attr-defined]
        assert pair.dialler.counters["data_socket_opened"] == 1


async def test_streams_at_the_same_time_have_a_socket_each_up_to_the_bound() -> None:
    async with open_pair() as pair:
        streams = [pair.streams() for _ in range(DATA_SOCKETS_PER_CONNECTION_MAX + 1)]
        for sending, _ in streams[:-1]:
            await pair.ready(pair.dialler, sending)
            await sending.send(bulk(1))
        sending, receiving = streams[-1]
        sending.expect_bulk(BULK_BYTES_MIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 3, sealed=True))
            assert await expect_all(receiving, 3, sealed=True) == 0
        assert len(pair.dialler.outlets) == DATA_SOCKETS_PER_CONNECTION_MAX
        for _, receiving in streams[:-1]:
            assert await receiving.receive() == whole(bulk(1))


@pytest.mark.parametrize("sender", SIDES)
async def test_a_path_that_breaks_cuts_the_stream_off_and_is_not_used_again(sender: str) -> None:
    async with open_pair() as pair:
        node, sending, _, receiving = ends(pair, sender)
        await pair.ready(node, sending)
        await sending.send(bulk(0))
        assert await receiving.receive() == whole(bulk(0))
        errors: list[TransportError] = []

        async def send() -> None:
            try:
                for number in range(1000):
                    await sending.send(bulk(number))
            except TransportError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(3):
                await receiving.receive()
            await pair.path.cut()
            with pytest.raises(TransportError) as caught:
                while True:
                    await receiving.receive()
        assert not isinstance(caught.value, EndOfStream)
        assert not caught.value.outcome_known
        assert not errors[0].outcome_known
        await until(lambda: not node.outlets)
        assert node.sockets.is_off(node.link.connection.peer)
        node, sending, _, receiving = ends(pair, sender)  # the retry
        sending.expect_bulk(BULK_BYTES_MIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send_all(sending, 3, sealed=True))
            assert await expect_all(receiving, 3, sealed=True) == 0


async def test_a_connection_that_ends_takes_its_sockets_along_and_blames_nobody() -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        outlet, inlet = pair.dialler.outlets[0], pair.listener.inlets[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_until_it_fails, sending)
            await receiving.receive()
            pair.dialler.link.ended.set()
            pair.listener.link.ended.set()
        assert outlet.is_over  # type: ignore[attr-defined]
        assert inlet.is_over  # type: ignore[attr-defined]
        assert not pair.dialler.sockets.is_off(LISTENER)
        assert not pair.listener.sockets.is_off(DIALLER)


async def _send_until_it_fails(stream: FramedStream) -> None:
    with pytest.raises(TransportError):
        while True:
            await stream.send(bulk(1))


@pytest.mark.parametrize("who", ["sender", "receiver"])
async def test_a_reset_in_the_middle_is_known_at_once_and_no_fault_of_the_path(who: str) -> None:
    async with open_pair() as pair:
        pair.front_port = pair.behind_port
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        async with trio.open_nursery() as nursery:
            if who == "receiver":
                nursery.start_soon(_send_until_it_fails, sending)
                await receiving.receive()
                with trio.fail_after(1.0):
                    await receiving.reset()
            else:
                with trio.move_on_after(0.05):
                    while True:
                        await sending.send(bulk(1))
                with trio.fail_after(1.0), pytest.raises(TransportError):
                    while True:
                        await receiving.receive()
        await until(lambda: not [outlet for outlet in pair.dialler.outlets if not outlet.is_over])  # type: ignore[attr-defined]
        await until(lambda: not swept(pair.listener).inlets)
        assert not pair.dialler.sockets.is_off(LISTENER)
        assert not pair.listener.sockets.is_off(DIALLER)


async def test_a_slow_reader_slows_its_sender_and_nobody_else() -> None:
    sent = 0

    async def send(stream: FramedStream) -> None:
        nonlocal sent
        for number in range(200):
            await stream.send(bulk(number))
            sent += 1

    async with open_pair() as pair:
        sending, receiving = pair.streams()
        quick, answering = pair.streams()
        await pair.ready(pair.dialler, sending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, sending)
            before = -1
            while before != sent:  # until the kernel's buffers are full
                before = sent
                await trio.sleep(0.1)
            assert sent < 150
            await quick.send(b"there?")
            assert await answering.receive() == b"there?"
            for number in range(200):
                assert await receiving.receive() == whole(bulk(number))


async def test_a_cancelled_receive_goes_on_where_it_was() -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        held = trio.Event()

        async def trickle() -> None:
            await sending.send(bulk(5, size=1_000_000))
            held.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle)
            frame = None
            cancelled = 0
            while frame is None:
                with trio.move_on_after(0.0005) as scope:
                    frame = await receiving.receive()
                cancelled += scope.cancelled_caught
            assert frame == whole(bulk(5, size=1_000_000))


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "encrypted"])
async def test_what_was_altered_on_the_path_is_doubted_and_the_path_left(sealed: bool) -> None:
    async with open_pair() as pair:
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        altered = bytearray()

        def alter(data: bytes) -> bytes:
            if altered:
                return data
            altered.extend(data[:1])
            return bytes((data[0] ^ 1,)) + data[1:]

        pair.path.alter = alter
        await sending.send(bulk(1, sealed=sealed))
        if sealed:
            assert await receiving.receive() != whole(bulk(1))
            assert receiving.doubt_bulk()
            await until(lambda: not pair.dialler.outlets[0].may_begin)  # type: ignore[attr-defined]
            await sending.send(bulk(2))
            assert await receiving.receive() == whole(bulk(2))
            assert not receiving.doubt_bulk()  # this one came over the stream: the peer's own
        else:
            with pytest.raises(TransportError):
                await receiving.receive()
        assert pair.listener.counters["data_socket_altered"] == 1
        assert pair.listener.sockets.is_off(DIALLER)


async def test_a_receiver_that_closes_early_stops_the_socket_and_the_path_is_not_blamed() -> None:
    async def send(stream: FramedStream) -> None:
        with suppress(TransportError):  # or, as on any stream that its reader closed, what is sent is dropped
            for number in range(50):
                await stream.send(bulk(number))

    async with open_pair() as pair:
        pair.front_port = pair.behind_port
        sending, receiving = pair.streams()
        await pair.ready(pair.dialler, sending)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, sending)
            await receiving.receive()
            await receiving.aclose()
        assert all(inlet.is_over for inlet in pair.listener.inlets)  # type: ignore[attr-defined]
        await until(lambda: not pair.dialler.outlets)
        assert not pair.dialler.sockets.is_off(LISTENER)
