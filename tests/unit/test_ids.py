from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocoon_p2p import ids
from cocoon_p2p.ids import ModelId, PeerId

# libp2p specs, peer-ids: the public key of RFC 8032's first test vector
RFC8032_KEY = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")

keys = st.binary(min_size=32, max_size=32)


@settings(deadline=None)
@given(keys)
def test_peer_ids_there_and_back(key: bytes) -> None:
    peer_id = ids.peer_id_from_public_key(key)
    assert peer_id.startswith("12D3KooW")
    assert len(peer_id) == 52
    assert ids.public_key_of(peer_id) == key
    assert ids.peer_id_from_bytes(ids.peer_id_to_bytes(peer_id)) == peer_id
    assert len(ids.peer_id_to_bytes(peer_id)) == ids.PEER_ID_BYTES
    assert ids.parse_peer_id(f"  {peer_id}\n") == peer_id


def test_peer_ids_are_libp2ps() -> None:
    from libp2p.crypto.ed25519 import Ed25519PublicKey
    from libp2p.peer.id import ID

    theirs = ID.from_pubkey(Ed25519PublicKey.from_bytes(RFC8032_KEY))
    assert ids.peer_id_from_public_key(RFC8032_KEY) == theirs.to_base58()
    assert ids.peer_id_to_bytes(PeerId(theirs.to_base58())) == theirs.to_bytes()


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length(key: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ids.peer_id_from_public_key(key)


@settings(deadline=None)
@given(st.text(max_size=80))
def test_texts_that_are_no_peer_id(text: str) -> None:
    with pytest.raises(ValueError, match=r"peer id|base58"):
        ids.parse_peer_id(text)


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_bytes_that_are_no_peer_id(raw: bytes) -> None:
    with pytest.raises(ValueError, match="peer id"):
        ids.peer_id_from_bytes(raw)


@pytest.mark.parametrize("text", ["", "12D3KooW", "Qm" + "a" * 44, "1" * 52, "1" * 1000, "12D3KooW0"])
def test_near_misses(text: str) -> None:
    with pytest.raises(ValueError, match=r"peer id|base58"):
        ids.peer_id_to_bytes(PeerId(text))


@settings(deadline=None)
@given(keys, st.data())
def test_a_mistyped_peer_id_is_another_or_none(key: bytes, data: st.DataObject) -> None:
    """There is no checksum in a peer id; a typing error must at least never give the same id."""
    peer_id = ids.peer_id_from_public_key(key)
    position = data.draw(st.integers(8, len(peer_id) - 1))
    typed = peer_id[:position] + data.draw(st.sampled_from("123xyzABC0")) + peer_id[position + 1 :]
    try:
        same = ids.public_key_of(PeerId(typed)) == key
    except ValueError:
        same = False
    assert same == (typed == peer_id)


def test_model_ids() -> None:
    model_id = ids.model_id_of(b'{"format":1}')
    assert model_id == hashlib.sha256(b'{"format":1}').hexdigest()
    assert ids.is_model_id(model_id)
    assert ids.model_id_from_bytes(ids.model_id_to_bytes(model_id)) == model_id
    assert len(ids.model_id_to_bytes(model_id)) == ids.MODEL_ID_BYTES


@pytest.mark.parametrize("text", ["", "minilm", "a" * 63, "a" * 65, "A" * 64, "g" * 64, " " + "a" * 63, "٣" * 64])
def test_texts_that_are_no_model_id(text: str) -> None:
    assert not ids.is_model_id(text)
    with pytest.raises(ValueError, match="model id"):
        ids.model_id_to_bytes(ModelId(text))


@pytest.mark.parametrize("raw", [b"", bytes(31), bytes(33)])
def test_bytes_that_are_no_model_id(raw: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        ids.model_id_from_bytes(raw)


def test_tiers_keep_their_numbers() -> None:
    assert [(tier.name, tier.value) for tier in ids.Tier] == [("OPEN", 1), ("SEALED", 2), ("ATTESTED", 3)]
