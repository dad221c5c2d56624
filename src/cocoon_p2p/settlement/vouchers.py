"""Signing and verifying of what wire.voucher describes: vouchers, by the payer's channel key, and channel openings, by
the payer's identity."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.sealing.signing import IdentityKey, verify_bytes, verify_signature
from cocoon_p2p.wire.voucher import (
    CHANNEL_OPEN_DOMAIN,
    ChannelConfig,
    ChannelOpen,
    SignedChannelOpen,
    Voucher,
    decode_channel_config,
    decode_channel_open,
    decode_signed_channel_open,
    local_channel_address,
    voucher_cell_hash,
)


class VoucherSigner:
    """Signs vouchers with a key that is made for channels, never with the identity or a wallet's key."""

    def __init__(self, channel_key: IdentityKey, network_id: int) -> None:
        self.public_key = channel_key.public_key
        # the cell hash is signed as it is, as a TON contract checks it: IdentityKey.sign would put a domain before it
        self._key = Ed25519PrivateKey.from_private_bytes(channel_key.seed)
        self._network_id = network_id

    def sign(self, channel: bytes, cumulative: int) -> Voucher:
        return Voucher(cumulative, self._key.sign(voucher_cell_hash(self._network_id, channel, cumulative)))


def verify_voucher(voucher: Voucher, *, payer_key: bytes, network_id: int, channel: bytes) -> None:
    """Raises RemoteProtocolError(code="VOUCHER_SIGNATURE"): damaged, forged, or meant for another channel or network."""
    # SPEC voucher/1 §5
    if not verify_bytes(payer_key, voucher_cell_hash(network_id, channel, voucher.cumulative), voucher.signature):
        raise RemoteProtocolError("the voucher is not signed for this channel by its key", code="VOUCHER_SIGNATURE")


def sign_opening(identity: IdentityKey, config: bytes, deposit: int) -> bytes:
    """An encoded SignedChannelOpen: the channel of the encoded ChannelConfig `config` holds `deposit` in all."""
    body = ChannelOpen(config, deposit).encode()
    return SignedChannelOpen(body, identity.sign(CHANNEL_OPEN_DOMAIN, body)).encode()


def verify_opening(
    opening: bytes, *, channel: bytes, payer: PeerId, payee: PeerId, network_id: int, deposit_max: int
) -> tuple[ChannelOpen, ChannelConfig]:
    """Check that `payer` opened this channel for `payee`. Raises RemoteProtocolError: CHANNEL_SIGNATURE,
    VOUCHER_FOREIGN (other parties, network or address), DEPOSIT (none, or more than `deposit_max`), MALFORMED."""
    # SPEC voucher/1 §3.2
    signed = decode_signed_channel_open(opening)
    if not verify_signature(payer, CHANNEL_OPEN_DOMAIN, signed.body, signed.signature):
        raise RemoteProtocolError("the channel's opening is not signed by its payer", code="CHANNEL_SIGNATURE")
    opened = decode_channel_open(signed.body)
    config = decode_channel_config(opened.config)
    if (config.payer, config.payee, config.network_id) != (payer, payee, network_id):
        raise RemoteProtocolError("the channel is of other parties or another network", code="VOUCHER_FOREIGN")
    if local_channel_address(opened.config) != channel:
        raise RemoteProtocolError("the channel's address is not that of its opening", code="VOUCHER_FOREIGN")
    if not 0 < opened.deposit <= deposit_max:
        raise RemoteProtocolError(
            f"a deposit of {opened.deposit} nanogram; 1 to {deposit_max} are taken", code="DEPOSIT"
        )
    return opened, config
