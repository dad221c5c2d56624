from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import wire_strategies as ws
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import FRAME_BYTES_MAX, WIRE_ARRAY_LENGTH_MAX
from cocoon_p2p.wire import capacity, codec, evidence, job, market_file, seal, voucher

Decoder = Callable[[bytes], Any]

ROUND_TRIPS: dict[str, tuple[Decoder, st.SearchStrategy[Any]]] = {
    "job message": (job.decode_message, ws.job_messages),
    "quote body": (job.decode_quote_body, ws.quote_bodies),
    "receipt body": (job.decode_receipt_body, ws.receipt_bodies),
    "refusal body": (job.decode_refusal_body, ws.refusal_bodies),
    "evidence": (evidence.decode_evidence, ws.accusations),
    "signed evidence": (evidence.SignedEvidence.decode, ws.signed_accusations),
    "capacity message": (capacity.decode_message, ws.capacity_messages),
    "announcement": (capacity.decode_announcement, ws.announcements()),
    "record of a market file": (market_file.decode_file_record, ws.file_records),
    "envelope header": (seal.decode_envelope_header, ws.envelope_headers),
    "response header": (seal.decode_response_header, ws.response_headers),
    "signed seal key record": (seal.decode_signed_seal_key_record, ws.signed_seal_key_records),
    "channel config": (voucher.decode_channel_config, ws.channel_configs),
    "channel open": (voucher.decode_channel_open, ws.channel_opens),
    "signed channel open": (voucher.decode_signed_channel_open, ws.signed_channel_opens),
    "voucher": (voucher.decode_voucher, ws.vouchers),
    "payment": (voucher.decode_payment, ws.payments),
}
DECODERS: dict[str, Decoder] = {
    **{name: decoder for name, (decoder, _) in ROUND_TRIPS.items()},
    "signed announcement": capacity.SignedAnnouncement.decode,
    "seal key record": seal.decode_seal_key_record,
}
CODES = {"MALFORMED", "UNKNOWN_TAG", "BOUND"}


@pytest.mark.parametrize("name", ROUND_TRIPS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_what_was_encoded_is_decoded_again(name: str, data: st.DataObject) -> None:
    decoder, strategy = ROUND_TRIPS[name]
    message = data.draw(strategy)
    frame = message.encode()
    assert decoder(frame) == message
    assert decoder(frame).encode() == frame
    assert decoder(memoryview(bytearray(frame))) == message  # type: ignore[arg-type]


def decode_or_fail(decoder: Decoder, frame: bytes) -> Any:
    """The message, None for a RemoteProtocolError of the codec's codes; every other exception is the test's failure."""
    try:
        return decoder(frame)
    except RemoteProtocolError as error:
        assert error.code in CODES
        return None


@pytest.mark.parametrize("name", DECODERS)
@settings(deadline=None, max_examples=150)
@given(frame=ws.hostile)
def test_any_bytes_give_a_message_or_a_remote_protocol_error(name: str, frame: bytes) -> None:
    decode_or_fail(DECODERS[name], frame)


@pytest.mark.parametrize("name", ROUND_TRIPS)
@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_a_damaged_frame_gives_a_message_or_a_remote_protocol_error(name: str, data: st.DataObject) -> None:
    decoder, strategy = ROUND_TRIPS[name]
    frame = data.draw(ws.mutated(strategy.map(lambda message: message.encode())))
    message = decode_or_fail(decoder, frame)
    if message is not None:
        assert decoder(message.encode()) == message


@pytest.mark.parametrize("name", [name for name in ROUND_TRIPS if name != "voucher"])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_trailing_fields_are_ignored(name: str, data: st.DataObject) -> None:
    decoder, strategy = ROUND_TRIPS[name]
    message = data.draw(strategy)
    fields = msgpack.unpackb(message.encode())
    assert decoder(msgpack.packb([*fields, None, b"later", [1, "x"]])) == message


@pytest.mark.parametrize("name", [name for name in ROUND_TRIPS if name != "voucher"])
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_no_field_may_be_missing(name: str, data: st.DataObject) -> None:
    decoder, strategy = ROUND_TRIPS[name]
    fields = msgpack.unpackb(data.draw(strategy).encode())
    count = data.draw(st.integers(0, len(fields) - 1))
    with pytest.raises(RemoteProtocolError) as caught:
        decoder(msgpack.packb(fields[:count]))
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (b"", "MALFORMED"),
        (b"\x90", "MALFORMED"),
        (msgpack.packb(7), "MALFORMED"),
        (msgpack.packb(["tag"]), "MALFORMED"),
        (msgpack.packb([True]), "MALFORMED"),
        (msgpack.packb([1.0]), "MALFORMED"),
        (msgpack.packb([1]) + b"\0", "MALFORMED"),
        (msgpack.packb([1, {"a": 1}]), "MALFORMED"),
        (msgpack.packb([1, msgpack.ExtType(5, b"x")]), "MALFORMED"),
        (msgpack.packb([1, list(range(WIRE_ARRAY_LENGTH_MAX + 1))]), "MALFORMED"),
        (b"\x91" * 100_000, "MALFORMED"),
        (bytes(FRAME_BYTES_MAX + 1), "BOUND"),
    ],
)
def test_what_is_no_message(frame: bytes, code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack(frame, "record")
    assert caught.value.code == code


def test_a_tag_of_another_record_is_unknown() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        codec.unpack_tagged(msgpack.packb([2, 1]), 1, 2, "record")
    assert caught.value.code == "UNKNOWN_TAG"


@pytest.mark.parametrize(
    ("read", "code"),
    [
        (lambda: codec.uint(True, "n", 9), "MALFORMED"),
        (lambda: codec.uint(1.0, "n", 9), "MALFORMED"),
        (lambda: codec.uint(10, "n", 9), "BOUND"),
        (lambda: codec.uint(-1, "n", 9), "BOUND"),
        (lambda: codec.amount(2**63, "n"), "BOUND"),
        (lambda: codec.network_id(2**31, "n"), "BOUND"),
        (lambda: codec.boolean(1, "n"), "MALFORMED"),
        (lambda: codec.fixed("x" * 16, "n", 16), "MALFORMED"),
        (lambda: codec.fixed(b"x" * 15, "n", 16), "MALFORMED"),
        (lambda: codec.fixed_or_empty(b"x", "n", 16), "MALFORMED"),
        (lambda: codec.blob(b"xx", "n", 1), "BOUND"),
        (lambda: codec.text("xx", "n", 1), "BOUND"),
        (lambda: codec.text(b"x", "n", 1), "MALFORMED"),
        (lambda: codec.array((1, 2), "n", 1), "BOUND"),
        (lambda: codec.array([1], "n", 1), "MALFORMED"),
        (lambda: codec.peer_id(bytes(38), "n"), "MALFORMED"),
    ],
)
def test_fields_out_of_bounds(read: Callable[[], Any], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read()
    assert caught.value.code == code


@settings(deadline=None, max_examples=50)
@given(frame=ws.hostile)
def test_error_texts_are_short(frame: bytes) -> None:
    """They go into logs: what a peer sends must not fill them."""
    for decoder in (job.decode_message, capacity.decode_message, voucher.decode_payment):
        try:
            decoder(frame)
        except RemoteProtocolError as error:
            assert len(error.message) < 200
