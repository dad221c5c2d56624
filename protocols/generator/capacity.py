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
PRICES = [[1, 1000, 250], [2, 1200, 300]]
OFFER = [MODEL, "minilm", 1, PRICES, 4096, 1 << 26, 4, 3, 12, "cpu", 1, 2150, 465_116, 0]
OFFER_NAMES = (
    "model_id", "name", "unit", "prices", "items_max", "input_bytes_max", "slots_total", "slots_free", "queue_ms", "device",
    "device_class", "item_us", "throughput", "load_ms",
)  # fmt: skip
PRICE_NAMES = ("tier", "base", "per_unit")
BODY: list[Any] = [
    1, PROVIDER.multihash, 1_760_000_000_123, NOW_MS, NOW_MS + 60_000, ["/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"],
    "cocoon_p2p/0.1.0", [0, -3, -239], "de", [OFFER],
]  # fmt: skip
NAMES = (
    "peer_id", "sequence", "issued_at_ms", "expires_at_ms", "addresses", "agent", "settlement_networks", "region", "offers",
)  # fmt: skip


def fields(body: list[Any]) -> JSON:
    named = dict(zip(NAMES, body[1:], strict=True))
    offers = [dict(zip(OFFER_NAMES, offer[:14], strict=True)) for offer in body[9]]
    for offer in offers:
        offer["prices"] = [dict(zip(PRICE_NAMES, price[:3], strict=True)) for price in offer["prices"]]
    return {**named, "peer_id": PROVIDER.peer_id, "offers": offers}


def with_offer(index: int, value: Any) -> bytes:
    return replaced(BODY, 9, [changed(index, value)])


def changed(index: int, value: Any) -> list[Any]:
    return [value if i == index else entry for i, entry in enumerate(OFFER)]


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
        ("unknown-tag", pack(9), "UNKNOWN_TAG"),
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
    _books(found, frame)
    _announcements(found, body)
    _verification(found, body, signature)
    _times(found)
    _files(found, frame)
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


def _books(found: Scenarios, signed: bytes) -> None:
    for name, model, peer, count in (
        ("of-a-model", MODEL, b"", 32), ("of-a-peer", b"", STRANGER.multihash, 1), ("of-both", MODEL, STRANGER.multihash, 5),
        ("of-anybody", b"", b"", 32),
    ):  # fmt: skip
        named = {"model_id": model or None, "peer_id": STRANGER.peer_id if peer else None, "count": count}
        found.message(f"get-book-{name}", "3.7", pack(7, model, peer, count), "GET_BOOK", named)
    anybody = {"model_id": None, "peer_id": None, "count": 3}
    found.message("get-book-trailing-field", "3.7", pack(7, b"", b"", 3, 1), "GET_BOOK", anybody, exact=False)
    for name, raw, code in (
        ("short", pack(7, b"", b""), "MALFORMED"), ("model-id-short", pack(7, MODEL[:-1], b"", 1), "MALFORMED"),
        ("model-id-nil", pack(7, None, b"", 1), "MALFORMED"), ("peer-id-short", pack(7, b"", bytes(37), 1), "MALFORMED"),
        ("peer-id-text", pack(7, b"", STRANGER.peer_id, 1), "MALFORMED"), ("count-zero", pack(7, b"", b"", 0), "BOUND"),
        ("count-too-large", pack(7, b"", b"", 33), "BOUND"), ("count-float", pack(7, b"", b"", 1.0), "MALFORMED"),
    ):  # fmt: skip
        found.bad(f"get-book-{name}", "3.7", "capacity.decode", raw, code)

    def book(name: str, entries: list[list[Any]], *more: Any, heard_by: list[int] | None = None) -> None:
        named = [dict(zip(("raw", "heard_by", "heard_ago_ms"), entry[:3], strict=True)) for entry in entries]
        for entry, known in zip(named, heard_by or [], strict=heard_by is not None):
            entry["heard_by"] = known
        exact = not more and heard_by is None and all(len(entry) == 3 for entry in entries)
        found.message(name, "3.8", pack(8, entries, *more), "BOOK", {"entries": named}, exact=exact)

    book("book", [[signed, 1, 1500], [signed, 3, 0]])
    book("book-empty", [])
    book("book-of-32", [[b"", 2, i] for i in range(32)])
    book("book-trailing-fields", [[signed, 4, 1, "later"]], "later")
    book("book-heard-by-a-way-of-a-later-version", [[signed, 0, 1], [signed, 9, 1]], heard_by=[4, 4])
    book("book-entries-are-not-read-yet", [[b"garbage", 2, (1 << 63) - 1]])
    for name, raw, code in (
        ("short", pack(8), "MALFORMED"), ("entries-nil", pack(8, None), "MALFORMED"),
        ("of-33", pack(8, [[b"", 1, 0]] * 33), "BOUND"), ("entry-no-array", pack(8, [signed]), "MALFORMED"),
        ("entry-short", pack(8, [[signed, 1]]), "MALFORMED"), ("entry-text", pack(8, [["text", 1, 0]]), "MALFORMED"),
        ("entry-too-long", pack(8, [[bytes(16385), 1, 0]]), "BOUND"),
        ("heard-by-negative", pack(8, [[signed, -1, 0]]), "BOUND"), ("heard-by-nil", pack(8, [[signed, None, 0]]), "MALFORMED"),
        ("heard-ago-negative", pack(8, [[signed, 1, -1]]), "BOUND"),
        ("heard-ago-too-large", pack(8, [[signed, 1, 1 << 63]]), "BOUND"),
    ):  # fmt: skip
        found.bad(f"book-{name}", "3.8", "capacity.decode", raw, code)


