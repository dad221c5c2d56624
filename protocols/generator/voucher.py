"""Scenarios of voucher/1."""

from __future__ import annotations

from typing import Any

from generator.kit import CLIENT, PROVIDER, STRANGER, Party, Scenarios, draw, error, pack, replaced, sha256

CHANNEL_KEY = Party("client's channel key")
CONFIG: list[Any] = [1, CHANNEL_KEY.public_key, CLIENT.multihash, PROVIDER.multihash, draw("channel", 16), 3600, 0]
CONFIG_NAMES = ("payer_key", "payer", "payee", "channel_id", "challenge_period_s", "network_id")
LARGEST = (1 << 63) - 1


def cell_hash(network_id: int, channel: bytes, cumulative: int) -> bytes:
    """The voucher's cell written as a string of bits, by the letter of TON's rules."""
    size = (cumulative.bit_length() + 7) // 8
    bits = f"{0x63763170:032b}" + f"{network_id & 0xFFFFFFFF:032b}"
    bits += "10" + "0" + "00000000" + "".join(f"{byte:08b}" for byte in channel)
    bits += f"{size:04b}" + (f"{cumulative:0{8 * size}b}" if size else "")
    whole, partial = len(bits) // 8, -(-len(bits) // 8)
    if len(bits) % 8:
        bits += "1"
        bits += "0" * (-len(bits) % 8)
    data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    return sha256(bytes([0, whole + partial]) + data)


def scenarios() -> Scenarios:
    found = Scenarios("voucher/1")
    config = pack(*CONFIG)
    channel = sha256(b"cocoon-p2p/local-channel/1\0" + config)
    found.add("channel-address", "3.1", "channel.address", {"config": config}, channel)
    _records(found, config)
    _vouchers(found, channel)
    opening = pack(1, config, 500_000_000)
    domain = "cocoon-p2p/channel-open/1"
    signed = pack(1, opening, CLIENT.sign(domain, opening))
    voucher = (1750).to_bytes(16, "big") + CHANNEL_KEY.sign_raw(cell_hash(0, channel, 1750))
    given = {
        "record": "channel_open",
        "signer": CLIENT.peer_id,
        "body": opening,
        "signature": CLIENT.sign(domain, opening),
    }
    found.add("open-signed", "3.2", "signed.verify", given, True)
    for name, change in (
        ("by-another", {"signature": STRANGER.sign(domain, opening)}),
        ("by-the-channel-key", {"signature": CHANNEL_KEY.sign(domain, opening)}),
        ("altered-deposit", {"body": pack(1, config, 500_000_001)}),
    ):
        found.add(f"open-signed-{name}", "3.2", "signed.verify", {**given, **change}, error("SIGNATURE"))
    found.good(
        "signed-open", "3.2", "signed_channel_open.decode", signed, {"body": opening, "signature": CLIENT.sign(domain, opening)}
    )  # fmt: skip
    _payments(found, channel, signed, voucher)
    return found


