"""Scenarios of identity."""

from __future__ import annotations

from generator import identity_network
from generator.kit import CLIENT, PROVIDER, STRANGER, Scenarios, base58, draw, error

DOMAIN = "cocoon-p2p/quote/1"


def scenarios() -> Scenarios:
    found = Scenarios("identity")
    for party in (PROVIDER, CLIENT):
        found.add(
            f"peer-id-of-{party.name}", "2", "identity.peer_id",
            {"public_key": party.public_key}, {"text": party.peer_id, "bytes": party.multihash},
        )  # fmt: skip
    found.add("public-key", "2", "identity.public_key", {"peer_id": PROVIDER.peer_id}, PROVIDER.public_key)
    wrong = {
        "no-base58": "12D3KooW0OIl",
        "empty": "",
        "cut-short": PROVIDER.peer_id[:-1],
        "too-long": PROVIDER.peer_id * 2,
        "rsa": base58(bytes.fromhex("1220") + draw("rsa key's hash")),
        "secp256k1": base58(bytes.fromhex("00250802122102") + draw("x coordinate")),
        "another-key-type": base58(bytes.fromhex("002408021220") + PROVIDER.public_key),
        "zero-before": "1" + PROVIDER.peer_id,
    }
    for name, text in wrong.items():
        found.add(f"peer-id-{name}", "2", "identity.public_key", {"peer_id": text}, error("MALFORMED"))

    body = b"the exact bytes"
    signature = PROVIDER.sign(DOMAIN, body)
    found.add("sign", "3.1", "identity.sign", {"seed": PROVIDER.seed, "domain": DOMAIN, "body": body}, signature)
    found.add(
        "sign-empty-body", "3.1", "identity.sign", {"seed": PROVIDER.seed, "domain": DOMAIN, "body": b""},
        PROVIDER.sign(DOMAIN, b""),
    )  # fmt: skip
    given = {"peer_id": PROVIDER.peer_id, "domain": DOMAIN, "body": body, "signature": signature}
    found.add("verify", "3.2", "identity.verify", given, True)
    altered = {
        "another-domain": {"domain": "cocoon-p2p/receipt/1"},
        "a-domain-that-begins-alike": {"domain": "cocoon-p2p/quote/10"},
        "no-domain": {"signature": PROVIDER.sign_raw(body)},
        "a-domain-without-its-zero": {"signature": PROVIDER.sign_raw(DOMAIN.encode() + body)},
        "another-body": {"body": body + b"\0"},
        "another-peer": {"peer_id": STRANGER.peer_id},
        "a-signature-cut-short": {"signature": signature[:-1]},
        "an-empty-signature": {"signature": b""},
        "an-altered-signature": {"signature": signature[:-1] + bytes([signature[-1] ^ 1])},
        "no-peer-id": {"peer_id": "12D3KooW"},
    }
    for name, change in altered.items():
        found.add(f"verify-{name}", "3.2", "identity.verify", {**given, **change}, error("SIGNATURE"))
    identity_network.add_all(found)
    return found