def _announcements(found: Scenarios, body: bytes) -> None:
    operation = "announcement.decode"
    found.good("announcement", "3.2", operation, body, fields(BODY))
    bare = [*BODY[:5], [], "", [], "", []]
    found.good("announcement-without-offers", "3.2", operation, pack(*bare), fields(bare))
    found.good("trailing-field", "3.2", operation, pack(*BODY, "later"), fields(BODY), exact=False)
    longer = [*BODY[:9], [[*OFFER, 7]]]
    found.good("offer-trailing-field", "3.3", operation, pack(*longer), fields(longer), exact=False)
    _later_versions(found)
    for number in (1, 2, 3):
        unit = [*BODY[:9], [changed(2, number)]]
        found.good(f"offer-unit-{number}", "3.3", operation, pack(*unit), fields(unit))
    for number in (0, 1, 2, 3):
        device = [*BODY[:9], [changed(10, number)]]
        found.good(f"offer-device-class-{number}", "3.3", operation, pack(*device), fields(device))
    cold = [*BODY[:9], [changed(13, 2600)]]
    found.good("offer-of-a-cold-model", "3.3", operation, pack(*cold), fields(cold))
    unpriced = [*BODY[:9], [changed(3, [])]]
    found.good("offer-without-prices", "3.3", operation, pack(*unpriced), fields(unpriced))
    dearest = [*BODY[:9], [changed(3, [[1, 0, 0], [2, (1 << 63) - 1, (1 << 63) - 1], [3, 5, 0]])]]
    found.good("offer-in-all-tiers", "3.3", operation, pack(*dearest), fields(dearest))
    backwards = [*BODY[:9], [changed(3, PRICES[::-1])]]
    found.good("offer-prices-in-another-order", "3.3", operation, pack(*backwards), fields(BODY), exact=False)
    unplaced = [*BODY[:8], "", BODY[9]]
    found.good("announcement-without-region", "3.2", operation, pack(*unplaced), fields(unplaced))
    many = [[draw(f"model {i}"), *OFFER[1:]] for i in range(65)]
    most = [*BODY[:9], many[:64]]
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
        ("region-too-long", replaced(BODY, 8, "x" * 17), "BOUND"),
        ("region-nil", replaced(BODY, 8, None), "MALFORMED"),
        ("too-many-offers", replaced(BODY, 9, many), "BOUND"),
        ("one-model-twice", replaced(BODY, 9, [OFFER, OFFER]), "MALFORMED"),
        ("offer-no-array", replaced(BODY, 9, [7]), "MALFORMED"),
        ("offer-short", replaced(BODY, 9, [OFFER[:-1]]), "MALFORMED"),
        ("offer-model-id-short", with_offer(0, MODEL[:-1]), "MALFORMED"),
        ("offer-name-too-long", with_offer(1, "n" * 65), "BOUND"),
        ("offer-name-bytes", with_offer(1, b"minilm"), "MALFORMED"),
        ("offer-unit-negative", with_offer(2, -1), "BOUND"),
        ("offer-unit-text", with_offer(2, "item"), "MALFORMED"),
        ("offer-too-many-prices", with_offer(3, [[9, 1, 1]] * 17), "BOUND"),
        ("offer-prices-an-integer", with_offer(3, 1000), "MALFORMED"),
        ("offer-price-no-array", with_offer(3, [1]), "MALFORMED"),
        ("offer-price-short", with_offer(3, [[1, 1000]]), "MALFORMED"),
        ("offer-price-tier-negative", with_offer(3, [[-1, 1, 1]]), "BOUND"),
        ("offer-price-negative", with_offer(3, [[1, -1, 0]]), "BOUND"),
        ("offer-price-too-large", with_offer(3, [[1, 0, 1 << 63]]), "BOUND"),
        ("offer-price-float", with_offer(3, [[1, 0.5, 0]]), "MALFORMED"),
        ("offer-price-of-one-tier-twice", with_offer(3, [*PRICES, [2, 5, 5]]), "MALFORMED"),
        ("offer-price-of-an-unknown-tier-negative", with_offer(3, [[9, -1, 0]]), "BOUND"),
        (
            "offer-of-an-unknown-unit-out-of-bounds",
            replaced(BODY, 9, [[*OFFER[:2], 9, PRICES, -1, *OFFER[5:]]]),
            "BOUND",
        ),
        ("offer-items-too-large", with_offer(4, 1 << 32), "BOUND"),
        ("offer-slots-too-large", with_offer(7, 1 << 32), "BOUND"),
        ("offer-device-nil", with_offer(9, None), "MALFORMED"),
        ("offer-device-class-negative", with_offer(10, -1), "BOUND"),
        ("offer-device-class-text", with_offer(10, "GPU"), "MALFORMED"),
        ("offer-throughput-too-large", with_offer(12, 1 << 63), "BOUND"),
        ("offer-throughput-float", with_offer(12, 1.5), "MALFORMED"),
        ("offer-load-too-large", with_offer(13, 1 << 32), "BOUND"),
        ("offer-load-a-truth", with_offer(13, True), "MALFORMED"),
        ("missing-field", pack(*BODY[:-1]), "MALFORMED"),
        ("bytes-after", body + b"\0", "MALFORMED"),
        ("cut-short", body[:-1], "MALFORMED"),
        ("name-not-utf8", body.replace(b"minilm", b"minil\xff"), "MALFORMED"),
        ("not-an-array", b"\x07", "MALFORMED"),
        ("array-of-a-million", b"\xdd\x00\x10\x00\x00", "MALFORMED"),
    ):
        found.bad(f"announcement-{name}", "3.3" if name.startswith("offer") else "3.2", operation, raw, code)


