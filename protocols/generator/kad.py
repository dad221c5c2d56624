"""Scenarios of kad/1."""

from __future__ import annotations

from generator.capacity import BODY, DOMAIN
from generator.kit import JSON, PROVIDER, STRANGER, Scenarios, draw, error, pack, replaced, sha256
from generator.protobuf import data, number

PUT_VALUE, GET_VALUE, ADD_PROVIDER, GET_PROVIDERS, FIND_NODE, PING = range(6)
KEY = f"/cocoon-capacity/{PROVIDER.peer_id}"
ADDRESS = bytes.fromhex("04c0000207060fa1")  # /ip4/192.0.2.7/tcp/4001
ADDRESS_TEXT = "/ip4/192.0.2.7/tcp/4001"
CONTENT = draw("content")


def message(kind: int, key: bytes, *parts: bytes) -> bytes:
    """Fields in the order of their numbers; proto3 leaves zero out."""
    return (number(1, kind) if kind else b"") + (data(2, key) if key else b"") + b"".join(parts)


def record(key: bytes, value: bytes) -> bytes:
    return data(3, data(1, key) + data(2, value))


def peer(field: int, multihash: bytes, *addresses: bytes) -> bytes:
    return data(field, data(1, multihash) + b"".join(data(2, address) for address in addresses))


def signed(sequence: int, *, signer: bytes | None = None, agent: str = "a") -> bytes:
    body = replaced([*BODY[:2], sequence, *BODY[3:6], agent, *BODY[7:]], 2, sequence)
    return pack(1, body, signer if signer is not None else PROVIDER.sign(DOMAIN, body))


def scenarios() -> Scenarios:
    found = Scenarios("kad/1")
    _keys(found)
    _messages(found)
    _selection(found)
    return found


def _keys(found: Scenarios) -> None:
    keys = {
        "peer": PROVIDER.multihash,
        "record": KEY.encode(),
        "content": b"\x12\x20" + CONTENT,
        "empty": b"",
    }
    for name, key in keys.items():
        found.add(f"position-{name}", "2", "kad.position", {"key": key}, sha256(key))
    multihashes = [bytes.fromhex("002408011220") + draw(f"peer {i}") for i in range(30)]
    target = int.from_bytes(sha256(KEY.encode()), "big")
    order = sorted(multihashes, key=lambda raw: int.from_bytes(sha256(raw), "big") ^ target)
    found.add("nearest", "2", "kad.nearest", {"key": KEY.encode(), "peers": multihashes, "count": 20}, order[:20])
    found.add("content-key", "5", "kad.content_id", {"key": b"\x12\x20" + CONTENT}, CONTENT)
    for name, key in {
        "bare": CONTENT, "short": b"\x12\x20" + CONTENT[:-1], "long": b"\x12\x20" + CONTENT + b"\0",
        "sha1": b"\x11\x14" + CONTENT[:20], "identity": b"\x00\x20" + CONTENT, "empty": b"",
    }.items():  # fmt: skip
        found.add(f"content-key-{name}", "5", "kad.content_id", {"key": key}, error("MALFORMED"))


