"""Pieces of payloads in memory that is used again, and the frames that are made of them."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cocoon_p2p.drivers.bulk import PIECE_BYTES, bulk_frame, payload_memory, sealed_pieces
from cocoon_p2p.ids import JobId
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.port import BulkFrame
from cocoon_p2p.sealing.envelope import ChunkOpener, ChunkSealer
from cocoon_p2p.wire.job import Input, Output, decode_message

JOB = JobId(b"j" * 16)


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.parametrize("size", [1, 65_536, 65_537, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES + 5])
def test_pieces_that_are_held_stay_as_they_are(size: int, encrypted: bool) -> None:
    cipher = AESGCM(bytes(32)) if encrypted else None
    payload = os.urandom(size)
    pieces = list(sealed_pieces([payload], size, ChunkSealer(cipher)))
    opener, out, at = ChunkOpener(cipher), memoryview(bytearray(size)), 0
    for ciphertext, final in pieces:
        at += opener.open_into(ciphertext, out[at:], final)
    assert (at, bytes(out)) == (size, payload)


@pytest.mark.parametrize("kind", [Input, Output])
@pytest.mark.parametrize("size", [1, 65_536, 65_537, PIECE_BYTES])
@pytest.mark.parametrize("encrypted", [True, False])
def test_the_frame_is_the_message_and_says_whether_it_is_sealed(
    kind: type[Input | Output], size: int, encrypted: bool
) -> None:
    sealer = ChunkSealer(AESGCM(bytes(32)) if encrypted else None)
    message = kind(JOB, os.urandom(size), True)
    frame = bulk_frame(message, sealer)
    assert isinstance(frame, BulkFrame) == (size > 65_536)
    if isinstance(frame, BulkFrame):
        assert frame.sealed == encrypted
        assert frame.body is message.ciphertext
        assert frame.size == len(message.encode())
        frame = b"".join(frame[:3])
    assert frame == message.encode()
    assert decode_message(frame) == message


@pytest.mark.parametrize("size", [0, 64, BULK_BYTES_MIN - 1, BULK_BYTES_MIN, BULK_BYTES_MIN + 1])
def test_payload_memory_is_zeroed_and_of_the_very_size(size: int) -> None:
    memory = payload_memory(size)
    assert len(memory) == size
    assert not any(memory[:: max(1, size // 1000)])
    memory[:] = b"x" * size
