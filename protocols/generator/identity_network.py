"""Scenarios of identity §4: what peers tell each other of themselves. Protobuf and multiaddrs are written by hand here."""

from __future__ import annotations

import ipaddress
from hashlib import sha256

from generator.kit import CLIENT, PROVIDER, STRANGER, Party, Scenarios, base58, draw, error

TYPE = b"\x03\x01"


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: bytes) -> bytes:
    """A protobuf field of bytes."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def ip4(host: str, port: int) -> bytes:
    return b"\x04" + ipaddress.IPv4Address(host).packed + b"\x06" + port.to_bytes(2, "big")


def ip6(host: str, port: int) -> bytes:
    return b"\x29" + ipaddress.IPv6Address(host).packed + b"\x06" + port.to_bytes(2, "big")


def dns(code: int, host: str, port: int) -> bytes:
    return bytes([code, len(host)]) + host.encode() + b"\x06" + port.to_bytes(2, "big")


def p2p(party: Party) -> bytes:
    return b"\xa5\x03\x26" + party.multihash


WS, CIRCUIT = b"\xdd\x03", b"\xa2\x02"
ADDRESSES = {
    "ip4": (ip4("192.0.2.1", 4001), "/ip4/192.0.2.1/tcp/4001"),
    "ip6": (ip6("2001:db8::1", 4001), "/ip6/2001:db8::1/tcp/4001"),
    "dns4": (dns(54, "node.example", 443), "/dns4/node.example/tcp/443"),
    "websocket": (ip4("192.0.2.1", 4002) + WS, "/ip4/192.0.2.1/tcp/4002/ws"),
    "relayed": (
        ip4("192.0.2.9", 4001) + p2p(PROVIDER) + CIRCUIT,
        f"/ip4/192.0.2.9/tcp/4001/p2p/{PROVIDER.peer_id}/p2p-circuit",
    ),
    "relayed-over-websocket": (
        dns(53, "relay.example", 443) + WS + p2p(PROVIDER) + CIRCUIT,
        f"/dns/relay.example/tcp/443/ws/p2p/{PROVIDER.peer_id}/p2p-circuit",
    ),
}
NOT_DIALLED = {
    "empty": b"",
    "cut-short": ip4("192.0.2.1", 4001)[:-1],
    "udp": b"\x04\xc0\x00\x02\x01\x91\x02\x0f\xa1",
    "quic": b"\x04\xc0\x00\x02\x01\x91\x02\x0f\xa1\xcd\x03",
    "name-with-a-slash": dns(54, "a/b", 1),
    "relay-of-another-key-type": ip4("192.0.2.1", 4001) + b"\xa5\x03\x22\x12\x20" + draw("rsa key's hash") + CIRCUIT,
}


def key_message(party: Party) -> bytes:
    return bytes.fromhex("08011220") + party.public_key


def payload_of(party: Party, sequence: int, addresses: list[bytes]) -> bytes:
    infos = b"".join(field(3, field(1, address)) for address in addresses)
    return field(1, party.multihash) + b"\x10" + varint(sequence) + infos


def envelope(
    signer: Party,
    payload: bytes,
    *,
    key: bytes | None = None,
    kind: bytes = TYPE,
    domain: bytes = b"libp2p-peer-record",
) -> bytes:
    signed = b"".join(varint(len(part)) + part for part in (domain, kind, payload))
    return (
        field(1, key_message(signer) if key is None else key)
        + field(2, kind)
        + field(3, payload)
        + field(5, signer.sign_raw(signed))
    )


def add_addresses(found: Scenarios) -> None:
    for name, (raw, text) in ADDRESSES.items():
        found.add(f"address-{name}", "4.1", "identity.address", {"bytes": raw}, text)
    for name, raw in NOT_DIALLED.items():
        found.add(f"address-not-dialled-{name}", "4.1", "identity.address", {"bytes": raw}, error("MALFORMED"))


def add_records(found: Scenarios) -> None:
    raw = [ADDRESSES[name][0] for name in ("ip4", "websocket", "relayed")]
    texts = [ADDRESSES[name][1] for name in ("ip4", "websocket", "relayed")]
    sequence = 1_760_000_000_000_000_000
    payload = payload_of(PROVIDER, sequence, raw)
    sealed = envelope(PROVIDER, payload)
    given = {"seed": PROVIDER.seed, "sequence": sequence, "addresses": texts}
    found.add("record-seal", "4.3", "identity.seal_record", given, sealed)

    def opened(name: str, record: bytes, expect: object) -> None:
        found.add(name, "4.3", "identity.open_record", {"peer_id": PROVIDER.peer_id, "record": record}, expect)

    opened("record-open", sealed, {"sequence": sequence, "addresses": texts})
    with_quic = envelope(PROVIDER, payload_of(PROVIDER, 1, [NOT_DIALLED["quic"], raw[0]]))
    opened("record-with-an-address-that-is-not-dialled", with_quic, {"sequence": 1, "addresses": texts[:1]})
    signature_faults = {
        "of-another-peer": envelope(STRANGER, payload_of(STRANGER, 1, raw)),
        "about-another-peer": envelope(PROVIDER, payload_of(CLIENT, 1, raw)),
        "signed-by-another-peer": envelope(STRANGER, payload),
        "with-anothers-key": envelope(STRANGER, payload, key=key_message(PROVIDER)),
        "in-another-domain": envelope(PROVIDER, payload, domain=b"libp2p-relay-rsvp"),
    }
    for name, record in signature_faults.items():
        opened(f"record-{name}", record, error("SIGNATURE"))
    opened("record-of-another-type", envelope(PROVIDER, payload, kind=b"\x03\x02"), error("MALFORMED"))
    opened("record-without-a-peer", envelope(PROVIDER, b"\x10\x01"), error("MALFORMED"))
    opened("record-garbage", b"\xff\xff", error("MALFORMED"))
    opened("record-too-long", sealed + field(15, bytes(4096)), error("BOUND"))


def add_identify(found: Scenarios) -> None:
    record = envelope(PROVIDER, payload_of(PROVIDER, 7, [ADDRESSES["ip4"][0]]))
    message = (
        field(1, key_message(PROVIDER))
        + field(2, ADDRESSES["ip6"][0])
        + field(2, NOT_DIALLED["quic"])
        + field(3, b"/ipfs/ping/1.0.0")
        + field(3, b"\xff\xfe")
        + field(4, ADDRESSES["ip4"][0])
        + field(5, b"ipfs/0.1.0")
        + field(6, b"cocoon/1")
        + field(8, record)
    )
    nothing = {"agent": None, "protocols": [], "addresses": [], "observed": None, "record": None}
    whole = {
        "agent": "cocoon/1",
        "protocols": ["/ipfs/ping/1.0.0"],
        "addresses": [ADDRESSES["ip6"][1]],
        "observed": ADDRESSES["ip4"][1],
        "record": {"sequence": 7, "addresses": [ADDRESSES["ip4"][1]]},
    }
    cases: dict[str, tuple[bytes, object]] = {
        "whole": (message, whole),
        "of-nothing": (b"", nothing),
        "of-protocols-alone": (field(3, b"/a/1"), {**nothing, "protocols": ["/a/1"]}),
        "anothers-key": (field(1, key_message(STRANGER)), error("SIGNATURE")),
        "anothers-record": (field(8, envelope(STRANGER, payload_of(STRANGER, 7, []))), error("SIGNATURE")),
        "too-many-protocols": (b"".join(field(3, b"/p/%d" % number) for number in range(129)), error("BOUND")),
        "garbage": (b"\x0a\xff", error("MALFORMED")),
    }
    for name, (raw, expect) in cases.items():
        given = {"peer_id": PROVIDER.peer_id, "message": raw}
        found.add(f"identify-{name}", "4.2", "identity.describe", given, expect)


def add_mdns(found: Scenarios) -> None:
    key = draw("network key")
    label = "_p2p-" + sha256(b"cocoon-p2p/mdns/1\0" + key).hexdigest()[:10]
    found.add("mdns-service", "4.4", "identity.mdns_service", {"network_key": None}, "_p2p._udp.local.")
    found.add("mdns-service-private", "4.4", "identity.mdns_service", {"network_key": key}, f"{label}._udp.local.")
    strings = {
        "/ip4/192.168.1.5/tcp/4001": PROVIDER,
        "/ip4/10.0.0.7/tcp/4002/ws": PROVIDER,
        "/ip4/169.254.3.4/tcp/4001": CLIENT,
    }
    texts = [f"dnsaddr={address}/p2p/{party.peer_id}".encode() for address, party in strings.items()]
    left_out = [
        f"dnsaddr=/ip4/9.9.9.9/tcp/4001/p2p/{PROVIDER.peer_id}".encode(),
        f"dnsaddr=/dns4/node.example/tcp/4001/p2p/{PROVIDER.peer_id}".encode(),
        b"dnsaddr=/ip4/192.168.1.6/tcp/4001",
        b"dnsaddr=/ip4/192.168.1.6/udp/4001/quic-v1/p2p/" + PROVIDER.peer_id.encode(),
        b"dnsaddr=/ip4/192.168.1.6/tcp/4001/p2p/" + base58(b"\x12\x20" + draw("rsa")).encode(),
        b"another=thing",
    ]
    expect = {
        PROVIDER.peer_id: ["/ip4/192.168.1.5/tcp/4001", "/ip4/10.0.0.7/tcp/4002/ws"],
        CLIENT.peer_id: ["/ip4/169.254.3.4/tcp/4001"],
    }
    raw = b"".join(bytes([len(text)]) + text for text in [*left_out, *texts])
    found.add("mdns-text", "4.4", "identity.mdns_text", {"text": raw}, expect)


def add_all(found: Scenarios) -> None:
    for add in (add_addresses, add_records, add_identify, add_mdns):
        add(found)
