"""Frames of an answer: what the vectors of seal/1 §6.4 do not have, since it would be a megabyte of them."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError
from cocoon_p2p.limits import PIECE_BYTES_MAX
from cocoon_p2p.sealing.envelope import RequestSecrets, SealKey, plain_opened, plain_request, seal_request
from cocoon_p2p.sealing.frames import PIECE_IN_FRAME_BYTES_MAX, FrameOpener, FrameSealer, nonce_at

CIPHER = AESGCM(b"k" * 32)


@pytest.mark.parametrize("cipher", [CIPHER, None])
def test_the_longest_piece(cipher: AESGCM | None) -> None:
    sealed = FrameSealer(cipher).seal(b"x" * PIECE_IN_FRAME_BYTES_MAX, True)
    assert FrameOpener(cipher).open(memoryview(sealed), True) == b"x" * PIECE_IN_FRAME_BYTES_MAX
    longer = (PIECE_BYTES_MAX + 1).to_bytes(4) + bytes(PIECE_BYTES_MAX + 60)
    frame = longer if cipher is None else cipher.encrypt(nonce_at(0, True), longer, None)
    with pytest.raises(RemoteProtocolError, match="length"):
        FrameOpener(cipher).open(frame, True)


def test_what_our_own_program_must_not_seal() -> None:
    for piece in (b"", b"x" * (PIECE_IN_FRAME_BYTES_MAX + 1)):
        with pytest.raises(LocalProtocolError):
            FrameSealer(CIPHER).seal(piece, False)
    sealer = FrameSealer(CIPHER)
    sealer.seal(b"end", True)
    with pytest.raises(LocalProtocolError):
        sealer.seal(b"more", True)


def test_nothing_opens_after_a_fault() -> None:
    sealer, opener = FrameSealer(CIPHER), FrameOpener(CIPHER)
    first, second = sealer.seal(b"one", False), sealer.seal(b"two", True)
    with pytest.raises(RemoteProtocolError):
        opener.open(second, True)
    with pytest.raises(RemoteProtocolError) as caught:
        opener.open(first, False)
    assert caught.value.code == "ENVELOPE"


def test_both_ends_of_an_envelope_agree_on_the_frames() -> None:
    key, secrets = SealKey(b"s" * 32), RequestSecrets.draw()
    request = seal_request(key.public_key, b"header", secrets)
    opened = key.open_request(b"header", request.box)
    sealed = opened.frame_sealer(b"response").seal(b"piece", True)
    assert request.frame_opener(b"response").open(sealed, True) == b"piece"
    with pytest.raises(LocalProtocolError):  # chunks and frames share a key
        opened.response_sealer(b"response")
    plain = plain_opened(b"header").frame_sealer(b"response").seal(b"piece", True)
    assert len(plain) == 64
    assert plain_request(b"header").frame_opener(b"response").open(plain, True) == b"piece"
