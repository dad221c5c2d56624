"""Scenarios of capacity/1."""

from __future__ import annotations

from typing import Any

from generator.kit import (
    JSON,
    MODEL,
    NOW_MS,
    PROVIDER,
    STRANGER,
    Scenarios,
    draw,
    error,
    pack,
    replaced,
    sha256,
)

DOMAIN = "cocoon-p2p/capacity/1"
OFFER = [MODEL, "minilm", [1, 2], 1000, 250, 4096, 1 << 26, 4, 3, 12, "cpu", 2150]
OFFER_NAMES = (
    "model_id", "name", "tiers", "price_base", "price_per_item", "items_max", "input_bytes_max", "slots_total",
    "slots_free", "queue_ms", "device", "item_us",
)  # fmt: skip
BODY: list[Any] = [
    1, PROVIDER.multihash, 1_760_000_000_123, NOW_MS, NOW_MS + 60_000, ["/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"],
    "cocoon_p2p/0.1.0", [0, -3, -239], [OFFER],
]  # fmt: skip
NAMES = ("peer_id", "sequence", "issued_at_ms", "expires_at_ms", "addresses", "agent", "settlement_networks", "offers")


def fields(body: list[Any]) -> JSON:
    named = dict(zip(NAMES, body[1:], strict=True))
    offers = [dict(zip(OFFER_NAMES, offer[:12], strict=True)) for offer in body[8]]
    return {**named, "peer_id": PROVIDER.peer_id, "offers": offers}


def with_offer(index: int, value: Any) -> bytes:
    return replaced(BODY, 8, [[value if i == index else entry for i, entry in enumerate(OFFER)]])


def scenarios() -> Scenarios:
    found = Scenarios("capacity/1")
    body = pack(*BODY)
    signature = PROVIDER.sign(DOMAIN, body)
    frame = pack(1, body, signature)
    found.message("signed", "3.1", frame, "SIGNED_ANNOUNCEMENT", {"body": body, "signature": signature})
    found.message("get-capacity", "3.4", pack(2), "GET_CAPACITY", {})
    found.message("no-capacity", "3.4", pack(3), "NO_CAPACITY", {})
    found.message("get-capacity-trailing-field", "3.4", pack(2, "later"), "GET_CAPACITY", {}, exact=False)
    for name, raw, code in (
        ("unknown-tag", pack(7), "UNKNOWN_TAG"),
        ("tag-zero", pack(0), "UNKNOWN_TAG"),
        ("negative-tag", pack(-1), "UNKNOWN_TAG"),
        ("no-signature", pack(1, body), "MALFORMED"),
        ("short-signature", pack(1, body, signature[:-1]), "MALFORMED"),
        ("body-not-bytes", pack(1, "text", signature), "MALFORMED"),
        ("body-is-garbage", pack(1, b"\xc1garbage", signature), "MALFORMED"),
        ("too-long", pack(1, body, signature, bytes(16384)), "BOUND"),
        ("empty", b"", "MALFORMED"),
    ):
        found.bad(f"signed-{name}", "3.1", "capacity.decode", raw, code)
    _manifests(found)
    _announcements(found, body)
    _verification(found, body, signature)
    _times(found)
    name = "all-MiniLM-L6-v2 – é"
    found.add(
        "keys", "5.1", "capacity.keys", {"peer_id": PROVIDER.peer_id, "model_id": MODEL, "name": name},
        {
            "key": f"/cocoon-capacity/{PROVIDER.peer_id}",
            "model_content_id": sha256(b"cocoon-p2p/model/1\0" + MODEL),
            "name_content_id": sha256(b"cocoon-p2p/model-name/1\0" + name.encode()),
            "any_model_content_id": sha256(b"cocoon-p2p/any-model/1\0"),
        },
    )  # fmt: skip
    return found


def _manifests(found: Scenarios) -> None:
    manifest = b'{"format":1}'
    found.message("get-manifest", "3.5", pack(4, MODEL), "GET_MANIFEST", {"model_id": MODEL})
    found.message("manifest", "3.6", pack(5, manifest), "MANIFEST", {"data": manifest})
    found.message("manifest-trailing-field", "3.6", pack(5, manifest, 1), "MANIFEST", {"data": manifest}, exact=False)
    found.message("no-manifest", "3.6", pack(6), "NO_MANIFEST", {})
    for name, section, raw, code in (
        ("get-manifest-of-nothing", "3.5", pack(4), "MALFORMED"),
        ("get-manifest-short-id", "3.5", pack(4, MODEL[:-1]), "MALFORMED"),
        ("get-manifest-id-as-text", "3.5", pack(4, MODEL.hex()), "MALFORMED"),
        ("manifest-missing", "3.6", pack(5), "MALFORMED"),
        ("manifest-text", "3.6", pack(5, manifest.decode()), "MALFORMED"),
    ):
        found.bad(name, section, "capacity.decode", raw, code)