def _files(found: Scenarios, signed: bytes) -> None:
    def record(name: str, raw: bytes, message: str, named: JSON, *, exact: bool = True) -> None:
        expect = {"message": message, "fields": named, "exact": exact}
        found.add(f"file-{name}", "7.2", "market_file.decode", {"frame": raw}, expect)

    header = [1, STRANGER.multihash, NOW_MS, NOW_MS + 3_600_000]
    named: JSON = {"peer_id": STRANGER.peer_id, "from_ms": NOW_MS, "until_ms": NOW_MS + 3_600_000}
    record("header", pack(*header), "FILE_HEADER", named)
    record("header-of-a-moment", replaced(header, 3, NOW_MS), "FILE_HEADER", named | {"until_ms": NOW_MS})
    record("header-trailing-field", pack(*header, 1), "FILE_HEADER", named, exact=False)
    entry = [2, NOW_MS + 70, signed]
    record("entry", pack(*entry), "FILE_ENTRY", {"heard_at_ms": NOW_MS + 70, "raw": signed})
    record("entry-is-not-read-yet", pack(2, 0, b"garbage"), "FILE_ENTRY", {"heard_at_ms": 0, "raw": b"garbage"})
    record("end", pack(3, 2), "FILE_END", {"count": 2})
    record("end-of-nothing", pack(3, 0), "FILE_END", {"count": 0})
    for name, raw, code in (
        ("unknown-tag", pack(4, 0), "UNKNOWN_TAG"), ("empty", b"", "MALFORMED"),
        ("too-long", pack(2, 0, b"", bytes(17408)), "BOUND"),
        ("header-short", pack(*header[:-1]), "MALFORMED"), ("header-peer-id-short", replaced(header, 1, bytes(37)), "MALFORMED"),
        ("header-ends-before-it-begins", replaced(header, 3, NOW_MS - 1), "BOUND"),
        ("header-time-negative", replaced(header, 2, -1), "BOUND"),
        ("entry-short", pack(2, 0), "MALFORMED"), ("entry-time-float", replaced(entry, 1, 0.5), "MALFORMED"),
        ("entry-text", replaced(entry, 2, "text"), "MALFORMED"), ("entry-too-long", replaced(entry, 2, bytes(16385)), "BOUND"),
        ("end-short", pack(3), "MALFORMED"), ("end-negative", pack(3, -1), "BOUND"), ("end-too-large", pack(3, 1 << 63), "BOUND"),
    ):  # fmt: skip
        found.bad(f"file-{name}", "7.2", "market_file.decode", raw, code)


