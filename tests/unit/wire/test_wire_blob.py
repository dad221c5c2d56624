"""blob/1's messages: whatever comes is a message or a RemoteProtocolError, and what is written is read again."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import BLOB_PIECES_MAX
from cocoon_p2p.wire.blob import Piece, decode_message
from cocoon_p2p.wire.blob_layout import BlobLayout, decode_list, encode_list, numbers_of

SIZES = st.lists(st.integers(0, 5 << 20), max_size=12)


@given(st.binary(max_size=200) | st.builds(lambda tail: b"\x93\x0a" + tail, st.binary(max_size=60)))
def test_any_bytes(frame: bytes) -> None:
    try:
        message = decode_message(frame)
    except RemoteProtocolError:
        return
    assert decode_message(message.encode()) == message


@given(st.integers(0, BLOB_PIECES_MAX - 1), st.binary(min_size=1, max_size=70_000))
def test_a_piece_is_written_as_msgpack_would(piece: int, data: bytes) -> None:
    frame = Piece(piece, data).encode()
    assert frame == msgpack.packb([10, piece, data])
    read = decode_message(memoryview(frame))
    assert isinstance(read, Piece) and (read.piece, bytes(read.data)) == (piece, data)


@given(SIZES, st.data())
def test_layouts(sizes: list[int], data: st.DataObject) -> None:
    layout = BlobLayout(sizes)
    places = [layout.place(piece) for piece in range(layout.pieces)]
    assert sum(place.size for place in places) == sum(sizes) == layout.total_bytes
    for file, size in enumerate(sizes):
        of_file = [place for place in places if place.file == file]
        assert [place.offset for place in of_file] == list(range(0, size, 1 << 20))
        assert numbers_of(layout.of_file(file)) == [i for i, place in enumerate(places) if place.file == file]
    some = data.draw(st.sets(st.sampled_from(range(layout.pieces)))) if layout.pieces else set()
    chosen = sum(1 << piece for piece in some)
    assert layout.bytes_of(chosen) == sum(places[piece].size for piece in some)
    assert layout.decode_set(layout.encode_set(chosen)) == chosen
    assert sorted(decode_list(encode_list(some))) == sorted(some) == numbers_of(chosen)


def test_what_there_is_not() -> None:
    layout = BlobLayout([5, 5])
    for piece in (-1, 2):
        with pytest.raises(IndexError):
            layout.place(piece)
    with pytest.raises(RemoteProtocolError):
        layout.decode_list(encode_list([2]))
    with pytest.raises(ValueError, match="at most"):
        BlobLayout([1 << 62])