def _announcements(found: Scenarios, body: bytes) -> None:
    operation = "announcement.decode"
    found.good("announcement", "3.2", operation, body, fields(BODY))
    bare = [*BODY[:5], [], "", [], []]
    found.good("announcement-without-offers", "3.2", operation, pack(*bare), fields(bare))
    found.good("trailing-field", "3.2", operation, pack(*BODY, "later"), fields(BODY), exact=False)
    longer = [*BODY[:8], [[*OFFER, 7]]]
    found.good("offer-trailing-field", "3.3", operation, pack(*longer), fields(longer), exact=False)
    later = [*BODY[:8], [[*OFFER[:2], [2, 9], *OFFER[3:]]]]
    known = [*BODY[:8], [[*OFFER[:2], [2], *OFFER[3:]]]]
    found.good("offer-tier-of-a-later-version", "3.3", operation, pack(*later), fields(known), exact=False)
    many = [[draw(f"model {i}"), *OFFER[1:]] for i in range(65)]
    most = [*BODY[:8], many[:64]]
    found.good("most-offers", "3.2", operation, pack(*most), fields(most))
    for name, raw, code in (
        ("version", replaced(BODY, 0, 2), "UNKNOWN_TAG"),
        ("peer-id-short", replaced(BODY, 1, PROVIDER.multihash[:-1]), "MALFORMED"),
        ("peer-id-of-another-kind", replaced(BODY, 1, b"\x12\x20" + bytes(36)), "MALFORMED"),
        ("sequence-negative", replaced(BODY, 2, -1), "BOUND"),
        ("sequence-too-large", replaced(BODY, 2, 1 << 63), "BOUND"),
        ("sequence-float", replaced(BODY, 2, 1.0), "MALFORMED"),
        ("sequence-boolean", replaced(BODY, 2, True), "MALFORMED"),
        ("expiry-text", replaced(BODY, 4, "tomorrow"), "MALFORMED"),
        ("expiry-nil", replaced(BODY, 4, None), "MALFORMED"),
        ("expires-before-issued", replaced(BODY, 4, NOW_MS), "BOUND"),
        ("too-many-addresses", replaced(BODY, 5, ["/ip4/192.0.2.7/tcp/1"] * 17), "BOUND"),
        ("address-too-long", replaced(BODY, 5, ["/" * 257]), "BOUND"),
        ("addresses-a-map", replaced(BODY, 5, {"a": 1}), "MALFORMED"),
        ("agent-too-long", replaced(BODY, 6, "x" * 65), "BOUND"),
        ("too-many-networks", replaced(BODY, 7, list(range(9))), "BOUND"),
        ("network-too-large", replaced(BODY, 7, [1 << 31]), "BOUND"),
        ("too-many-offers", replaced(BODY, 8, many), "BOUND"),
        ("one-model-twice", replaced(BODY, 8, [OFFER, OFFER]), "MALFORMED"),
        ("offer-no-array", replaced(BODY, 8, [7]), "MALFORMED"),
        ("offer-short", replaced(BODY, 8, [OFFER[:-1]]), "MALFORMED"),
        ("offer-model-id-short", with_offer(0, MODEL[:-1]), "MALFORMED"),
        ("offer-name-too-long", with_offer(1, "n" * 65), "BOUND"),
        ("offer-name-bytes", with_offer(1, b"minilm"), "MALFORMED"),
        ("offer-too-many-tiers", with_offer(2, [1] * 17), "BOUND"),
        ("offer-price-negative", with_offer(3, -1), "BOUND"),
        ("offer-price-too-large", with_offer(4, 1 << 63), "BOUND"),
        ("offer-price-float", with_offer(4, 0.5), "MALFORMED"),
        ("offer-slots-too-large", with_offer(8, 1 << 32), "BOUND"),
        ("offer-device-nil", with_offer(10, None), "MALFORMED"),
        ("missing-field", pack(*BODY[:-1]), "MALFORMED"),
        ("bytes-after", body + b"\0", "MALFORMED"),
        ("cut-short", body[:-1], "MALFORMED"),
        ("name-not-utf8", body.replace(b"minilm", b"minil\xff"), "MALFORMED"),
        ("not-an-array", b"\x07", "MALFORMED"),
        ("array-of-a-million", b"\xdd\x00\x10\x00\x00", "MALFORMED"),
    ):
        found.bad(f"announcement-{name}", "3.3" if name.startswith("offer") else "3.2", operation, raw, code)


def _verification(found: Scenarios, body: bytes, signature: bytes) -> None:
    given = {"record": "announcement", "signer": PROVIDER.peer_id, "body": body, "signature": signature}
    found.add("verify", "4.2", "signed.verify", given, True)
    forged = {
        "forged-by-another-peer": {"signature": STRANGER.sign(DOMAIN, body)},
        "in-another-domain": {"signature": PROVIDER.sign("cocoon-p2p/quote/1", body)},
        "with-an-altered-price": {"body": with_offer(4, 1)},
    }
    for name, change in forged.items():
        found.add(f"verify-{name}", "4.2", "signed.verify", {**given, **change}, error("SIGNATURE"))


def _times(found: Scenarios) -> None:
    body = pack(*BODY)
    for name, now_ms, expect in (
        ("just-issued", NOW_MS, True),
        ("last-moment", NOW_MS + 59_999, True),
        ("clock-ahead", NOW_MS - 10_000, True),
        ("from-the-future", NOW_MS - 10_001, error("EXPIRED")),
        ("expired", NOW_MS + 60_000, error("EXPIRED")),
    ):
        found.add(f"time-{name}", "4.2", "announcement.current", {"body": body, "now_ms": now_ms}, expect)
    long = replaced(BODY, 4, NOW_MS + 60_001)
    found.add("time-lives-too-long", "4.2", "announcement.current", {"body": long, "now_ms": NOW_MS}, error("BOUND"))
