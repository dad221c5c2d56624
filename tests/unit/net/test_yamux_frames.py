"""Frames of yamux, by hand from the specification, and whatever else may come."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import STREAM_WINDOW_BYTES_MAX
from cocoon_p2p.net.yamux.frames import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_BYTES,
    PING,
    PROTOCOL_ERROR,
    RST,
    SYN,
    WINDOW_UPDATE,
    FrameReader,
    Piece,
    encode_header,
)

# https://github.com/hashicorp/yamux/blob/master/spec.md: version, type, flags, stream id, length, big endian.
VECTORS = [
    ("00 00 0000 00000001 00000005" + b"hello".hex(), (DATA, 0, 1, 5, b"hello")),
    ("00 00 0001 00000003 00000000", (DATA, SYN, 3, 0, b"")),
    ("00 00 0004 00000002 00000001 ff", (DATA, FIN, 2, 1, b"\xff")),
    ("00 01 0001 00000001 00000000", (WINDOW_UPDATE, SYN, 1, 0, b"")),
    ("00 01 0002 00000001 00040000", (WINDOW_UPDATE, ACK, 1, 256 * 1024, b"")),
    ("00 01 0008 fffffffe 00000000", (WINDOW_UPDATE, RST, 2**32 - 2, 0, b"")),
    ("00 02 0001 00000000 0000002a", (PING, SYN, 0, 42, b"")),
    ("00 02 0002 00000000 0000002a", (PING, ACK, 0, 42, b"")),
    ("00 03 0000 00000000 00000001", (GO_AWAY, 0, 0, PROTOCOL_ERROR, b"")),
]
Frame = tuple[int, int, int, int, bytes]


def read_in_chunks(data: bytes, cuts: list[int]) -> list[Frame]:
    """The frames of `data`, fed in chunks that end at `cuts`; checks that they come as the reader promises."""
    reader = FrameReader()
    frames: list[Frame] = []
    begun: list[Piece] = []
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, end in itertools.pairwise(edges):
        for piece in reader.feed(memoryview(data)[start:end]):
            if piece.kind == DATA:
                assert sum(len(part.payload) for part in begun) + len(piece.payload) + piece.remaining == piece.length
            assert piece.payload or not piece.length or piece.kind != DATA
            begun.append(piece)
            if not piece.remaining:
                payload = b"".join(part.payload for part in begun)
                frames.append((piece.kind, piece.flags, piece.stream_id, piece.length, payload))
                begun = []
    assert not begun
    return frames


@pytest.mark.parametrize(("text", "frame"), VECTORS)
def test_vectors(text: str, frame: Frame) -> None:
    raw = bytes.fromhex(text)
    assert read_in_chunks(raw, []) == [frame]
    assert encode_header(*frame[:4]) + frame[4] == raw


@given(
    st.lists(
        st.tuples(
            st.sampled_from([DATA, WINDOW_UPDATE, PING, GO_AWAY]),
            st.integers(0, 15),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=50),
        ),
        max_size=12,
    ),
    st.lists(st.integers(0, 700)),
)
def test_any_frames_however_chopped(frames: list[tuple[int, int, int, bytes]], cuts: list[int]) -> None:
    expected = [
        (kind, flags, number, len(payload), payload if kind == DATA else b"") for kind, flags, number, payload in frames
    ]
    raw = b"".join(encode_header(*frame[:4]) + frame[4] for frame in expected)
    assert read_in_chunks(raw, cuts) == expected


def test_payloads_are_not_copied() -> None:
    raw = bytearray(encode_header(DATA, 0, 1, 4) + b"abcd")
    (piece,) = FrameReader().feed(memoryview(raw))
    raw[HEADER_BYTES:] = b"wxyz"
    assert piece.payload == b"wxyz"


@settings(max_examples=300)
@given(st.binary(max_size=400), st.lists(st.integers(0, 400)))
def test_any_bytes_are_frames_or_one_error(data: bytes, cuts: list[int]) -> None:
    reader = FrameReader()
    edges = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    try:
        for start, end in itertools.pairwise(edges):
            for piece in reader.feed(memoryview(data)[start:end]):
                assert piece.kind in (DATA, WINDOW_UPDATE, PING, GO_AWAY)
                assert len(piece.payload) + piece.remaining <= STREAM_WINDOW_BYTES_MAX
            assert len(reader._partial) < HEADER_BYTES  # all that it holds
    except RemoteProtocolError as error:
        assert error.code == "YAMUX"


@pytest.mark.parametrize(
    "text",
    [
        "01 00 0000 00000001 00000000",  # version 1
        "00 04 0000 00000001 00000000",  # type 4
        "00 00 0000 00000001 04000001",  # more than any window
    ],
)
def test_what_is_no_frame(text: str) -> None:
    reader = FrameReader()
    pieces = reader.feed(memoryview(encode_header(PING, SYN, 0, 1) + bytes.fromhex(text)))
    assert next(pieces).kind == PING  # what came before it counts
    with pytest.raises(RemoteProtocolError):
        next(pieces)
