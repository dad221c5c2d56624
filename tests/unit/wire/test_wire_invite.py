"""invite/1: what is written is read, and a typo is found."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.limits import INVITE_ADDRESSES_MAX, INVITE_CHARS_MAX
from cocoon_p2p.wire.invite import INVITE_PREFIX, Invite, decode_invite, decode_invite_record, encode_invite

CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
PEER = peer_id_from_public_key(bytes(range(32)))
ADDRESS = bytes.fromhex("04cb0071050611f9")
INVITE = Invite(PEER, (ADDRESS,))
TEXT = encode_invite(INVITE)

invites = st.builds(
    Invite,
    st.binary(min_size=32, max_size=32).map(peer_id_from_public_key),
    st.lists(st.binary(max_size=40), min_size=1, max_size=INVITE_ADDRESSES_MAX).map(tuple),
    st.integers(0, 2**63 - 1),
    st.text(max_size=12),
    st.just(b"") | st.binary(min_size=8, max_size=8),
    st.sampled_from([b"", bytes(32), bytes(range(32))]),
)


@settings(deadline=None, max_examples=60)
@given(invites, st.booleans())
def test_what_is_written_is_read(invite: Invite, capitals: bool) -> None:
    text = encode_invite(invite)
    assert text.isascii()
    assert text.isalnum(), "one word to a double click, and to a QR code's alphanumeric mode"
    assert decode_invite(text.upper() if capitals else text) == invite


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(len(INVITE_PREFIX), len(TEXT) - 1), st.sampled_from(CHARSET)),
        min_size=1, max_size=3, unique_by=lambda each: each[0],
    )
)  # fmt: skip
def test_up_to_three_wrong_characters_are_always_found(changes: list[tuple[int, str]]) -> None:
    chars = list(TEXT)
    for position, char in changes:
        chars[position] = char
    if "".join(chars) != TEXT:
        with pytest.raises(RemoteProtocolError, match="checksum") as caught:
            decode_invite("".join(chars))
        assert caught.value.code == "MALFORMED"


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=80) | st.text(CHARSET + "1", max_size=80).map(lambda text: INVITE_PREFIX + text))
def test_what_is_no_invite_is_refused_and_nothing_else_happens(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_invite(text)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_record_or_refused(raw: bytes) -> None:
    try:
        invite = decode_invite_record(raw)
    except RemoteProtocolError:
        return
    assert decode_invite_record(invite.encode()) == invite


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cocoon1" + "b" * 60, "no invite has a 'b' in it \\(character 8\\)"),
        (TEXT[:40] + "O" + TEXT[41:], "small or in capital letters"),
        ("nocoon1" + TEXT[7:], "begins with cocoon1"),
        (TEXT[:-2], "a character is wrong or missing"),
        ("q" * 3000, "an invite of 3000 characters; at most 1023"),
    ],
)
def test_it_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match=message):
        decode_invite(text)


def test_a_folded_one_is_read() -> None:
    assert decode_invite(f"  {TEXT[:30]}\r\n{TEXT[30:60]}\n\t{TEXT[60:]} ") == INVITE


def test_one_that_would_be_too_long_for_its_checksum_is_not_written() -> None:
    with pytest.raises(ValueError, match=f"at most {INVITE_CHARS_MAX}"):
        encode_invite(Invite(PEER, (bytes(255),) * 3))


def test_the_key_is_in_no_repr() -> None:
    assert (b"\x07" * 32).hex() not in repr(Invite(PEER, (ADDRESS,), network_key=b"\x07" * 32))
    assert "network_key" not in repr(INVITE)
