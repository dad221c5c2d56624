from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p.ids import PeerId, peer_id_from_public_key, public_key_of
from cocoon_p2p.sealing.signing import IdentityKey, verify_bytes, verify_signature, verify_with_key

DOMAIN = b"cocoon-p2p/test/1"
KEY = IdentityKey.from_seed(bytes(range(32)))
OTHER = IdentityKey.generate()


def test_a_key_has_its_peer_id() -> None:
    assert KEY.peer_id == peer_id_from_public_key(KEY.public_key)
    assert public_key_of(KEY.peer_id) == KEY.public_key
    assert IdentityKey.from_seed(KEY.seed).peer_id == KEY.peer_id
    assert IdentityKey.generate().peer_id != IdentityKey.generate().peer_id


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length(seed: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        IdentityKey.from_seed(seed)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=200))
def test_what_was_signed_verifies(body: bytes) -> None:
    signature = KEY.sign(DOMAIN, body)
    assert len(signature) == 64
    assert verify_signature(KEY.peer_id, DOMAIN, body, signature)
    assert verify_signature(KEY.peer_id, DOMAIN, memoryview(bytearray(body)), signature)
    assert verify_with_key(KEY.public_key, DOMAIN, body, signature)
    assert verify_bytes(KEY.public_key, DOMAIN + b"\0" + body, signature)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_altered_bit_verifies(data: st.DataObject) -> None:
    parts = [DOMAIN, b"the body", KEY.sign(DOMAIN, b"the body")]
    index = data.draw(st.integers(0, 2))
    altered = bytearray(parts[index])
    altered[data.draw(st.integers(0, len(altered) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    parts[index] = bytes(altered)
    assert not verify_signature(KEY.peer_id, *parts)


def test_domains_do_not_run_into_bodies() -> None:
    assert not verify_signature(KEY.peer_id, b"a", b"b", KEY.sign(b"ab", b""))
    assert not verify_signature(KEY.peer_id, b"ab", b"", KEY.sign(b"a", b"b"))


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.binary(max_size=70))
def test_garbage_is_false_and_no_exception(peer_id: str, signature: bytes) -> None:
    assert not verify_signature(PeerId(peer_id), DOMAIN, b"body", signature)
    assert not verify_signature(KEY.peer_id, DOMAIN, b"body", signature)
    assert not verify_with_key(signature, DOMAIN, b"body", bytes(64))


def test_another_peers_signature() -> None:
    assert not verify_signature(OTHER.peer_id, DOMAIN, b"body", KEY.sign(DOMAIN, b"body"))


def test_texts_show_no_secret() -> None:
    text = f"{KEY!r} {KEY} {[KEY]}"
    assert KEY.peer_id in text
    assert KEY.seed.hex() not in text
    assert repr(KEY.seed) not in text
