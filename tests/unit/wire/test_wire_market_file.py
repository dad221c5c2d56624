"""Records of a file of announcements (capacity/1 §7)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.limits import DHT_VALUE_BYTES_MAX, MARKET_RECORD_BYTES_MAX
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.market_file import (
    FileEnd,
    FileEntry,
    FileHeader,
    FileRecord,
    decode_file_record,
    record_length,
    with_length,
)

PEER = IdentityKey.from_seed(b"p" * 32).peer_id
RECORDS: list[FileRecord] = [
    FileHeader(PEER, 5, 5),
    FileHeader(PEER, 0, 2**63 - 1),
    FileEntry(7, b""),
    FileEntry(2**63 - 1, b"x" * DHT_VALUE_BYTES_MAX),
    FileEnd(0),
]


@pytest.mark.parametrize("record", RECORDS, ids=repr)
def test_there_and_back(record: FileRecord) -> None:
    raw = with_length(record)
    assert record_length(raw[:4]) == len(raw) - 4 <= MARKET_RECORD_BYTES_MAX
    assert decode_file_record(raw[4:]) == record


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([1, codec.peer_bytes(PEER), 6, 5], "BOUND"),
        ([1, b"x" * 38, 5, 6], "MALFORMED"),
        ([1, codec.peer_bytes(PEER), 5], "MALFORMED"),
        ([2, -1, b""], "BOUND"),
        ([2, 7, b"x" * (DHT_VALUE_BYTES_MAX + 1)], "BOUND"),
        ([2, 7, "text"], "MALFORMED"),
        ([2, 7], "MALFORMED"),
        ([3], "MALFORMED"),
        ([4, 1], "UNKNOWN_TAG"),
    ],
)
def test_what_is_refused(fields: list[object], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_file_record(codec.pack(fields))
    assert caught.value.code == code


@pytest.mark.parametrize("length", [0, MARKET_RECORD_BYTES_MAX + 1, 2**32 - 1])
def test_lengths_are_bounded(length: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        record_length(length.to_bytes(4, "big"))
    assert caught.value.code == "BOUND"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_record_or_an_error(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        decode_file_record(data)
