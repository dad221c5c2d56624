from __future__ import annotations

import hashlib

import msgpack
import pytest

from cocoon_p2p.errors import RefusalReason, RemoteProtocolError
from cocoon_p2p.ids import JobId, ModelId, Tier, peer_id_from_bytes, peer_id_from_public_key, peer_id_to_bytes
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    BOX_BYTES_MAX,
    CHUNK_BYTES,
    CHUNKS_PER_FRAME_MAX,
    DETAIL_CHARS_MAX,
    FRAME_BYTES_MAX,
    HEADER_BYTES_MAX,
    PAYMENT_BYTES_MAX,
    REFUSAL_BYTES_MAX,
)
from cocoon_p2p.wire import job

JOB = JobId(bytes(range(16)))
PEER = peer_id_to_bytes(peer_id_from_public_key(bytes(32)))


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
    ask = job.decode_message(msgpack.packb([1, JOB, bytes(32), 2, 1, 64, 0, 1, 0, 0]))
    assert isinstance(ask, job.Ask)
    assert ask.tier is Tier.SEALED
    assert ask.model_id == ModelId("00" * 32)
    refusal = job.decode_refusal_body(msgpack.packb([1, PEER, PEER, JOB, b"", 1, "", 5, 0]))
    assert refusal.reason is RefusalReason.BUSY
    assert refusal.model_id is None
    progress = job.decode_message(msgpack.packb([13, JOB, 1, None]))
    assert isinstance(progress, job.Progress)
    assert progress.phase is job.Phase.QUEUED
    failure = job.decode_message(msgpack.packb([11, JOB, 4, ""]))
    assert isinstance(failure, job.Failure)
    assert failure.code is job.FailureCode.WORKER


def test_the_longest_refusal_fits_its_bound() -> None:
    """A detail of characters that take four bytes each, and every number at its largest."""
    peer = peer_id_from_bytes(PEER)
    body = job.RefusalBody(
        peer, peer, JOB, ModelId("00" * 32), RefusalReason.IDLE_POLICY, "\U0001f9c1" * DETAIL_CHARS_MAX,
        AMOUNT_NANOGRAM_MAX, 2**63 - 1,
    )  # fmt: skip
    assert len(body.encode()) <= REFUSAL_BYTES_MAX
    refusal = job.Refusal(JOB, body.encode(), bytes(64))
    assert job.decode_message(refusal.encode()) == refusal
    assert job.decode_refusal_body(refusal.body) == body


def test_the_terms_of_any_job_fit_a_submission() -> None:
    peer = peer_id_from_bytes(PEER)
    terms = job.QuoteBody(
        peer, peer, JOB, ModelId("00" * 32), Tier.SEALED, 4096, 2**31, *[AMOUNT_NANOGRAM_MAX] * 3, 2**63 - 1, 0, -(2**31),
        b"", b"",
    ).encode()  # fmt: skip
    longest = bytes(PAYMENT_BYTES_MAX)
    submission = job.Submit(JOB, terms, 3_600_000, longest, bytes(HEADER_BYTES_MAX), bytes(BOX_BYTES_MAX))
    assert job.decode_message(submission.encode()) == submission


def test_progress_is_short() -> None:
    assert len(job.Progress(JOB, job.Phase.RUNNING, 2**32 - 1).encode()) <= 32
