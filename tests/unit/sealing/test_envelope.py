from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import LocalProtocolError, RemoteProtocolError
from cocoon_p2p.limits import BOX_BYTES_MAX, CHUNK_BYTES
from cocoon_p2p.sealing.envelope import (
    EXTENSION_BYTES_MAX,
    ChunkOpener,
    ChunkSealer,
    OpenedRequest,
    RequestSecrets,
    SealedRequest,
    SealKey,
    ciphertext_bytes,
    plain_opened,
    plain_request,
    seal_request,
)

KEY = SealKey.generate()
HEADER = b"any bytes that both sides have"
FRAME_BYTES = 16 * CHUNK_BYTES
PATTERN = bytes(range(251)) * 8_000


def payload_of(size: int) -> bytes:
    return PATTERN[:size]


def pair(header: bytes = HEADER) -> tuple[SealedRequest, OpenedRequest]:
    sealed = seal_request(KEY.public_key, header, RequestSecrets.draw())
    return sealed, KEY.open_request(header, sealed.box)


def seal_all(sealer: ChunkSealer, payload: bytes, piece_bytes: int = FRAME_BYTES) -> list[tuple[bytes, bool]]:
    starts = range(0, max(len(payload), 1), piece_bytes)
    return [
        (bytes(sealer.seal(memoryview(payload)[i : i + piece_bytes], i + piece_bytes >= len(payload))), i + piece_bytes >= len(payload))
        for i in starts
    ]  # fmt: skip


def open_all(opener: ChunkOpener, pieces: list[tuple[bytes, bool]], size: int) -> bytes:
    out, written = memoryview(bytearray(size)), 0
    for piece, final in pieces:
        written += opener.open_into(piece, out[written:], final)
    assert opener.finished
    assert written == size
    return bytes(out)


def assert_refused(opener: ChunkOpener, *pieces: tuple[bytes, bool], size: int = FRAME_BYTES + 1024) -> None:
    """The pieces are not opened to their end, and after the refusal nothing is."""
    out, written = memoryview(bytearray(size)), 0
    with pytest.raises(RemoteProtocolError) as caught:
        for piece, final in pieces:
            written += opener.open_into(piece, out[written:], final)
    assert caught.value.code == "ENVELOPE"
    for piece, final in pieces:
        with pytest.raises(RemoteProtocolError):
            opener.open_into(piece, out, final)
    assert not any(out[written:]), "bytes that were not authenticated were handed out"


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 64, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, FRAME_BYTES, FRAME_BYTES + 64]
)
@pytest.mark.parametrize("piece_bytes", [CHUNK_BYTES, 3 * CHUNK_BYTES, FRAME_BYTES])
@pytest.mark.parametrize("plain", [False, True])
def test_there_and_back(size: int, piece_bytes: int, plain: bool) -> None:
    if plain:
        sealed, opened = plain_request(HEADER), plain_opened(HEADER)
        assert sealed.box == b""
    else:
        sealed, opened = pair()
    for sealer, opener in (
        (sealed.sealer, opened.opener),
        (opened.response_sealer(b"response"), sealed.response_opener(b"response")),
    ):
        pieces = seal_all(sealer, payload_of(size), piece_bytes)
        assert sum(len(piece) for piece, _ in pieces) == ciphertext_bytes(size, plain=plain)
        assert open_all(opener, pieces, size) == payload_of(size)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 3 * CHUNK_BYTES), st.data())