def _messages(found: Scenarios) -> None:
    def good(name: str, frame: bytes, *, exact: bool = True, **fields: object) -> None:
        read: JSON = {"key": b"", "record": None, "closer": [], "providers": [], **fields}
        found.add(name, "3.2", "kad.decode", {"frame": frame}, {"fields": read, "exact": exact})

    key, value = KEY.encode(), signed(7)
    nobody = {"peer": STRANGER.peer_id, "addresses": []}
    provider = {"peer": PROVIDER.peer_id, "addresses": [ADDRESS_TEXT]}
    content = b"\x12\x20" + CONTENT
    stored = record(key, value)
    good("put-value", message(PUT_VALUE, key, stored), type=PUT_VALUE, key=key, record={"key": key, "value": value})
    good("get-value", message(GET_VALUE, key), type=GET_VALUE, key=key)
    closer = peer(8, PROVIDER.multihash, ADDRESS) + peer(8, STRANGER.multihash)
    good(
        "get-value-answer", message(GET_VALUE, key, stored, closer),
        type=GET_VALUE, key=key, record={"key": key, "value": value}, closer=[provider, nobody],
    )  # fmt: skip
    told = message(ADD_PROVIDER, content, peer(9, PROVIDER.multihash, ADDRESS))
    good("add-provider", told, type=ADD_PROVIDER, key=content, providers=[provider])
    good("get-providers", message(GET_PROVIDERS, content), type=GET_PROVIDERS, key=content)
    good("find-node", message(FIND_NODE, PROVIDER.multihash), type=FIND_NODE, key=PROVIDER.multihash)
    good("ping", message(PING, b""), type=PING)
    good("empty", b"", type=PUT_VALUE)
    good("longest-key", message(GET_VALUE, bytes(512)), type=GET_VALUE, key=bytes(512))
    strange = peer(8, b"\x12\x20" + draw("rsa"), ADDRESS) + peer(
        8, PROVIDER.multihash, b"\x04\x7f", ADDRESS, b"\x91\x02"
    )
    good(
        "peers-that-are-left-out",
        message(FIND_NODE, key, strange),
        exact=False,
        type=FIND_NODE,
        key=key,
        closer=[provider],
    )
    many = b"".join(peer(8, bytes.fromhex("002408011220") + draw(f"peer {i}")) for i in range(50))
    first = [bytes.fromhex("002408011220") + draw(f"peer {i}") for i in range(20)]
    found.add(
        "too-many-closer-peers", "3.2", "kad.closer", {"frame": message(FIND_NODE, key, many)}, first,
    )  # fmt: skip
    good("unknown-field", message(PING, b"", data(77, b"later")), exact=False, type=PING)
    for name, frame, code in (
        ("type-unknown", message(6, key), "UNKNOWN_TAG"),
        ("type-huge", message(1 << 31, key), "UNKNOWN_TAG"),
        ("no-protobuf", b"\xff" * 20, "MALFORMED"),
        ("cut-short", message(PUT_VALUE, key, stored)[:-1], "MALFORMED"),
        ("key-too-long", message(GET_VALUE, bytes(513)), "BOUND"),
    ):
        found.bad(name, "3.2", "kad.decode", frame, code)
    found.bad("closer-of-no-message", "3.2", "kad.closer", b"\xff", "MALFORMED")


def _selection(found: Scenarios) -> None:
    """Records that come to one keeper, one after the other: what becomes of each, and which it holds in the end."""
    one, two, two_again, three = signed(1), signed(2), signed(2, agent="b"), signed(3)

    def brought(name: str, *steps: tuple[bytes, int, str]) -> None:
        outcomes = [outcome for _, _, outcome in steps]
        held = [raw for raw, _, outcome in steps if outcome in ("new", "renewed")][-1]
        given = {"key": KEY, "records": [{"value": raw.hex(), "at_s": at_s} for raw, at_s, _ in steps]}
        found.add(name, "4.2", "kad.keep", given, {"outcomes": outcomes, "held": held})

    brought("select-higher", (one, 0, "new"), (three, 1, "new"), (two, 2, "stale"))
    brought("select-same-renews", (two, 0, "new"), (two, 3599, "renewed"), (one, 7198, "stale"))
    brought("select-same-number-other-bytes", (two, 0, "new"), (two_again, 1, "stale"))
    brought("select-after-expiry", (three, 0, "new"), (one, 3600, "new"))

    def refused(name: str, key: str, value: bytes, code: str) -> None:
        given = {"key": key, "records": [{"value": value.hex(), "at_s": 0}]}
        found.add(f"record-{name}", "4.1", "kad.keep", given, error(code))

    refused("forged", KEY, signed(1, signer=STRANGER.sign(DOMAIN, b"")), "SIGNATURE")
    refused("of-another-peer", f"/cocoon-capacity/{STRANGER.peer_id}", one, "MALFORMED")
    refused("garbage", KEY, b"\xc1", "MALFORMED")
    refused("too-long", KEY, one + bytes(16384), "BOUND")
