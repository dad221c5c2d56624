from __future__ import annotations

import dataclasses

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.sealing.envelope import SealKey
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire import seal

PEER = peer_id_from_public_key(bytes(32))


def test_a_record_is_made_signed_and_read() -> None:
    identity, key = IdentityKey.generate(), SealKey.generate()
    raw = seal.make_seal_key_record(identity.peer_id, key.public_key, 1000, 2000, identity.sign)
    signed = seal.decode_signed_seal_key_record(raw)
    assert signed.encode() == raw
    assert verify_signature(identity.peer_id, seal.SEAL_KEY_DOMAIN, signed.body, signed.signature)
    record = seal.decode_seal_key_record(signed.body)
    assert record.encode() == signed.body
    assert (record.peer_id, record.key_id, record.public_key) == (identity.peer_id, key.key_id, key.public_key)
    assert (record.not_before_ms, record.not_after_ms) == (1000, 2000)


def test_the_key_id_is_the_keys() -> None:
    key = SealKey.generate()
    assert seal.seal_key_id(key.public_key) == key.key_id
    record = seal.SealKeyRecord(PEER, key.key_id, key.public_key, 0, 1)
    wrong = dataclasses.replace(record, key_id=bytes(16))
    with pytest.raises(RemoteProtocolError) as caught:
        seal.decode_seal_key_record(wrong.encode())
    assert caught.value.code == "MALFORMED"


@pytest.mark.parametrize(
    ("now_ms", "code"),
    [(89_999, "EXPIRED"), (90_000, None), (100_000, None), (199_999, None), (200_000, "EXPIRED")],
)
def test_a_record_has_its_time(now_ms: int, code: str | None) -> None:
    record = seal.SealKeyRecord(PEER, bytes(16), bytes(1216), 100_000, 200_000)
    if code is None:
        record.require_current(PEER, now_ms)
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            record.require_current(PEER, now_ms)
        assert caught.value.code == code


def test_a_record_is_of_the_provider() -> None:
    record = seal.SealKeyRecord(PEER, bytes(16), bytes(1216), 0, 10)
    with pytest.raises(RemoteProtocolError) as caught:
        record.require_current(peer_id_from_public_key(b"\1" * 32), 5)
    assert caught.value.code == "MALFORMED"
