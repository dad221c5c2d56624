"""The Noise session: what is sent arrives however it is cut, and whoever bends it is found out."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from secure_pairs import (
    KEYS_BACK,
    ScriptedPipe,
    chunks,
    pipes_are_closed,
    receive_all,
    receive_exactly,
    sealed,
    session,
    sessions,
    tcp_pipes,
)

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import NOISE_BUFFERS_KEPT_MAX, SEND_FINISH_TIMEOUT_S
from cocoon_p2p.net.noise import buffers
from cocoon_p2p.net.noise.handshake import NONCE_MAX
from cocoon_p2p.net.noise.session import PLAINTEXT_BYTES_MAX, NoiseSession

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0
RANDOM = random.Random(7)
SIZES = [1, 100, 16 * 1024, 16 * 1024 + 1, PLAINTEXT_BYTES_MAX, PLAINTEXT_BYTES_MAX + 1, 300_000, 1_500_000]


@pytest.mark.parametrize("size", SIZES)
async def test_what_is_sent_arrives(size: int) -> None:
    near, far = sessions()
    data = RANDOM.randbytes(size)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, data[:12], memoryview(data)[12:])
            assert await receive_exactly(far, size) == data
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.send, data)
            assert await receive_exactly(near, size) == data
    assert near.bytes_sent == far.bytes_received > size
    assert far.bytes_sent == near.bytes_received > size


async def test_what_the_peer_said_before_it_closed_is_heard_after_a_send_failed() -> None:
    """It closes while we write: the write fails, and what is unread is none the worse."""
    near, far = sessions(buffer_bytes=65536)
    words = [b"first", b"a refusal, and why", b"farewell"]
    with trio.fail_after(PATIENCE_S):
        for word in words:
            await far.send(word)
        far.abort()
        with pytest.raises(TransportError) as caught:
            while True:
                await near.send(bytes(20_000))
        assert caught.value.code == "DISCONNECTED"
        assert await receive_exactly(near, sum(map(len, words))) == b"".join(words)
        with suppress(TransportError):  # a reset, if ours was under way when it closed
            assert not await near.receive()
        with pytest.raises(TransportError):
            await near.send(b"x")


@given(
    parts=st.lists(st.lists(st.integers(0, 150_000), max_size=4), max_size=4),
    cuts=st.lists(st.integers(1, 70_000), max_size=20),
)
@settings(max_examples=40, deadline=None)
def test_any_parts_arrive_however_the_wire_is_cut(parts: list[list[int]], cuts: list[int]) -> None:
    async def main() -> None:
        pipe = ScriptedPipe()
        sender = session(pipe, KEYS_BACK)
        expected = bytearray()
        for call in parts:
            data = [RANDOM.randbytes(size) for size in call]
            expected += b"".join(data)
            await sender.send(*data)
        assert sender.bytes_sent == len(pipe.sent)
        assert await receive_all(session(ScriptedPipe(chunks(bytes(pipe.sent), cuts)))) == expected

    trio.run(main)


async def test_bytes_read_beyond_the_handshake_come_first() -> None:
    wire = await sealed(b"first", b"second")
    receiver = session(ScriptedPipe([wire[15:]]), received=wire[:15])
    assert await receive_all(receiver) == b"firstsecond"
    assert receiver.bytes_received == len(wire)


async def test_a_view_outlives_what_is_received_after_it() -> None:
    near, far = sessions()
    views = []
    with trio.fail_after(PATIENCE_S):
        for i in range(50):
            await near.send(bytes([i]) * 1000)
            views.append(await far.receive())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, bytes(2_000_000))
            await receive_exactly(far, 2_000_000)
    assert [bytes(view) for view in views] == [bytes([i]) * 1000 for i in range(50)]


async def test_what_is_put_back_comes_again() -> None:
    receiver = session(ScriptedPipe([await sealed(b"abcdef", b"ghi")]))
    view = await receiver.receive()
    receiver.put_back(view[2:])
    assert await receive_all(receiver) == b"cdefghi"


async def test_many_senders_keep_their_parts_together() -> None:
    near, far = sessions(buffer_bytes=8192)
    size = 40_000

    async def send(number: int) -> None:
        for _ in range(5):
            await near.send(bytes([number]) * 10, bytes([number]) * (size - 10))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)
            data = await receive_exactly(far, 8 * 5 * size)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert all(piece == piece[:1] * size for piece in pieces)
    assert sorted(piece[0] for piece in pieces) == sorted(list(range(8)) * 5)


async def test_a_small_send_does_not_switch_tasks() -> None:
    near, far = sessions()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        await near.send(b"small")
        assert turns == before
        for _ in range(1000):
            await near.send(b"small")
        assert turns > before + 10, "one busy sender starves the others"
        nursery.cancel_scope.cancel()
    far.abort()


async def test_a_busy_receiver_lets_others_run() -> None:
    receiver = None
    near, far = tcp_pipes()
    wire = await sealed(*[b"x" * 500] * 1000)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, wire)
            receiver = session(far)
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(count)
            await receive_exactly(receiver, 500_000)
            assert turns > 0
            nursery.cancel_scope.cancel()


# --- the other end is not what it should be --------------------------------------------------------------------------


async def fails(receiver: NoiseSession, code: str) -> None:
    """The session is over for receiving and sending, and its pipe closed."""
    with pytest.raises(TransportError) as caught:
        await receive_all(receiver)
    assert caught.value.code == code
    for operation in (receiver.receive, lambda: receiver.send(b"x")):
        with pytest.raises(TransportError) as again:
            await operation()
        assert again.value.code == code
    assert isinstance(receiver.pipe, ScriptedPipe)
    assert receiver.pipe.aborted


async def test_a_bent_byte_anywhere_ends_the_session() -> None:
    wire = await sealed(b"a message", b"another")
    for position in range(len(wire)):
        bent = bytearray(wire)
        bent[position] ^= 1
        receiver = session(ScriptedPipe([bytes(bent)]))
        with pytest.raises(TransportError) as caught:
            await receive_all(receiver)
        assert caught.value.code in ("UNAUTHENTIC", "CUT_OFF"), position
        with pytest.raises(TransportError):
            await receiver.send(b"x")


async def test_what_was_authentic_before_the_garbage_arrives() -> None:
    wire = await sealed(b"good", b"bad")
    receiver = session(ScriptedPipe([wire[:-1] + bytes([wire[-1] ^ 1])]))
    assert bytes(await receiver.receive()) == b"good"
    await fails(receiver, "UNAUTHENTIC")


async def test_repeated_and_swapped_messages_are_found() -> None:
    first, second = await sealed(b"one"), (await sealed(b"one", b"two"))[2 + 3 + 16 :]
    await fails(session(ScriptedPipe([first, first])), "UNAUTHENTIC")
    await fails(session(ScriptedPipe([second, first])), "UNAUTHENTIC")


async def test_a_message_shorter_than_its_tag_is_garbage() -> None:
    await fails(session(ScriptedPipe([b"\x00\x05abcde"])), "UNAUTHENTIC")


async def test_an_end_within_a_message_is_no_clean_end() -> None:
    wire = await sealed(b"a message")
    for size in range(1, len(wire)):
        await fails(session(ScriptedPipe([wire[:size]])), "CUT_OFF")
    assert await receive_all(session(ScriptedPipe([wire]))) == b"a message"
    assert await receive_all(session(ScriptedPipe())) == b""


async def test_the_peer_closes_within_a_large_message() -> None:
    near, far = sessions()
    wire = await sealed(bytes(500_000))
    far.pipe.send_now(wire[:200_000])
    far.abort()
    with pytest.raises(TransportError) as caught, trio.fail_after(PATIENCE_S):
        await receive_all(near)
    assert caught.value.code == "CUT_OFF"


async def test_empty_messages_are_skipped() -> None:
    pipe = ScriptedPipe()
    sender = session(pipe, KEYS_BACK)
    for text in (b"a", b"", b"b"):
        pipe.sent += sender._seal_small(text)
    assert await receive_all(session(ScriptedPipe([pipe.sent]))) == b"ab"


@given(st.lists(st.binary(max_size=200), max_size=20))
@settings(max_examples=100, deadline=None)
def test_garbage_is_a_transport_error_or_an_end(pieces: list[bytes]) -> None:
    async def main() -> None:
        data = b""
        try:
            data = await receive_all(session(ScriptedPipe(pieces)))
        except TransportError as error:
            assert error.code in ("UNAUTHENTIC", "CUT_OFF")
        assert data == b""

    trio.run(main)


async def test_numbers_are_never_used_twice() -> None:
    near, far = sessions()
    near._next_sent = far._next_received = NONCE_MAX
    await near.send(b"the last one")
    assert bytes(await far.receive()) == b"the last one"
    with pytest.raises(TransportError, match="used up"):
        await near.send(b"one too many")


# --- cancellation and closing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2_000_000, 100_000])
async def test_a_cancelled_send_goes_out_whole(size: int) -> None:
    near, far = sessions(buffer_bytes=8192)
    cancelled = trio.Event()

    async def send_and_give_up() -> None:
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await near.send(b"a" * size)
        assert scope.cancelled_caught
        cancelled.set()

    async def cancel_when_blocked(scope: trio.CancelScope) -> None:
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        nursery.start_soon(receive)

    async def receive() -> None:
        assert await receive_exactly(far, size) == b"a" * size

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_and_give_up)
        assert cancelled.is_set()
        await near.send(b"the session lives")
        assert bytes(await far.receive()) == b"the session lives"


async def test_a_cancelled_send_that_nobody_reads_ends_the_session(autojump_clock: trio.testing.MockClock) -> None:
    near, far = sessions(buffer_bytes=8192)
    with trio.move_on_after(1) as scope:
        await near.send(bytes(2_000_000))
    assert scope.cancelled_caught
    assert trio.current_time() <= 1 + 2 * SEND_FINISH_TIMEOUT_S
    with pytest.raises(TransportError):
        await near.send(b"x")
    far.abort()


async def test_on_a_pipe_that_cannot_finish_a_cancelled_send_ends_the_session() -> None:
    class Relay(ScriptedPipe):
        finishes_sends = False

        async def send_all(self, data: object) -> None:
            await trio.sleep_forever()

    pipe = Relay(takes_now=0)
    sender = session(pipe)
    with trio.CancelScope() as scope:
        scope.cancel()
        await sender.send(b"x")
    assert pipe.aborted


async def test_a_send_cancelled_while_it_waits_for_its_turn_sends_nothing() -> None:
    near, far = sessions(buffer_bytes=8192)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, b"a" * 1_000_000)
            await trio.testing.wait_all_tasks_blocked()
            with trio.CancelScope() as scope:
                scope.cancel()
                await near.send(b"b")
            await receive_exactly(far, 1_000_000)
        await near.send(b"c")
        assert bytes(await far.receive()) == b"c"


async def test_a_cancelled_receive_loses_nothing() -> None:
    near, far = sessions()
    with trio.CancelScope() as scope:
        scope.cancel()
        await far.receive()
    await near.send(b"still there")
    with trio.fail_after(PATIENCE_S):
        assert bytes(await far.receive()) == b"still there"


@pytest.mark.parametrize("what", ["receive", "send"])
async def test_abort_wakes_whoever_waits(what: str) -> None:
    near, far = sessions(buffer_bytes=8192)
    operations: dict[str, Callable[[], object]] = {
        "receive": near.receive,
        "send": lambda: near.send(bytes(2_000_000)),
    }

    async def wait() -> None:
        with pytest.raises(TransportError):
            await operations[what]()  # type: ignore[misc]

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            near.abort()
            near.abort()
    far.abort()


# --- memory ----------------------------------------------------------------------------------------------------------


async def test_an_idle_session_holds_no_large_buffer() -> None:
    near, far = sessions()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, bytes(3_000_000))
            await receive_exactly(far, 3_000_000)
        await near.send(b"x")
        await far.receive()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.receive)
            await trio.testing.wait_all_tasks_blocked()
            assert far._buffer is far._small
            assert len(far._small) < 66 * 1024
            nursery.cancel_scope.cancel()
    assert len(buffers._kept) <= NOISE_BUFFERS_KEPT_MAX


async def test_a_large_transfer_reuses_its_buffers() -> None:
    near, far = sessions()
    with trio.fail_after(PATIENCE_S):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send, bytes(3_000_000))
                await receive_exactly(far, 3_000_000)
        gc.collect()
        known = {id(buffer.obj) for buffer in buffers._kept}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send, bytes(3_000_000))
            await receive_exactly(far, 3_000_000)
        await near.send(b"x")
        await far.receive()
    assert {id(buffer.obj) for buffer in buffers._kept} <= known
