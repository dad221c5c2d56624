"""TcpPipe on real sockets."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from pathlib import Path

import pytest
import trio
import trio.testing
from secure_pairs import pipes_are_closed, read_exactly, tcp_pipes

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import SEND_FINISH_TIMEOUT_S
from cocoon_p2p.net.transport import pipe as pipe_module
from cocoon_p2p.net.transport.pipe import UNYIELDED_BYTES_MAX, TcpPipe, finishes_sends

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0


async def test_bytes_arrive_in_order_and_the_end_is_zero() -> None:
    near, far = tcp_pipes()
    data = bytes(i % 251 for i in range(2_000_000))
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, data)
            assert await read_exactly(far, len(data)) == data
        near.abort()
        assert await far.receive_into(memoryview(bytearray(10))) == 0
        assert await far.receive_into(memoryview(bytearray(10))) == 0


async def test_send_now_takes_what_the_system_takes_and_never_waits() -> None:
    near, far = tcp_pipes(buffer_bytes=8192)
    assert near.send_now(b"abc") == 3
    data = bytes(1_000_000)
    taken = near.send_now(data)
    assert 0 < taken < len(data)
    while near.send_now(data):
        pass
    assert near.send_now(b"x") == 0
    with trio.fail_after(PATIENCE_S):
        assert await read_exactly(far, 3) == b"abc"


def states(pipe: TcpPipe) -> list[str]:
    """What the kernel still has of this end: its state in /proc/net/tcp (01 established, 04 FIN_WAIT1 …)."""
    _, port = pipe.sock.getsockname()
    _, other = pipe.sock.getpeername()
    ends = (f"0100007F:{port:04X}", f"0100007F:{other:04X}")

    def look() -> list[str]:
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return [row[3] for row in rows if (row[1], row[2]) == ends]

    pipe.look = look  # type: ignore[attr-defined]
    return look()


async def gone(pipe: TcpPipe) -> float:
    """How long the kernel keeps it, in seconds."""
    began = trio.current_time()
    with trio.fail_after(PATIENCE_S):
        while set(pipe.look()) - {"05", "06"}:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await trio.sleep(0.01)
    return trio.current_time() - began


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux")
async def test_the_system_keeps_nothing_for_a_peer_that_left_a_send_standing() -> None:
    near, far = tcp_pipes(buffer_bytes=65536)
    while near.send_now(bytes(1_000_000)):
        pass
    assert states(near) == ["01"]
    near.abort()
    assert await gone(near) < pipe_module.CLOSE_LINGER_S / 2
    with pytest.raises(TransportError, match="reset"):
        while await far.receive_into(memoryview(bytearray(65536))):
            pass


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux")
async def test_the_system_does_not_try_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has taken all, but the peer does not: CLOSE_LINGER_S."""
    monkeypatch.setattr(pipe_module, "CLOSE_LINGER_S", 0.5)
    near, far = tcp_pipes()
    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
    while near.send_now(bytes(1000)) == 1000 and unsent(near) < 300_000:
        await trio.lowlevel.checkpoint()
    assert states(near) == ["01"]
    near.abort()
    assert near.look() == ["04"]  # type: ignore[attr-defined]
    assert 0.3 < await gone(near) < 5.0


async def test_the_last_words_arrive_before_the_end() -> None:
    """Closed at once after them, with megabytes under way to a peer that reads, late."""
    near, far = tcp_pipes()
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8_000_000)
    data = bytes(range(250)) * 4000
    assert near.send_now(data) == len(data)
    assert near.send_now(b"farewell") == 8
    near.abort()
    with trio.fail_after(PATIENCE_S):
        assert await read_exactly(far, len(data) + 8) == data + b"farewell"
        assert await far.receive_into(memoryview(bytearray(10))) == 0


def unsent(pipe: TcpPipe) -> int:
    """Bytes that the system holds and has not sent."""
    return int.from_bytes(fcntl.ioctl(pipe.sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


async def test_what_a_peer_reset_is_a_transport_error() -> None:
    near, far = tcp_pipes()
    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.abort()
    with trio.fail_after(PATIENCE_S):
        with pytest.raises(TransportError, match="reset"):
            await near.receive_into(memoryview(bytearray(10)))
        with pytest.raises(TransportError):
            await near.send_all(b"x")
        with pytest.raises(TransportError):
            near.send_now(b"x")


async def test_a_closed_pipe_raises_and_closing_twice_is_fine() -> None:
    near, far = tcp_pipes()
    near.abort()
    near.abort()
    assert near.is_closed
    with pytest.raises(TransportError, match="closed"):
        await near.receive_into(memoryview(bytearray(10)))
    with pytest.raises(TransportError, match="closed"):
        near.send_now(b"x")
    with pytest.raises(TransportError, match="closed"):
        await near.send_all(b"x")
    with pytest.raises(TransportError, match="closed"):
        await near.wait_readable()
    far.abort()


async def test_abort_wakes_reader_and_writer() -> None:
    near, _far = tcp_pipes(buffer_bytes=8192)
    woken = 0

    async def read() -> None:
        nonlocal woken
        with pytest.raises(TransportError):
            await near.receive_into(memoryview(bytearray(10)))
        woken += 1

    async def write() -> None:
        nonlocal woken
        with pytest.raises(TransportError):
            await near.send_all(bytes(10_000_000))
        woken += 1

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            near.abort()
    assert woken == 2


async def test_a_busy_pipe_lets_others_run() -> None:
    near, far = tcp_pipes()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def feed() -> None:
        while True:
            await near.send_all(bytes(200_000))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            nursery.start_soon(count)
            await read_exactly(far, 20 * UNYIELDED_BYTES_MAX)
            nursery.cancel_scope.cancel()
    assert turns >= 10


async def test_a_cancelled_receive_takes_nothing() -> None:
    near, far = tcp_pipes()
    await near.send_all(b"abc")
    with trio.CancelScope() as scope:
        scope.cancel()
        for _ in range(100):
            far._unyielded_calls = 1_000_000  # it is time to let others run, which is where the cancellation strikes
            await far.receive_into(memoryview(bytearray(1)))
    with trio.fail_after(PATIENCE_S):
        assert await read_exactly(far, 3) == b"abc"


async def test_a_cancelled_send_is_finished() -> None:
    near, far = tcp_pipes(buffer_bytes=8192)
    size = 500_000
    assert finishes_sends(near)

    async def read() -> None:
        assert await read_exactly(far, size) == bytes(size)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:
                scope.cancel()
                nursery.start_soon(read)
                await near.send_all(bytes(size))
            assert scope.cancelled_caught
    assert not near.is_closed


async def test_a_cancelled_send_that_nobody_reads_closes_the_pipe(autojump_clock: trio.testing.MockClock) -> None:
    near, far = tcp_pipes(buffer_bytes=8192)
    with trio.CancelScope() as scope:
        scope.cancel()
        await near.send_all(bytes(10_000_000))
    assert trio.current_time() == pytest.approx(SEND_FINISH_TIMEOUT_S)
    assert near.is_closed
    far.abort()


async def test_a_detached_socket_lives_on() -> None:
    near, far = tcp_pipes()
    with near.detach() as sock:
        assert near.is_closed
        sock.send(b"hello")
        with trio.fail_after(PATIENCE_S):
            assert await read_exactly(far, 5) == b"hello"


def test_a_pipe_shows_its_address_only() -> None:
    near, _ = tcp_pipes()
    assert repr(near) == f"<TcpPipe {near.address}>"
    assert isinstance(near, TcpPipe)
