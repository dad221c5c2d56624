from __future__ import annotations

from cocoon_p2p.limits import SEAL_KEY_GRACE_S, SEAL_KEY_ROTATION_S
from cocoon_p2p.sealing.envelope import SealKey
from cocoon_p2p.sealing.seal_keys import SealKeyRing
from cocoon_p2p.sealing.signing import IdentityKey, verify_signature
from cocoon_p2p.wire.seal import (
    SEAL_KEY_DOMAIN,
    decode_seal_key_record,
    decode_signed_seal_key_record,
    make_seal_key_record,
)

NOW_MS = 1_760_000_000_000
ROTATION_MS = int(SEAL_KEY_ROTATION_S * 1000)
GRACE_MS = int(SEAL_KEY_GRACE_S * 1000)
IDENTITY = IdentityKey.generate()


def make_record(key: SealKey, not_before_ms: int, not_after_ms: int) -> bytes:
    return make_seal_key_record(IDENTITY.peer_id, key.public_key, not_before_ms, not_after_ms, IDENTITY.sign)


def ring() -> SealKeyRing:
    return SealKeyRing(make_record, NOW_MS)


def test_the_record_is_signed_and_of_the_current_key() -> None:
    key, raw = ring().current()
    signed = decode_signed_seal_key_record(raw)
    assert verify_signature(IDENTITY.peer_id, SEAL_KEY_DOMAIN, signed.body, signed.signature)
    record = decode_seal_key_record(signed.body)
    assert (record.key_id, record.public_key) == (key.key_id, key.public_key)
    assert (record.not_before_ms, record.not_after_ms) == (NOW_MS, NOW_MS + ROTATION_MS + GRACE_MS)
    record.require_current(IDENTITY.peer_id, NOW_MS)


def test_a_new_key_after_ten_minutes() -> None:
    keys = ring()
    first, _ = keys.current()
    assert keys.next_rotation_ms() == NOW_MS + ROTATION_MS
    assert not keys.rotate(NOW_MS + ROTATION_MS - 1)
    assert keys.current()[0] is first
    assert keys.rotate(NOW_MS + ROTATION_MS)
    assert keys.current()[0] is not first
    assert keys.next_rotation_ms() == NOW_MS + 2 * ROTATION_MS


def test_an_old_key_opens_through_its_grace_and_is_then_forgotten() -> None:
    keys = ring()
    first, _ = keys.current()
    end_ms = NOW_MS + ROTATION_MS + GRACE_MS
    keys.rotate(NOW_MS + ROTATION_MS)
    assert keys.find(first.key_id, end_ms - 1) is first
    assert keys.find(first.key_id, end_ms) is None
    keys.rotate(end_ms)
    assert keys.find(first.key_id, NOW_MS) is None


def test_a_key_that_never_was() -> None:
    assert ring().find(bytes(16), NOW_MS) is None


def test_after_a_long_sleep_all_old_keys_are_gone() -> None:
    keys = ring()
    first, _ = keys.current()
    assert keys.rotate(NOW_MS + 10 * ROTATION_MS)
    assert keys.find(first.key_id, NOW_MS) is None
    assert keys.find(keys.current()[0].key_id, NOW_MS + 10 * ROTATION_MS) is keys.current()[0]


def test_a_clock_that_was_set_back_makes_a_key_that_is_valid_now() -> None:
    keys = ring()
    assert keys.rotate(NOW_MS - 1000)
    record = decode_seal_key_record(decode_signed_seal_key_record(keys.current()[1]).body)
    assert record.not_before_ms == NOW_MS - 1000
    assert not keys.rotate(NOW_MS - 1000)


def test_the_ring_stays_small() -> None:
    keys = ring()
    for step in range(20):
        keys.rotate(NOW_MS + step * ROTATION_MS)
    assert len(keys._entries) <= 2
