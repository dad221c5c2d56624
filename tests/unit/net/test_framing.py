"""Frames on byte streams that are cut, split and joined in every way."""

from __future__ import annotations

from collections import deque

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import EndOfStream, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import FRAME_BYTES_MAX
from cocoon_p2p.net.framing import END_FRAME, FramedStream
from cocoon_p2p.net.port import BulkFrame, Bytes

PEER = PeerId("12D3KooWPcfGdBCrdxX9nqGAdPAdkPMqfKEDjbZWGA4UFBJuY4rP")


class Recorded:
    """A ByteStream that reads prepared pieces and keeps what is written."""

    def __init__(self, *pieces: bytes, full_after: int | None = None) -> None:
        self.pieces = deque(pieces)
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.full_after = full_after

    async def write(self, *parts: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        if self.full_after is not None and len(self.written) >= self.full_after:
            await trio.sleep_forever()
        self.written.append(b"".join(parts))

    async def read(self, bytes_max: int) -> bytes:
        await trio.lowlevel.checkpoint()
        piece = self.pieces.popleft() if self.pieces else b""
        if len(piece) > bytes_max:
            self.pieces.appendleft(piece[bytes_max:])
        return piece[:bytes_max]

    async def read_into(self, buffer: memoryview) -> int:
        piece = await self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    async def close(self) -> None:
        self.calls.append("close")

    async def reset(self) -> None:
        self.calls.append("reset")


def framed(raw: Recorded) -> FramedStream:
    return FramedStream(PEER, "/test/1", raw)


def wire_of(*frames: Bytes | BulkFrame) -> bytes:
    """With the end frame."""

    async def send() -> bytes:
        raw = Recorded()
        stream = framed(raw)
        await stream.send(*frames)
        await stream.aclose()
        return b"".join(raw.written)

    return trio.run(send)


@given(frames=st.lists(st.binary(min_size=1, max_size=300), max_size=20), cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in_however_they_were_cut(frames: list[bytes], cuts: list[int]) -> None:
    wire = wire_of(*frames)
    pieces, at = [], 0
    while at < len(wire):
        step = cuts[len(pieces) % len(cuts)]
        pieces.append(wire[at : at + step])
        at += step

    async def receive_all() -> list[bytes]:
        stream = framed(Recorded(*pieces))
        received = []
        while True:
            try:
                received.append(await stream.receive())
            except EndOfStream:
                return received

    assert trio.run(receive_all) == frames


async def test_small_frames_are_joined_and_large_ones_are_not() -> None:
    raw = Recorded()
    await framed(raw).send(*[b"x"] * 1000, bytes(FRAME_BYTES_MAX), b"y")
    assert [len(piece) for piece in raw.written] == [5000 + 4 + FRAME_BYTES_MAX, 5]


@pytest.mark.parametrize("cut", range(1, 9))
async def test_truncation_is_an_error(cut: int) -> None:
    whole = b"\x00\x00\x00\x04abcd" + END_FRAME
    stream = framed(Recorded(whole[:cut]))
    with pytest.raises(TransportError) as caught:
        for _ in range(2):
            await stream.receive()
    assert not isinstance(caught.value, EndOfStream)
    assert not caught.value.outcome_known
    with pytest.raises(TransportError):
        await stream.send(b"x")


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, FRAME_BYTES_MAX])
@pytest.mark.parametrize("step", [1_000, 65_536, 3_000_000])
async def test_long_frames_between_short_ones(size: int, step: int) -> None:
    frame = bytes(range(251)) * (size // 251 + 1)
    raw = Recorded()
    await framed(raw).send(b"before", frame[:size], b"after", BulkFrame(b"head", frame[:size], b"tail", sealed=False)
                           if size + 8 <= FRAME_BYTES_MAX else b"x", b"end")  # fmt: skip
    wire = b"".join(raw.written)
    stream = framed(Recorded(*(wire[at : at + step] for at in range(0, len(wire), step))))
    assert await stream.receive() == b"before"
    assert await stream.receive() == frame[:size]
    assert await stream.receive() == b"after"
    bulky = await stream.receive()
    assert bulky == b"head" + frame[:size] + b"tail" or size == FRAME_BYTES_MAX
    assert await stream.receive() == b"end"


async def test_a_long_frame_is_not_written_over_while_it_is_held() -> None:
    wire = b"".join((100_000).to_bytes(4) + bytes((number,)) * 100_000 for number in range(20))
    stream = framed(Recorded(wire))
    held = [await stream.receive() for _ in range(20)]
    assert [frame[0] for frame in held] == list(range(20))
    assert all(frame == bytes((number,)) * 100_000 for number, frame in enumerate(held))
    with pytest.raises(TypeError):
        held[0][0] = 1  # type: ignore[index]


async def test_a_cancelled_receive_loses_nothing() -> None:
    pieces = [b"\x00\x01", b"\x86\xa0", bytes(60_000), bytes(40_000), b"\x00\x00\x00\x01", b"y"]

    class Slow(Recorded):
        async def read(self, bytes_max: int) -> bytes:
            if self.pieces and self.pieces[0] == b"wait":
                self.pieces.popleft()
                await trio.sleep_forever()
            return await super().read(bytes_max)

    stream = framed(Slow(*(part for piece in pieces for part in (b"wait", piece))))
    received: list[Bytes] = []
    cancelled = 0
    while len(received) < 2:
        with trio.move_on_after(0.001) as scope:
            received.append(await stream.receive())
        cancelled += scope.cancelled_caught
    assert received == [bytes(100_000), b"y"]
    assert cancelled == len(pieces)


async def test_many_frames_that_are_here_do_not_keep_others_from_running() -> None:
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            await trio.lowlevel.checkpoint()
            ran += 1

    stream = framed(Recorded(b"\x00\x00\x00\x01x" * 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for _ in range(1000):
            await stream.receive()
        nursery.cancel_scope.cancel()
    assert ran >= 10


async def test_without_data_sockets_an_external_frame_is_too_long() -> None:
    raw = Recorded(bytes((0x80, 0, 1, 0)) + bytes(100))
    with pytest.raises(RemoteProtocolError):
        await framed(raw).receive()
    assert raw.calls == ["reset"]


async def test_a_frame_that_is_too_long_resets() -> None:
    raw = Recorded((FRAME_BYTES_MAX + 1).to_bytes(4) + bytes(100))
    with pytest.raises(RemoteProtocolError) as caught:
        await framed(raw).receive()
    assert caught.value.code == "FRAME_TOO_LONG"
    assert raw.calls == ["reset"]


@pytest.mark.parametrize("frame", [b"", bytes(FRAME_BYTES_MAX + 1)])
async def test_a_frame_of_ours_out_of_bounds_is_not_sent(frame: bytes) -> None:
    raw = Recorded()
    with pytest.raises(LocalProtocolError):
        await framed(raw).send(b"first", frame)
    assert raw.written == []


async def test_a_cancelled_send_breaks_the_stream() -> None:
    raw = Recorded(full_after=1)
    stream = framed(raw)
    with trio.move_on_after(0.01):
        await stream.send(bytes(300_000), bytes(300_000))
    assert raw.calls == ["reset"]
    with pytest.raises(TransportError):
        await stream.send(b"x")
    with pytest.raises(TransportError):
        await stream.receive()


async def test_a_send_that_was_cancelled_before_its_turn_does_no_harm() -> None:
    raw = Recorded()
    stream = framed(raw)
    with trio.move_on_after(0) as scope:
        await stream.send(b"x")
    assert scope.cancelled_caught
    await stream.send(b"y")
    assert raw.written == [b"\x00\x00\x00\x01y"]


async def test_closing_sends_the_end_frame_once() -> None:
    raw = Recorded()
    done = []
    stream = FramedStream(PEER, "/test/1", raw, on_done=lambda: done.append(1))
    await stream.aclose()
    await stream.aclose()
    await stream.reset()
    assert (raw.written, raw.calls, done) == ([END_FRAME], ["close"], [1])
    with pytest.raises(TransportError):
        await stream.receive()


async def test_closing_under_cancellation_resets(autojump_clock: trio.testing.MockClock) -> None:
    raw = Recorded(full_after=0)
    stream = framed(raw)
    with trio.move_on_after(1):
        await stream.aclose()
    assert raw.calls == ["reset"]


async def test_closing_towards_a_peer_that_does_not_read_resets(autojump_clock: trio.testing.MockClock) -> None:
    raw = Recorded(full_after=0)
    await framed(raw).aclose()
    assert raw.calls == ["reset"]
