"""voucher/1: channels and cumulative vouchers, byte-identical on every settlement network (protocols/voucher/1/spec.md).

Formats and hashes only; `settlement/` signs, verifies and keeps them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, PAYMENT_BYTES_MAX
from cocoon_p2p.wire import codec
from cocoon_p2p.wire.codec import HASH_BYTES, SIGNATURE_BYTES, UINT32_MAX, Bytes

CHANNEL_OPEN_DOMAIN = b"cocoon-p2p/channel-open/1"
VOUCHER_TAG = 0x63763170
"""ASCII "cv1p": the first 32 bits of a voucher's cell."""
VOUCHER_BYTES = 80
CHANNEL_BYTES = 32
CHANNEL_ID_BYTES = 16
CHANNEL_KEY_BYTES = 32
_CUMULATIVE_BYTES = VOUCHER_BYTES - SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class ChannelConfig:
    """What a channel is, for all its life. Its address commits to every field."""

    payer_key: bytes
    """Ed25519 public key (32 bytes), made for channels and nothing else, that signs its vouchers."""
    payer: PeerId
    payee: PeerId
    channel_id: bytes
    """16 random bytes."""
    challenge_period_s: int
    network_id: int

    def encode(self) -> bytes:
        return codec.pack(
            [
                1,
                self.payer_key,
                codec.peer_bytes(self.payer),
                codec.peer_bytes(self.payee),
                self.channel_id,
                self.challenge_period_s,
                self.network_id,
            ]
        )


@dataclass(frozen=True, slots=True)
class ChannelOpen:
    """The body that the payer's identity signs: the channel exists and holds `deposit` nanogram in all."""

    config: bytes
    """An encoded ChannelConfig."""
    deposit: int

    def encode(self) -> bytes:
        return codec.pack([1, self.config, self.deposit])


@dataclass(frozen=True, slots=True)
class SignedChannelOpen:
    """`body` is an encoded ChannelOpen, signed by the payer's identity with CHANNEL_OPEN_DOMAIN."""

    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        return codec.pack([1, self.body, self.signature])


@dataclass(frozen=True, slots=True)
class Voucher:
    """Of this channel's deposit the payee may take `cumulative` nanogram in all. Signed: `voucher_cell_hash`."""

    cumulative: int
    signature: bytes

    def encode(self) -> bytes:
        """80 bytes."""
        return self.cumulative.to_bytes(_CUMULATIVE_BYTES) + self.signature


@dataclass(frozen=True, slots=True)
class Payment:
    """What ACCEPT carries: the channel, and as much of its opening and its newest voucher as the payee lacks."""

    channel: bytes
    """32 bytes, the channel's address."""
    open: bytes
    """An encoded SignedChannelOpen, or empty."""
    voucher: bytes
    """An encoded Voucher, or empty when the credit suffices."""

    def encode(self) -> bytes:
        return codec.pack([1, self.channel, self.open, self.voucher])


def decode_channel_config(config: Bytes) -> ChannelConfig:
    """Raises RemoteProtocolError."""
    # SPEC voucher/1 §3.1
    fields = codec.unpack_tagged(config, 1, 7, "channel configuration")
    return ChannelConfig(
        codec.fixed(fields[1], "payer key", CHANNEL_KEY_BYTES),
        codec.peer_id(fields[2], "payer"),
        codec.peer_id(fields[3], "payee"),
        codec.fixed(fields[4], "channel id", CHANNEL_ID_BYTES),
        codec.uint(fields[5], "challenge_period_s", UINT32_MAX),
        codec.network_id(fields[6], "network id"),
    )


def decode_channel_open(body: Bytes) -> ChannelOpen:
    """Raises RemoteProtocolError."""
    # SPEC voucher/1 §3.2
    fields = codec.unpack_tagged(body, 1, 3, "channel opening")
    return ChannelOpen(
        codec.blob(fields[1], "channel configuration", PAYMENT_BYTES_MAX), codec.amount(fields[2], "deposit")
    )


def decode_signed_channel_open(record: Bytes) -> SignedChannelOpen:
    """Raises RemoteProtocolError."""
    fields = codec.unpack_tagged(record, 1, 3, "signed channel opening")
    return SignedChannelOpen(
        codec.blob(fields[1], "channel opening", PAYMENT_BYTES_MAX),
        codec.fixed(fields[2], "signature", SIGNATURE_BYTES),
    )


def decode_voucher(raw: Bytes) -> Voucher:
    """Raises RemoteProtocolError."""
    # SPEC voucher/1 §3.3
    if len(raw) != VOUCHER_BYTES:
        codec.fail("MALFORMED", f"voucher of {len(raw)} bytes; {VOUCHER_BYTES} are needed")
    cumulative = codec.amount(int.from_bytes(raw[:_CUMULATIVE_BYTES]), "cumulative")
    return Voucher(cumulative, bytes(raw[_CUMULATIVE_BYTES:]))


def decode_payment(payment: Bytes) -> Payment:
    """Raises RemoteProtocolError."""
    # SPEC voucher/1 §4.1
    if len(payment) > PAYMENT_BYTES_MAX:
        codec.fail("BOUND", f"payment of {len(payment)} bytes; at most {PAYMENT_BYTES_MAX}")
    fields = codec.unpack_tagged(payment, 1, 4, "payment")
    return Payment(
        codec.fixed(fields[1], "channel", CHANNEL_BYTES),
        codec.blob(fields[2], "channel opening", PAYMENT_BYTES_MAX),
        codec.fixed_or_empty(fields[3], "voucher", VOUCHER_BYTES),
    )


def local_channel_address(config: Bytes) -> bytes:
    """32 bytes: the address of a channel on the `local` network, of its encoded ChannelConfig."""
    return hashlib.sha256(b"cocoon-p2p/local-channel/1\0" + bytes(config)).digest()


def voucher_cell_hash(global_id: int, channel: bytes, cumulative: int) -> bytes:
    """The 32 bytes that a voucher's Ed25519 signature is over, without any domain prefix.

    The representation hash of the TON cell `tag:u32 | globalId:i32 | channel:MsgAddressInt (workchain 0) |
    cumulative:coins`. Raises ValueError for values that do not fit."""
    # SPEC voucher/1 §5
    if len(channel) != HASH_BYTES or not 0 <= cumulative <= AMOUNT_NANOGRAM_MAX:
        raise ValueError("a voucher needs a channel of 32 bytes and an amount of nanogram within bounds")
    coins_bytes = (cumulative.bit_length() + 7) // 8
    bits = VOUCHER_TAG
    bits = bits << 32 | (global_id & UINT32_MAX)
    bits = bits << 11 | 0b10_0_00000000  # addr_std, no anycast, workchain 0
    bits = bits << 256 | int.from_bytes(channel)
    bits = bits << 4 | coins_bytes
    bits = bits << 8 * coins_bytes | cumulative
    # 335 + 8n bits: one bit short of whole bytes, so that the completion tag of the cell is a single 1
    bits = bits << 1 | 1
    data = bits.to_bytes(42 + coins_bytes)
    descriptors = bytes((0, 2 * len(data) - 1))  # no references, ordinary, level 0; bytes rounded down + rounded up
    return hashlib.sha256(descriptors + data).digest()