def test_the_reader_may_get_other_pieces_than_were_sealed(size: int, data: st.DataObject) -> None:
    sealed, opened = pair()
    whole = b"".join(piece for piece, _ in seal_all(sealed.sealer, payload_of(size)))
    cut = data.draw(st.integers(0, len(whole) // (CHUNK_BYTES + 16))) * (CHUNK_BYTES + 16)
    pieces = [(whole[:cut], False), (whole[cut:], True)] if 0 < cut < len(whole) else [(whole, True)]
    assert open_all(opened.opener, pieces, size) == payload_of(size)


def test_the_ciphertext_says_nothing() -> None:
    sealed, _ = pair()
    (piece, _), (again, _) = seal_all(sealed.sealer, bytes(64))[0], seal_all(pair()[0].sealer, bytes(64))[0]
    assert piece != again
    assert bytes(16) not in piece


def test_extensions_arrive() -> None:
    sealed = seal_request(KEY.public_key, HEADER, RequestSecrets.draw(), extension=b"x" * EXTENSION_BYTES_MAX)
    assert len(sealed.box) == BOX_BYTES_MAX
    assert KEY.open_request(HEADER, sealed.box).extension == b"x" * EXTENSION_BYTES_MAX
    with pytest.raises(LocalProtocolError):
        seal_request(KEY.public_key, HEADER, RequestSecrets.draw(), extension=b"x" * (EXTENSION_BYTES_MAX + 1))


def test_sealing_into_a_buffer() -> None:
    sealed, opened = pair()
    out = bytearray(100 + 16)
    assert sealed.sealer.sealed_bytes(100) == 116
    assert sealed.sealer.seal_into(payload_of(100), memoryview(out), True) == 116
    assert open_all(opened.opener, [(bytes(out), True)], 100) == payload_of(100)


# --- boxes ------------------------------------------------------------------------------------------------------------


def box_refused(key: SealKey, header: bytes, box: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        key.open_request(header, box)
    assert caught.value.code == "ENVELOPE"


def test_every_altered_bit_of_the_header_is_refused() -> None:
    box = seal_request(KEY.public_key, HEADER, RequestSecrets.draw()).box
    for position in range(8 * len(HEADER)):
        altered = bytearray(HEADER)
        altered[position // 8] ^= 1 << position % 8
        box_refused(KEY, bytes(altered), box)
    box_refused(KEY, HEADER + b"\0", box)
    box_refused(KEY, HEADER[:-1], box)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_altered_boxes_are_refused(data: st.DataObject) -> None:
    box = bytearray(seal_request(KEY.public_key, HEADER, RequestSecrets.draw(), extension=b"more").box)
    position = data.draw(st.integers(0, len(box) - 1))
    # X25519 ignores the highest bit of a public key, and the KEM's combiner hashes it in all the same
    box[position] ^= 1 << data.draw(st.integers(0, 7))
    box_refused(KEY, HEADER, bytes(box))


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=300) | st.binary(min_size=1200, max_size=1300))
def test_garbage_boxes_are_refused(box: bytes) -> None:
    box_refused(KEY, HEADER, box)


def test_another_key_does_not_open() -> None:
    box_refused(SealKey.generate(), HEADER, seal_request(KEY.public_key, HEADER, RequestSecrets.draw()).box)


@pytest.mark.parametrize("public_key", [b"", bytes(1215), b"\xff" * 1216])
def test_a_public_key_that_is_none(public_key: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        seal_request(public_key, HEADER, RequestSecrets.draw())
    assert caught.value.code == "ENVELOPE"


def test_a_public_key_of_small_order_is_refused() -> None:
    """X25519 of the zero point gives a secret that everybody knows."""
    with pytest.raises(RemoteProtocolError):
        seal_request(KEY.public_key[:1184] + bytes(32), HEADER, RequestSecrets.draw())


def test_keys_by_seed() -> None:
    seed = os.urandom(32)
    assert SealKey(seed).public_key == SealKey(seed).public_key != KEY.public_key
    with pytest.raises(ValueError, match="32 bytes"):
        SealKey(seed[:-1])


# --- chunks -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_altered_byte_of_a_chunk_is_refused(data: st.DataObject) -> None:
    sealed, opened = pair()
    piece = bytearray(sealed.sealer.seal(payload_of(200), True))
    piece[data.draw(st.integers(0, len(piece) - 1))] ^= data.draw(st.integers(1, 255))
    assert_refused(opened.opener, (bytes(piece), True), size=200)


@pytest.mark.parametrize(
    "order",
    [[1, 0, 2, 3], [0, 2, 1, 3], [0, 1, 3], [1, 2, 3], [0, 0, 1, 2, 3], [0, 1, 2], [3], [0, 1, 2, 3, 3], [3, 0, 1, 2]],
)
@pytest.mark.parametrize("apart", [True, False])
def test_chunks_out_of_order(order: list[int], apart: bool) -> None:
    sealed, opened = pair()
    pieces = [piece for piece, _ in seal_all(sealed.sealer, payload_of(3 * CHUNK_BYTES + 64), CHUNK_BYTES)]
    chosen = [pieces[i] for i in order]
    if apart:
        assert_refused(opened.opener, *[(piece, i == len(chosen) - 1) for i, piece in enumerate(chosen)])
    else:
        assert_refused(opened.opener, (b"".join(chosen), True))


@pytest.mark.parametrize("plain", [False, True])
def test_nothing_comes_after_the_final_piece(plain: bool) -> None:
    sealed, opened = (plain_request(HEADER), plain_opened(HEADER)) if plain else pair()
    piece = bytes(sealed.sealer.seal(payload_of(64), True))
    out = memoryview(bytearray(256))
    opened.opener.open_into(piece, out, True)
    with pytest.raises(RemoteProtocolError):
        opened.opener.open_into(piece, out, True)


@pytest.mark.parametrize("size", [64, CHUNK_BYTES])
def test_the_final_flag_is_sealed(size: int) -> None:
    sealed, opened = pair()
    assert_refused(opened.opener, (bytes(sealed.sealer.seal(payload_of(size), True)), False))
    sealed, opened = pair()
    assert_refused(opened.opener, (bytes(sealed.sealer.seal(payload_of(CHUNK_BYTES), False)), True))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, CHUNK_BYTES, 2 * CHUNK_BYTES + 32 + 16, FRAME_BYTES + 16 * 16 + 1])
@pytest.mark.parametrize("final", [False, True])
def test_pieces_that_are_not_whole_chunks(size: int, final: bool) -> None:
    _, opened = pair()
    assert_refused(opened.opener, (bytes(size), final))


@pytest.mark.parametrize(("size", "final"), [(0, False), (1, False), (CHUNK_BYTES + 1, False), (FRAME_BYTES + 1, True)])
def test_plain_pieces_that_are_not_whole_chunks(size: int, final: bool) -> None:
    assert_refused(plain_opened(HEADER).opener, (payload_of(size), final))


@pytest.mark.parametrize("apart", [True, False])
def test_a_well_sealed_empty_final_chunk_after_others_is_refused(apart: bool) -> None:
    """One payload has one sequence of chunks, even for a sender that has the key."""
    cipher = AESGCM(bytes(32))
    first = bytes(ChunkSealer(cipher).seal(payload_of(CHUNK_BYTES), False))
    nothing = cipher.encrypt((1).to_bytes(11) + b"\x01", b"", None)
    opener = ChunkOpener(cipher)
    if apart:
        assert_refused(opener, (first, False), (nothing, True), size=2 * CHUNK_BYTES)
    else:
        assert_refused(opener, (first + nothing, True), size=2 * CHUNK_BYTES)


def test_an_empty_final_piece_after_others_is_refused() -> None:
    """The same without a cipher."""
    opener = plain_opened(HEADER).opener
    out = memoryview(bytearray(CHUNK_BYTES))
    opener.open_into(payload_of(CHUNK_BYTES), out, False)
    with pytest.raises(RemoteProtocolError):
        opener.open_into(b"", out, True)


@pytest.mark.parametrize("plain", [False, True])
def test_more_than_was_announced_is_refused(plain: bool) -> None:
    sealed, opened = (plain_request(HEADER), plain_opened(HEADER)) if plain else pair()
    assert_refused(opened.opener, (bytes(sealed.sealer.seal(payload_of(65), True)), True), size=64)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.binary(max_size=100), st.booleans()), max_size=4), st.booleans())
