"""Frames whose bodies come by data socket, between others, cut in every way and at every byte; without real sockets."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from test_framing import PEER, Recorded

from cocoon_p2p.errors import EndOfStream, RemoteProtocolError, TransportError
from cocoon_p2p.limits import EXTERNAL_BODY_BYTES_MIN, EXTERNAL_INLINE_BYTES_MAX
from cocoon_p2p.net.external_frames import EXTERNAL_HEADER_BYTES, ExternalHeader, PartKind
from cocoon_p2p.net.framing import END_FRAME, FramedStream
from cocoon_p2p.net.port import BulkFrame, Bytes

SOCKET_ID = b"s" * 16


class Lane:
    """Data sockets as two strings of bytes."""

    def __init__(self, incoming: bytes = b"", step: int = 1_000_000) -> None:
        self.sent = bytearray()
        self.incoming = memoryview(incoming)
        self.step = step
        self.heard: list[str] = []

    def expect(self, payload_bytes: int) -> None:
        self.heard.append(f"expect {payload_bytes}")

    def outlet(self) -> Lane:
        return self

    def inlet(self, header: ExternalHeader) -> Lane:
        if header.socket_id != SOCKET_ID:
            raise TransportError("unknown", outcome_known=False, code="DATA_SOCKET")
        return self

    def header(self, frame: BulkFrame) -> ExternalHeader:
        return ExternalHeader(frame.size, PartKind.SEALED, SOCKET_ID, len(self.sent), len(frame.body), len(frame.head))

    async def send(self, frame: BulkFrame) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += frame.body

    async def receive_into(self, view: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        size = min(len(view), self.step, len(self.incoming))
        if not size:
            raise TransportError("ended", outcome_known=False, code="DATA_SOCKET")
        view[:size] = self.incoming[:size]
        self.incoming = self.incoming[size:]
        return size

    def decrypt(self, offset: int, record: memoryview, out: memoryview) -> None:
        raise TransportError("altered", outcome_known=False, code="DATA_SOCKET")

    def taken(self) -> None:
        self.heard.append("taken")

    def path_failed(self) -> None:
        self.heard.append("path failed")

    def doubt(self) -> None:
        self.heard.append("doubt")

    def release(self, *, peer_ended: bool) -> None:
        self.heard.append("release")

    def abort(self) -> None:
        self.heard.append("abort")


def body(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(size % 251)


BULKS = st.builds(
    lambda head, size, tail: BulkFrame(head, body(size), tail, True),
    st.binary(max_size=40),
    st.sampled_from([1, EXTERNAL_BODY_BYTES_MIN - 1, EXTERNAL_BODY_BYTES_MIN, 100_000, 1_000_000]),
    st.binary(max_size=40),
)
FRAMES = st.lists(st.one_of(st.binary(min_size=1, max_size=300), BULKS), min_size=1, max_size=8)


def whole(frame: Bytes | BulkFrame) -> bytes:
    return b"".join(frame[:3]) if isinstance(frame, BulkFrame) else bytes(frame)


async def sent(*frames: Bytes | BulkFrame) -> tuple[bytes, bytes]:
    """What went over the stream, the end frame included, and what over the data socket."""
    raw, lane = Recorded(), Lane()
    stream = FramedStream(PEER, "/test/1", raw, lane=lane)
    await stream.send(*frames)
    await stream.aclose()
    assert lane.heard == ["release"]
    return b"".join(raw.written), bytes(lane.sent)


@given(frames=FRAMES, stream_step=st.integers(1, 70_000), socket_step=st.integers(100, 400_000))
@settings(max_examples=60, deadline=None)
def test_all_frames_come_out_in_order(frames: list[Bytes | BulkFrame], stream_step: int, socket_step: int) -> None:
    async def there_and_back() -> list[bytes]:
        wire, beside = await sent(*frames)
        external = [f for f in frames if isinstance(f, BulkFrame) and len(f.body) >= EXTERNAL_BODY_BYTES_MIN]
        assert beside == b"".join(bytes(frame.body) for frame in external)
        pieces = [wire[at : at + stream_step] for at in range(0, len(wire), stream_step)]
        lane = Lane(beside, socket_step)
        stream = FramedStream(PEER, "/test/1", Recorded(*pieces), lane=lane)
        received = []
        with pytest.raises(EndOfStream):
            while True:
                received.append(bytes(await stream.receive()))
        assert lane.heard == ["taken"] * len(external)
        return received

    assert trio.run(there_and_back) == [whole(frame) for frame in frames]


async def test_cut_off_at_every_byte_of_the_stream_it_is_an_error() -> None:
    wire, beside = await sent(b"one", BulkFrame(b"head", body(70_000), b"tail", True), b"two")
    for cut in range(len(wire)):
        stream = FramedStream(PEER, "/test/1", Recorded(wire[:cut]) if cut else Recorded(), lane=Lane(beside))
        with pytest.raises(TransportError) as caught:
            for _ in range(4):
                await stream.receive()
        assert not isinstance(caught.value, EndOfStream), cut


@pytest.mark.parametrize("cut", [0, 1, 35_000, 69_999])
async def test_cut_off_in_the_part_it_is_an_error_and_the_stream_reset(cut: int) -> None:
    wire, beside = await sent(BulkFrame(b"head", body(70_000), b"tail", True))
    raw, lane = Recorded(wire[: -len(END_FRAME)]), Lane(beside[:cut])
    with pytest.raises(TransportError) as caught:
        await FramedStream(PEER, "/test/1", raw, lane=lane).receive()
    assert caught.value.code == "CUT_OFF"
    assert raw.calls == ["reset"]
    assert lane.heard == ["abort"]  # the stream ended at the same time: the path is not to blame


async def test_a_socket_that_ends_while_its_stream_lives_is_the_paths_fault() -> None:
    wire, beside = await sent(BulkFrame(b"head", body(70_000), b"tail", True), b"more")
    lane = Lane(beside[:100])
    with pytest.raises(TransportError):
        await FramedStream(PEER, "/test/1", Recorded(wire[:45], wire[45:]), lane=lane).receive()
    assert lane.heard == ["path failed", "abort"]


async def test_an_altered_record_is_the_paths_fault_too() -> None:
    header = ExternalHeader(70_000, PartKind.ENCRYPTED, SOCKET_ID, 0, 70_016, 0).encode()
    lane = Lane(bytes(70_016))
    raw = Recorded(header)
    with pytest.raises(TransportError):
        await FramedStream(PEER, "/test/1", raw, lane=lane).receive()
    assert lane.heard == ["doubt", "abort"]
    assert raw.calls == ["reset"]


async def test_a_socket_that_nobody_knows_cuts_the_stream_off() -> None:
    header = ExternalHeader(70_000, PartKind.SEALED, bytes(16), 0, 70_000, 0).encode()
    with pytest.raises(TransportError) as caught:
        await FramedStream(PEER, "/test/1", Recorded(header), lane=Lane()).receive()
    assert caught.value.code == "CUT_OFF"


@pytest.mark.parametrize("code", ["MALFORMED", "BOUND"])
async def test_a_header_out_of_bounds_is_the_peers_fault(code: str) -> None:
    size = 1_114_113 if code == "BOUND" else 70_000
    header = ExternalHeader(size, PartKind.SEALED, SOCKET_ID, 0, 60_000, 0).encode()
    raw = Recorded(header + bytes(20_000))
    with pytest.raises(RemoteProtocolError) as caught:
        await FramedStream(PEER, "/test/1", raw, lane=Lane(bytes(70_000))).receive()
    assert caught.value.code == code
    assert raw.calls == ["reset"]


@given(garbage=st.binary(min_size=EXTERNAL_HEADER_BYTES, max_size=3 * EXTERNAL_HEADER_BYTES))
@settings(max_examples=200)
def test_garbage_after_the_bit_does_no_harm(garbage: bytes) -> None:
    async def read() -> None:
        lane = Lane(bytes(2_000_000))
        stream = FramedStream(PEER, "/test/1", Recorded(bytes((garbage[0] | 0x80,)) + garbage[1:]), lane=lane)
        with pytest.raises((TransportError, RemoteProtocolError)):
            for _ in range(50):
                await stream.receive()

    trio.run(read)


async def test_too_much_beside_the_body_goes_over_the_stream() -> None:
    frame = BulkFrame(bytes(EXTERNAL_INLINE_BYTES_MAX), body(100_000), b"x", True)
    _, beside = await sent(frame)
    assert beside == b""


async def test_a_failure_of_the_socket_breaks_the_stream() -> None:
    class Broken(Lane):
        async def send(self, frame: BulkFrame) -> None:
            raise TransportError("broke", outcome_known=False, code="DATA_SOCKET")

    raw, lane = Recorded(), Broken()
    stream = FramedStream(PEER, "/test/1", raw, lane=lane)
    with pytest.raises(TransportError):
        await stream.send(BulkFrame(b"", body(100_000), b"", True))
    assert raw.calls == ["reset"]
    assert lane.heard == ["abort"]
    with pytest.raises(TransportError):
        await stream.send(b"x")
