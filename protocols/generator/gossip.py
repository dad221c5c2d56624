"""Scenarios of gossip/1."""

from __future__ import annotations

from generator.kit import JSON, PROVIDER, STRANGER, Party, Scenarios, draw, error
from generator.protobuf import data, number

TOPIC = "/cocoon/capacity/1"
SEQUENCE = 1_760_000_000_000_000_001
DATA = b"what is said"


def unsigned(
    author: bytes = PROVIDER.multihash, body: bytes = DATA, seqno: bytes = SEQUENCE.to_bytes(8, "big"), *topics: str
) -> bytes:
    return data(1, author) + data(2, body) + data(3, seqno) + b"".join(data(4, topic) for topic in topics or (TOPIC,))


def signed(raw: bytes, signer: Party = PROVIDER, prefix: bytes = b"libp2p-pubsub:") -> bytes:
    return raw + data(5, signer.sign_raw(prefix + raw))


def scenarios() -> Scenarios:
    found = Scenarios("gossip/1")
    raw = unsigned()
    message, identity = signed(raw), PROVIDER.multihash + SEQUENCE.to_bytes(8, "big")
    found.add(
        "sign", "3.1", "gossip.sign",
        {"seed": PROVIDER.seed, "topic": TOPIC, "data": DATA, "sequence": SEQUENCE}, {"message": message, "id": identity},
    )  # fmt: skip
    _verification(found, raw, message, identity)
    _ids(found, identity)
    _rpcs(found, message)
    return found


def _verification(found: Scenarios, raw: bytes, message: bytes, identity: bytes) -> None:
    def good(name: str, frame: bytes, *, said: bytes = DATA, topic: str = TOPIC) -> None:
        fields = {"author": PROVIDER.peer_id, "topic": topic, "data": said, "id": identity}
        found.add(name, "3.3", "gossip.verify", {"message": frame}, fields)

    good("verify", message)
    good("verify-empty", signed(unsigned(body=b"")), said=b"")
    good("verify-longest", signed(unsigned(body=bytes(16384))), said=bytes(16384))
    good("verify-key-of-another-is-not-looked-at", message + data(6, bytes.fromhex("08011220") + STRANGER.public_key))
    good(
        "verify-longest-topic",
        signed(unsigned(PROVIDER.multihash, DATA, SEQUENCE.to_bytes(8, "big"), "x" * 256)),
        topic="x" * 256,
    )
    seqno = SEQUENCE.to_bytes(8, "big")
    for name, frame, code in (
        ("no-signature", raw, "SIGNATURE"),
        ("signed-by-another", signed(raw, STRANGER), "SIGNATURE"),
        ("signed-without-prefix", signed(raw, prefix=b""), "SIGNATURE"),
        ("altered-data", message.replace(DATA, DATA[::-1]), "SIGNATURE"),
        ("altered-topic", message.replace(TOPIC.encode(), TOPIC[::-1].encode()), "SIGNATURE"),
        ("altered-number", message.replace(seqno, seqno[::-1]), "SIGNATURE"),
        ("another-author", message.replace(PROVIDER.multihash, STRANGER.multihash), "SIGNATURE"),
        ("author-of-another-kind", signed(unsigned(b"\x12\x20" + draw("rsa"))), "SIGNATURE"),
        ("no-author", signed(unsigned(b"")), "SIGNATURE"),
        ("signature-cut-short", raw + data(5, PROVIDER.sign_raw(b"libp2p-pubsub:" + raw)[:-1]), "SIGNATURE"),
        ("two-topics", signed(unsigned(PROVIDER.multihash, DATA, seqno, TOPIC, "/other")), "MALFORMED"),
        ("no-topic", signed(data(1, PROVIDER.multihash) + data(2, DATA) + data(3, seqno)), "MALFORMED"),
        ("number-of-seven-bytes", signed(unsigned(seqno=seqno[1:])), "MALFORMED"),
        ("number-of-nine-bytes", signed(unsigned(seqno=b"\0" + seqno)), "MALFORMED"),
        ("no-number", signed(data(1, PROVIDER.multihash) + data(2, DATA) + data(4, TOPIC)), "MALFORMED"),
        ("too-long", signed(unsigned(body=bytes(16385))), "BOUND"),
        ("topic-too-long", signed(unsigned(PROVIDER.multihash, DATA, seqno, "x" * 257)), "BOUND"),
        ("no-protobuf", b"\xff", "MALFORMED"),
    ):
        found.add(f"verify-{name}", "3.3", "gossip.verify", {"message": frame}, error(code))


def _ids(found: Scenarios, identity: bytes) -> None:
    for name, raw, expect in (
        ("id", identity, identity),
        ("id-of-js", identity[2:], identity),
        ("id-too-short", identity[:-1], None),
        ("id-too-long", identity + b"\0", None),
        ("id-of-another-kind", b"\x12\x20" + bytes(44), None),
        ("id-empty", b"", None),
    ):
        found.add(name, "3.2", "gossip.known_id", {"id": raw}, expect)


def _rpcs(found: Scenarios, message: bytes) -> None:
    def good(name: str, frame: bytes, **fields: object) -> None:
        read: JSON = {"subscriptions": [], "messages": 0, "ihave": [], "iwant": [], "graft": [], "prune": [], **fields}
        found.add(name, "4", "gossip.rpc", {"frame": frame}, read)

    ids = [draw(f"message {i}", 46) for i in range(3)]

    def listed(field: int) -> bytes:
        return b"".join(data(field, raw) for raw in ids)

    good("rpc-empty", b"")
    subscribe = data(1, number(1, 1) + data(2, TOPIC)) + data(1, number(1, 0) + data(2, "/other"))
    good("rpc-subscriptions", subscribe, subscriptions=[[True, TOPIC], [False, "/other"]])
    good("rpc-two-messages", data(2, message) * 2, messages=2)
    good("rpc-ihave", data(3, data(1, data(1, TOPIC) + listed(2))), ihave=[[TOPIC, ids]])
    good("rpc-iwant", data(3, data(2, listed(1))), iwant=[ids])
    good("rpc-graft", data(3, data(3, data(1, TOPIC))), graft=[TOPIC])
    good("rpc-prune", data(3, data(4, data(1, TOPIC) + number(3, 60))), prune=[[TOPIC, 60]])
    good("rpc-most-grafts", data(3, data(3, data(1, "x")) * 512), graft=["x"] * 512)
    for name, frame, code in (
        ("no-protobuf", b"\xff\xff\xff", "MALFORMED"),
        ("cut-short", data(2, message)[:-1], "MALFORMED"),
        ("too-many-subscriptions", data(1, number(1, 1)) * 513, "BOUND"),
        ("too-many-messages", data(2, b"") * 4097, "BOUND"),
        ("too-many-grafts", data(3, data(3, b"") * 513), "BOUND"),
        ("too-many-prunes", data(3, data(4, b"") * 513), "BOUND"),
        ("too-many-ihaves", data(3, data(1, b"") * 513), "BOUND"),
        ("too-many-iwants", data(3, data(2, b"") * 513), "BOUND"),
    ):
        found.add(f"rpc-{name}", "4", "gossip.rpc", {"frame": frame}, error(code))