def test_any_bytes_are_opened_or_refused(pieces: list[tuple[bytes, bool]], plain: bool) -> None:
    opener = (plain_opened(HEADER) if plain else pair()[1]).opener
    out = memoryview(bytearray(1000))
    for piece, final in pieces:
        try:
            opener.open_into(piece, out, final)
        except RemoteProtocolError as error:
            assert error.code == "ENVELOPE"


@pytest.mark.parametrize(
    "pieces",
    [
        [(1, False)],
        [(CHUNK_BYTES + 1, False)],
        [(0, False)],
        [(CHUNK_BYTES, False), (0, True)],
        [(64, True), (64, True)],
        [(FRAME_BYTES + CHUNK_BYTES, True)],
    ],
)
@pytest.mark.parametrize("plain", [False, True])
def test_what_our_own_side_must_not_seal(pieces: list[tuple[int, bool]], plain: bool) -> None:
    sealer = (plain_request(HEADER) if plain else pair()[0]).sealer
    with pytest.raises(LocalProtocolError):
        for size, final in pieces:
            sealer.seal(payload_of(size), final)


def test_a_buffer_too_small_to_seal_into() -> None:
    with pytest.raises(LocalProtocolError):
        pair()[0].sealer.seal_into(payload_of(64), memoryview(bytearray(79)), True)


