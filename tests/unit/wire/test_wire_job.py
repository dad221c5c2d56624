from __future__ import annotations

import hashlib

import msgpack
import pytest

from cocoon_p2p.errors import RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, Tier
from cocoon_p2p.limits import CHUNK_BYTES, CHUNKS_PER_FRAME_MAX, FRAME_BYTES_MAX
from cocoon_p2p.wire import job

JOB = JobId(bytes(range(16)))


@pytest.mark.parametrize("kind", [job.Input, job.Output])
@pytest.mark.parametrize("size", [1, 255, 256, 65535, 65536, job.CIPHERTEXT_BYTES_MAX])
@pytest.mark.parametrize("final", [True, False])
def test_chunks_are_what_msgpack_writes(kind: type[job.Input] | type[job.Output], size: int, final: bool) -> None:
    """INPUT and OUTPUT are written by hand; they must be the msgpack that everybody else reads."""
    tag = 5 if kind is job.Input else 7
    frame = kind(JOB, bytes(size), final).encode()
    assert frame == msgpack.packb([tag, JOB, bytes(size), final])
    assert len(frame) <= FRAME_BYTES_MAX
    assert job.decode_message(frame) == kind(JOB, bytes(size), final)


def test_decoded_chunks_are_a_view_of_the_frame() -> None:
    frame = job.Input(JOB, bytearray(b"x" * 1000), False).encode()
    message = job.decode_message(frame)
    assert isinstance(message, job.Input)
    assert isinstance(message.ciphertext, memoryview)
    assert message.ciphertext.obj is frame


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_chunks_of_any_buffer(view: type) -> None:
    message = job.Output(JOB, view(b"abc"), True)
    assert job.decode_message(message.encode()) == message


def test_chunks_in_other_forms_of_msgpack_go_the_slow_way() -> None:
    long_array = b"\xdc\x00\x04" + msgpack.packb([5, JOB, b"abc", True])[1:]
    trailing = msgpack.packb([5, JOB, b"abc", True, False])
    trailing_in_four = msgpack.packb([5, JOB, b"abc", True]) + b"\xc3"
    assert job.decode_message(long_array) == job.Input(JOB, b"abc", True)
    assert job.decode_message(trailing) == job.Input(JOB, b"abc", True)
    with pytest.raises(RemoteProtocolError):
        job.decode_message(trailing_in_four)


@pytest.mark.parametrize("tag", [5, 7])
@pytest.mark.parametrize("size", [0, job.CIPHERTEXT_BYTES_MAX + 1])
def test_chunks_out_of_bounds(tag: int, size: int) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        job.decode_message(msgpack.packb([tag, JOB, bytes(size), True]))
    assert caught.value.code == "BOUND"


def test_a_frame_holds_a_full_piece() -> None:
    assert job.CIPHERTEXT_BYTES_MAX == CHUNKS_PER_FRAME_MAX * (CHUNK_BYTES + 16)


def test_quote_hash_is_of_the_exact_bytes() -> None:
    assert job.quote_hash(memoryview(b"body")) == hashlib.sha256(b"body").digest()


def test_totals_are_exact() -> None:
    assert job.quoted_total(10**18, 3, 4096) == 10**18 + 12_288


def test_decoded_numbers_have_their_names() -> None:
    ask = job.decode_message(msgpack.packb([1, JOB, bytes(32), 2, 1, 64, 0, 1, 0]))
    assert isinstance(ask, job.Ask)
    assert ask.tier is Tier.SEALED
    assert ask.model_id == ModelId("00" * 32)
    refusal = job.decode_message(msgpack.packb([3, JOB, 1, "", 5]))
    assert isinstance(refusal, job.Refusal)
    assert refusal.reason is RefusalReason.BUSY
    failure = job.decode_message(msgpack.packb([11, JOB, 4, ""]))
    assert isinstance(failure, job.Failure)
    assert failure.code is job.FailureCode.WORKER
