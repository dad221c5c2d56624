"""Scenarios of invite/1."""

from __future__ import annotations

from typing import Any

from generator.kit import NOW_MS, PROVIDER, Scenarios, draw, error, pack, replaced, sha256

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
PUBLIC = bytes.fromhex("04cb0071050611f9")
"""/ip4/203.0.113.5/tcp/4601"""
LOCAL = bytes.fromhex("040a0000010611f9")
"""/ip4/10.0.0.1/tcp/4601"""
KEY = draw("network key")
FINGERPRINT = sha256(b"cocoon private network fingerprint\0" + KEY)[:8]


def scenarios() -> Scenarios:
    found = Scenarios("invite/1")
    plain: list[Any] = [1, PROVIDER.multihash, [PUBLIC, LOCAL], 0, "", b"", b""]
    private: list[Any] = [1, PROVIDER.multihash, [LOCAL], NOW_MS, "büro", FINGERPRINT, KEY]
    for name, fields in (("public", plain), ("private-with-key", private)):
        found.good(f"record-{name}", "3.2", "invite_record.decode", pack(*fields), _fields(fields))
        text = bech32m("cocoon", pack(*fields))
        found.add(f"text-{name}", "3.1", "invite.decode", {"text": text}, _fields(fields))
    found.good("record-more-fields", "3.2", "invite_record.decode", pack(*plain, "later"), _fields(plain), exact=False)
    _bad_records(found, plain)
    _bad_texts(found, bech32m("cocoon", pack(*plain)), pack(*plain))
    return found


def _fields(fields: list[Any]) -> dict[str, Any]:
    names = (
        "addresses", "expires_at_ms", "network_name", "network_fingerprint", "network_key",
    )  # fmt: skip
    return {"peer_id": PROVIDER.peer_id, **dict(zip(names, fields[2:], strict=True))}


def _bad_records(found: Scenarios, plain: list[Any]) -> None:
    wrong = {
        "later-version": (0, 2, "UNKNOWN_TAG"),
        "no-peer": (1, PROVIDER.multihash[:-1], "MALFORMED"),
        "no-address": (2, [], "MALFORMED"),
        "nine-addresses": (2, [PUBLIC] * 9, "BOUND"),
        "long-address": (2, [bytes(257)], "BOUND"),
        "text-address": (2, ["/ip4/10.0.0.1/tcp/4601"], "MALFORMED"),
        "negative-time": (3, -1, "BOUND"),
        "long-name": (4, "n" * 65, "BOUND"),
        "long-fingerprint": (5, bytes(9), "MALFORMED"),
        "short-key": (6, bytes(31), "MALFORMED"),
    }
    for name, (index, value, code) in wrong.items():
        found.bad(f"record-{name}", "3.2", "invite_record.decode", replaced(plain, index, value), code)
    found.bad("record-cut-short", "3.2", "invite_record.decode", pack(*plain[:-1]), "MALFORMED")


def _bad_texts(found: Scenarios, text: str, record: bytes) -> None:
    good = {
        "capitals": text.upper(),
        "folded": f" {text[:40]}\n  {text[40:]}\n",
    }
    for name, variant in good.items():
        found.add(
            f"text-{name}", "3.1", "invite.decode", {"text": variant},
            _fields([1, PROVIDER.multihash, [PUBLIC, LOCAL], 0, "", b"", b""]),
        )  # fmt: skip
    other = "q" if text[30] != "q" else "p"
    wrong = {
        "empty": "",
        "no-invite": "https://example.org/",
        "prefix-only": "cocoon1",
        "another-prefix": bech32m("cacoon", record),
        "bech32-not-bech32m": bech32m("cocoon", record, constant=1),
        "typo": text[:30] + other + text[31:],
        "two-swapped": text[:20] + text[21] + text[20] + text[22:],
        "cut-short": text[:-1],
        "letter-outside": text[:30] + "b" + text[31:],
        "both-cases": text[:30].upper() + text[30:],
        "filled-with-ones": bech32m("cocoon", record, filling=1),
    }
    for name, variant in wrong.items():
        found.add(f"text-{name}", "3.1", "invite.decode", {"text": variant}, error("MALFORMED"))
    found.add("text-too-long", "3.1", "invite.decode", {"text": "cocoon1" + "q" * 1017}, error("BOUND"))


def bech32m(prefix: str, data: bytes, *, constant: int = 0x2BC830A3, filling: int = 0) -> str:
    """BIP 350, written bit by bit. `filling`: the bit that the last group is filled with."""
    bits = "".join(f"{byte:08b}" for byte in data)
    assert not filling or len(bits) % 5, "nothing to fill"
    bits += str(filling) * (-len(bits) % 5)
    values = [int(bits[i : i + 5], 2) for i in range(0, len(bits), 5)]
    expanded = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    remainder = _polymod(expanded + values + [0] * 6) ^ constant
    values += [remainder >> shift & 31 for shift in (25, 20, 15, 10, 5, 0)]
    return prefix + "1" + "".join(ALPHABET[value] for value in values)


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, term in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            if top >> bit & 1:
                check ^= term
    return check
