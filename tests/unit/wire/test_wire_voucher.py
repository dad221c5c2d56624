from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pytoniq_core import Address, begin_cell

from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, PAYMENT_BYTES_MAX
from cocoon_p2p.sealing.signing import IdentityKey, verify_bytes
from cocoon_p2p.wire import voucher

CHANNEL = bytes(range(32))


def ton_cell_hash(global_id: int, channel: bytes, cumulative: int) -> bytes:
    """The same cell, built by pytoniq-core."""
    cell = begin_cell().store_uint(voucher.VOUCHER_TAG, 32).store_int(global_id, 32)
    digest: bytes = cell.store_address(Address((0, channel))).store_coins(cumulative).end_cell().hash
    return digest


@settings(deadline=None)
@given(
    st.sampled_from([0, -3, -239]) | st.integers(-(2**31), 2**31 - 1),
    st.binary(min_size=32, max_size=32),
    st.integers(0, AMOUNT_NANOGRAM_MAX) | st.integers(0, 63).map(lambda bit: (1 << bit) - (bit == 63)),
)
def test_the_hash_is_tons(global_id: int, channel: bytes, cumulative: int) -> None:
    assert voucher.voucher_cell_hash(global_id, channel, cumulative) == ton_cell_hash(global_id, channel, cumulative)


@pytest.mark.parametrize("cumulative", [0, 1, 255, 256, AMOUNT_NANOGRAM_MAX])
def test_the_hash_at_the_bounds(cumulative: int) -> None:
    assert voucher.voucher_cell_hash(-3, CHANNEL, cumulative) == ton_cell_hash(-3, CHANNEL, cumulative)


@pytest.mark.parametrize(("channel", "cumulative"), [(bytes(31), 1), (CHANNEL, -1), (CHANNEL, AMOUNT_NANOGRAM_MAX + 1)])
def test_what_no_voucher_can_say(channel: bytes, cumulative: int) -> None:
    with pytest.raises(ValueError, match="voucher"):
        voucher.voucher_cell_hash(0, channel, cumulative)


def test_a_voucher_of_eighty_bytes() -> None:
    key = Ed25519PrivateKey.generate()
    message = voucher.voucher_cell_hash(0, CHANNEL, 1750)
    raw = voucher.Voucher(1750, key.sign(message)).encode()
    assert len(raw) == voucher.VOUCHER_BYTES
    assert raw[:16] == (1750).to_bytes(16, "big")
    signature = voucher.decode_voucher(raw).signature
    public_key = key.public_key().public_bytes_raw()
    assert verify_bytes(public_key, message, signature)
    assert not verify_bytes(public_key, voucher.voucher_cell_hash(0, CHANNEL, 1751), signature)


def test_the_first_payment_of_a_channel_fits() -> None:
    """ACCEPT bounds a payment: the whole opening and a voucher go in, whatever the numbers are."""
    peer = IdentityKey.generate().peer_id
    config = voucher.ChannelConfig(bytes(32), peer, peer, bytes(16), 2**32 - 1, -239).encode()
    body = voucher.ChannelOpen(config, AMOUNT_NANOGRAM_MAX).encode()
    signed = voucher.SignedChannelOpen(body, bytes(64)).encode()
    payment = voucher.Payment(CHANNEL, signed, bytes(80))
    assert len(payment.encode()) < PAYMENT_BYTES_MAX
    assert voucher.decode_payment(payment.encode()) == payment
    assert voucher.decode_channel_open(voucher.decode_signed_channel_open(signed).body).config == config


def test_the_address_commits_to_every_field() -> None:
    peer, other = IdentityKey.generate().peer_id, IdentityKey.generate().peer_id
    configs = [
        voucher.ChannelConfig(bytes(32), peer, other, bytes(16), 60, 0),
        voucher.ChannelConfig(b"\1" * 32, peer, other, bytes(16), 60, 0),
        voucher.ChannelConfig(bytes(32), other, peer, bytes(16), 60, 0),
        voucher.ChannelConfig(bytes(32), peer, other, b"\1" * 16, 60, 0),
        voucher.ChannelConfig(bytes(32), peer, other, bytes(16), 61, 0),
        voucher.ChannelConfig(bytes(32), peer, other, bytes(16), 60, -3),
    ]
    assert len({voucher.local_channel_address(config.encode()) for config in configs}) == len(configs)