def _later_versions(found: Scenarios) -> None:
    """What a reader of this version leaves out, or reads as something else."""
    operation = "announcement.decode"
    known_prices = [*BODY[:9], [changed(3, PRICES[1:])]]
    later_prices = [*BODY[:9], [changed(3, [PRICES[1], [9, 5, 5, "later"], [9, 6, 6]])]]
    found.good(
        "offer-tier-of-a-later-version", "3.3", operation, pack(*later_prices), fields(known_prices), exact=False
    )
    other = draw("another model")
    for number in (0, 4, (1 << 32) - 1):
        later = [*BODY[:9], [[other, "tokens", number, *OFFER[3:]], OFFER]]
        found.good(f"offer-unit-{number}-is-left-out", "3.3", operation, pack(*later), fields(BODY), exact=False)
    none = [*BODY[:9], []]
    found.good("offer-unit-unknown-and-no-other", "3.3", operation, with_offer(2, 4), fields(none), exact=False)
    device = [*BODY[:9], [changed(10, 0)]]
    found.good(
        "offer-device-class-of-a-later-version", "3.3", operation, with_offer(10, 4), fields(device), exact=False
    )
    longer = with_offer(3, [[*price, "later"] for price in PRICES])
    found.good("offer-price-trailing-field", "3.3", operation, longer, fields(BODY), exact=False)


def _verification(found: Scenarios, body: bytes, signature: bytes) -> None:
    given = {"record": "announcement", "signer": PROVIDER.peer_id, "body": body, "signature": signature}
    found.add("verify", "4.2", "signed.verify", given, True)
    forged = {
        "forged-by-another-peer": {"signature": STRANGER.sign(DOMAIN, body)},
        "in-another-domain": {"signature": PROVIDER.sign("cocoon-p2p/quote/1", body)},
        "with-an-altered-price": {"body": with_offer(3, [[1, 1000, 249], [2, 1200, 300]])},
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
