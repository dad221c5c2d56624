from __future__ import annotations

import struct
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.limits import PAYLOAD_RANK_MAX, PAYLOAD_TENSORS_MAX
from cocoon_p2p.tensors import (
    DTYPES,
    STRING,
    Payload,
    PayloadError,
    Tensor,
    decode_payload,
    encode_payload,
    pack_strings,
    payload_bytes,
    string_tensor,
    unpack_strings,
    write_payload,
)

names = st.text(max_size=20).filter(lambda name: len(name.encode()) <= 255)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    dtype, shape = draw(st.sampled_from(list(DTYPES))), draw(shapes)
    if dtype == STRING:
        strings = draw(st.lists(st.text(max_size=8), min_size=prod(shape), max_size=prod(shape)))
        return Tensor(name, dtype, shape, pack_strings(text.encode() for text in strings))
    size = prod(shape) * DTYPES[dtype][1]
    return Tensor(name, dtype, shape, draw(st.binary(min_size=size, max_size=size)))


@st.composite
def payloads(draw: st.DrawFn) -> Payload:
    of = draw(st.lists(names, max_size=4, unique=True))
    return Payload(tuple(draw(tensors(name)) for name in of), tuple(draw(st.lists(names, max_size=3))))


def encoded(payload: Payload) -> bytes:
    return b"".join(bytes(piece) for piece in encode_payload(payload))


@settings(deadline=None, max_examples=60)
@given(payloads())
def test_there_and_back(payload: Payload) -> None:
    raw = encoded(payload)
    assert len(raw) == payload_bytes(payload)
    assert len(raw) % 64 == 0
    assert decode_payload(raw) == payload
    buffer = bytearray(b"\xff" * (len(raw) + 10))
    assert write_payload(payload, memoryview(buffer)) == len(raw)
    assert bytes(buffer[: len(raw)]) == raw
    assert buffer[len(raw) :] == b"\xff" * 10


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_container_is_refused_or_another_one(data: st.DataObject) -> None:
    """Every container has one form: what still reads encodes to the very bytes that were read."""
    raw = bytearray(encoded(data.draw(payloads())))
    position = data.draw(st.integers(0, len(raw) - 1))
    match data.draw(st.sampled_from(["alter", "cut", "insert"])):
        case "alter":
            raw[position] ^= data.draw(st.integers(1, 255))
        case "cut":
            del raw[position : position + data.draw(st.sampled_from([1, 8, 64]))]
        case _:
            raw[position:position] = data.draw(st.sampled_from([b"\0", bytes(8), bytes(64), b"\xff" * 64]))
    try:
        decoded = decode_payload(raw)
    except PayloadError:
        return
    assert encoded(decoded) == bytes(raw)


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200)
    | st.builds(
        lambda head, rest: (struct.pack("<BBHHHI", 1, 0, *head) + rest).ljust(128, b"\0")[:128],
        st.tuples(st.integers(0, 3), st.integers(0, 3), st.just(0), st.integers(12, 128)),
        st.binary(max_size=116),
    )
)
def test_any_bytes_are_a_container_or_refused(raw: bytes) -> None:
    try:
        payload = decode_payload(raw)
        for tensor in payload.tensors:
            if tensor.dtype == STRING:
                unpack_strings(tensor)
    except PayloadError:
        pass


def test_data_is_not_copied() -> None:
    data = bytearray(b"x" * 1000)
    payload = Payload((Tensor("x", "uint8", (1000,), data),))
    pieces = encode_payload(payload)
    assert any(isinstance(piece, memoryview) and piece.obj is data for piece in pieces)
    raw = bytearray(encoded(payload))
    view = decode_payload(raw).tensors[0].data
    assert isinstance(view, memoryview)
    assert view.obj is raw


def test_data_stands_at_multiples_of_64() -> None:
    payload = Payload(tuple(Tensor(f"t{i}", "uint8", (i,), bytes([i]) * i) for i in (1, 64, 65)))
    raw = encoded(payload)
    for tensor in payload.tensors:
        assert raw.index(bytes(tensor.data)) % 64 == 0


def test_strings() -> None:
    texts = ["how do I earn?", "", "Überschuß 收入 \U0001f99a", "\0"]
    tensor = string_tensor("text", texts)
    assert tensor.shape == (4,)
    assert unpack_strings(decode_payload(encoded(Payload((tensor,)))).tensors[0]) == texts


@pytest.mark.parametrize(
    "data", [b"", b"\0\0\0", b"\x05\0\0\0abcd", b"\x01\0\0\0\xff", b"\x01\0\0\0ab", b"\xff\xff\xff\xffa"]
)
def test_string_tensors_that_are_none(data: bytes) -> None:
    with pytest.raises(PayloadError):
        unpack_strings(Tensor("text", STRING, (1,), data))


@pytest.mark.parametrize(
    "payload",
    [
        Payload((Tensor("x", "float32", (2,), bytes(7)),)),
        Payload((Tensor("x", "float33", (2,), bytes(8)),)),
        Payload((Tensor("x", "uint8", (1,) * (PAYLOAD_RANK_MAX + 1), b"x"),)),
        Payload((Tensor("n" * 256, "uint8", (1,), b"x"),)),
        Payload((), ("n" * 256,)),
        Payload((), ("n",) * (PAYLOAD_TENSORS_MAX + 1)),
        Payload((Tensor("x", STRING, (3,), b""),)),
    ],
)
def test_what_cannot_be_encoded(payload: Payload) -> None:
    with pytest.raises(PayloadError):
        encode_payload(payload)


def test_a_buffer_that_is_too_small() -> None:
    with pytest.raises(PayloadError, match="buffer"):
        write_payload(Payload(()), memoryview(bytearray(63)))


def test_error_texts_say_what_is_wrong() -> None:
    raw = bytearray(encoded(Payload((Tensor("x", "float32", (2, 3), bytes(24)),))))
    raw[16] = 99
    with pytest.raises(PayloadError, match=r"float32\[99, 3\] needs 1188 bytes, has 24"):
        decode_payload(raw)


def test_more_cut_texts_than_the_field_has_room_for_are_told_as_the_most() -> None:
    assert decode_payload(encoded(Payload((), cut=0x10000 + 3))).cut == 0xFFFF