# --- responses --------------------------------------------------------------------------------------------------------


def test_a_response_is_bound_to_request_and_header() -> None:
    sealed, opened = pair()
    piece = bytes(opened.response_sealer(b"header 1").seal(payload_of(64), True))
    assert_refused(sealed.response_opener(b"header 2"), (piece, True))
    assert_refused(pair()[0].response_opener(b"header 1"), (piece, True))
    assert open_all(sealed.response_opener(b"header 1"), [(piece, True)], 64) == payload_of(64)


def test_a_request_sent_back_is_no_response() -> None:
    sealed, _ = pair()
    piece = bytes(sealed.sealer.seal(payload_of(64), True))
    assert_refused(sealed.response_opener(b"header"), (piece, True))


@pytest.mark.parametrize("plain", [False, True])
def test_one_response_a_header(plain: bool) -> None:
    opened = plain_opened(HEADER) if plain else pair()[1]
    opened.response_sealer(b"header 1")
    opened.response_sealer(b"header 2")
    with pytest.raises(LocalProtocolError):
        opened.response_sealer(b"header 1")


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_secrets_are_new_for_every_request() -> None:
    drawn = [RequestSecrets.draw() for _ in range(10)]
    assert len({secret for one in drawn for secret in (one.payload, one.response)}) == 20
    assert all(len(secret) == 32 for one in drawn for secret in (one.payload, one.response))


def test_both_sides_see_the_same_commitment() -> None:
    sealed, opened = pair()
    assert sealed.secrets is not None
    assert opened.commitment == sealed.secrets.commitment
    assert plain_request(HEADER).secrets is None
    assert plain_opened(HEADER).commitment is None


def test_the_commitment_is_to_both_secrets_in_their_places() -> None:
    a, b, c = (os.urandom(32) for _ in range(3))
    commitments = {RequestSecrets(*both).commitment for both in ((a, b), (b, a), (a, c), (c, b), (a, b))}
    assert len(commitments) == 4
    assert all(len(commitment) == 32 for commitment in commitments)


@pytest.mark.parametrize("size", [0, 200, CHUNK_BYTES, 17 * CHUNK_BYTES + 64])
def test_the_same_secrets_give_the_same_bytes_again(size: int) -> None:
    """By which evidence shows a job without its ciphertext (evidence/1 §3)."""
    sealed, opened = pair()
    assert sealed.secrets is not None
    again = sealed.secrets.payload_sealer(HEADER)
    assert seal_all(sealed.sealer, payload_of(size)) == seal_all(again, payload_of(size), CHUNK_BYTES * 16)
    answer = seal_all(opened.response_sealer(b"response"), payload_of(size))
    assert answer == seal_all(sealed.secrets.response_sealer(HEADER, b"response"), payload_of(size))
    assert answer != seal_all(sealed.secrets.response_sealer(HEADER, b"another"), payload_of(size))


def test_texts_show_no_secret() -> None:
    seed = os.urandom(32)
    key = SealKey(seed)
    secrets = RequestSecrets.draw()
    sealed = seal_request(key.public_key, HEADER, secrets)
    opened = key.open_request(HEADER, sealed.box)
    text = "".join(repr(x) + str(x) for x in (key, secrets, sealed, opened, sealed.sealer, opened.opener))
    assert key.key_id.hex() in text
    for secret in (seed, secrets.payload, secrets.response):
        assert secret.hex() not in text
        assert repr(secret) not in text


def test_errors_show_no_bytes_of_the_input() -> None:
    sealed, opened = pair()
    piece = bytearray(sealed.sealer.seal(b"a very private thing".ljust(64), True))
    piece[0] ^= 1
    with pytest.raises(RemoteProtocolError) as caught:
        opened.opener.open_into(piece, memoryview(bytearray(64)), True)
    assert "private" not in str(caught.value)
    assert len(caught.value.message) < 120