def _records(found: Scenarios, config: bytes) -> None:
    fields = {
        **dict(zip(CONFIG_NAMES, CONFIG[1:], strict=True)),
        "payer": CLIENT.peer_id,
        "payee": PROVIDER.peer_id,
    }
    found.good("config", "3.1", "channel_config.decode", config, fields)
    found.good(
        "config-on-mainnet", "3.1", "channel_config.decode", replaced(CONFIG, 6, -239), {**fields, "network_id": -239}
    )
    found.good("config-trailing-field", "3.1", "channel_config.decode", pack(*CONFIG, 1), fields, exact=False)
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("key-short", 1, bytes(31), "MALFORMED"),
        ("payer-no-peer", 2, bytes(38), "MALFORMED"), ("id-long", 4, bytes(17), "MALFORMED"),
        ("period-negative", 5, -1, "BOUND"), ("network-too-large", 6, 1 << 31, "BOUND"), ("network-nil", 6, None, "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"config-{name}", "3.1", "channel_config.decode", replaced(CONFIG, index, value), code)
    opening = [1, config, 500_000_000]
    found.good("open", "3.2", "channel_open.decode", pack(*opening), {"config": config, "deposit": 500_000_000})
    for name, index, value, code in (
        ("version", 0, 2, "UNKNOWN_TAG"), ("config-text", 1, "config", "MALFORMED"), ("config-too-long", 1, bytes(1025), "BOUND"),
        ("deposit-negative", 2, -1, "BOUND"), ("deposit-too-large", 2, 1 << 63, "BOUND"), ("deposit-float", 2, 0.5, "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"open-{name}", "3.2", "channel_open.decode", replaced(opening, index, value), code)


def _vouchers(found: Scenarios, channel: bytes) -> None:
    for network_id in (0, -3, -239):
        for cumulative in (0, 1, 255, 256, 65535, 65536, 10**9, LARGEST):
            found.add(
                f"hash-network{network_id}-{cumulative}", "5", "voucher.hash",
                {"network_id": network_id, "channel": channel, "cumulative": cumulative},
                cell_hash(network_id, channel, cumulative),
            )  # fmt: skip
    signature = CHANNEL_KEY.sign_raw(cell_hash(0, channel, 1750))
    raw = (1750).to_bytes(16, "big") + signature
    found.good("voucher", "3.3", "voucher.decode", raw, {"cumulative": 1750, "signature": signature})
    largest = LARGEST.to_bytes(16, "big") + signature
    found.good("voucher-largest", "3.3", "voucher.decode", largest, {"cumulative": LARGEST, "signature": signature})
    found.bad("voucher-too-large", "3.3", "voucher.decode", (1 << 63).to_bytes(16, "big") + signature, "BOUND")
    found.bad("voucher-short", "3.3", "voucher.decode", raw[:-1], "MALFORMED")
    found.bad("voucher-long", "3.3", "voucher.decode", raw + b"\0", "MALFORMED")
    found.bad("voucher-empty", "3.3", "voucher.decode", b"", "MALFORMED")
    given = {"payer_key": CHANNEL_KEY.public_key, "network_id": 0, "channel": channel, "voucher": raw}
    found.add("voucher-signature", "5", "voucher.verify", given, True)
    for name, change in (
        ("another-network", {"network_id": -3}),
        ("another-channel", {"channel": draw("another channel")}),
        ("another-amount", {"voucher": (1751).to_bytes(16, "big") + signature}),
        ("another-key", {"payer_key": CLIENT.public_key}),
        ("in-a-domain", {"voucher": raw[:16] + CHANNEL_KEY.sign("cocoon-p2p/voucher/1", cell_hash(0, channel, 1750))}),
    ):
        found.add(f"voucher-signature-{name}", "5", "voucher.verify", {**given, **change}, error("VOUCHER_SIGNATURE"))


def _payments(found: Scenarios, channel: bytes, signed: bytes, voucher: bytes) -> None:
    for name, opening, raw in (
        ("payment-first", signed, voucher), ("payment", b"", voucher), ("payment-out-of-credit", b"", b""),
    ):  # fmt: skip
        fields = {"channel": channel, "open": opening, "voucher": raw}
        found.good(name, "4.1", "payment.decode", pack(1, channel, opening, raw), fields)
    payment = [1, channel, signed, voucher]
    for name, raw, code in (
        ("version", replaced(payment, 0, 2), "UNKNOWN_TAG"),
        ("channel-short", replaced(payment, 1, channel[:-1]), "MALFORMED"),
        ("open-nil", replaced(payment, 2, None), "MALFORMED"),
        ("voucher-short", replaced(payment, 3, voucher[:-1]), "MALFORMED"),
        ("missing-field", pack(1, channel, signed), "MALFORMED"),
        ("too-long", replaced(payment, 2, bytes(1024)), "BOUND"),
        ("empty", b"", "MALFORMED"),
    ):
        found.bad(f"payment-{name}", "4.1", "payment.decode", raw, code)
