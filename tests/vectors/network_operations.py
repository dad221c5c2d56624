"""The operations of identity §4: what peers tell each other of themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.addresses import address_from_bytes, address_to_bytes, parse_address
from cocoon_p2p.net.identify.messages import decode_description
from cocoon_p2p.net.identify.peer_record import PeerRecord, open_peer_record, seal_peer_record
from cocoon_p2p.net.reach.mdns import decode_txt, service_of

Given = dict[str, Any]


def address(given: Given) -> Any:
    raw = bytes.fromhex(given["bytes"])
    found = address_from_bytes(raw)
    if found is None:
        raise RemoteProtocolError("as the scenario says", code="MALFORMED")
    assert address_to_bytes(found) == raw
    assert parse_address(str(found)) == found
    return str(found)


def seal_record(given: Given) -> Any:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["seed"]))
    peer = peer_id_from_public_key(key.public_key().public_bytes_raw())
    addresses = tuple(map(parse_address, given["addresses"]))
    return seal_peer_record(PeerRecord(peer, given["sequence"], addresses), key.sign).hex()


def open_record(given: Given) -> Any:
    return _plain(open_peer_record(bytes.fromhex(given["record"]), PeerId(given["peer_id"])))


def describe(given: Given) -> Any:
    said = decode_description(bytes.fromhex(given["message"]), PeerId(given["peer_id"]))
    return {
        "agent": said.agent,
        "protocols": sorted(said.protocols),
        "addresses": list(map(str, said.addresses)),
        "observed": None if said.observed is None else str(said.observed),
        "record": None if said.record is None else _plain(said.record),
    }


def mdns_service(given: Given) -> Any:
    return service_of(None if given["network_key"] is None else bytes.fromhex(given["network_key"]))


def mdns_text(given: Given) -> Any:
    return {peer: list(map(str, found)) for peer, found in decode_txt(bytes.fromhex(given["text"])).items()}


def _plain(record: PeerRecord) -> Given:
    return {"sequence": record.sequence, "addresses": list(map(str, record.addresses))}


NETWORK_OPERATIONS: dict[str, Callable[[Given], Any]] = {
    "identity.address": address,
    "identity.seal_record": seal_record,
    "identity.open_record": open_record,
    "identity.describe": describe,
    "identity.mdns_service": mdns_service,
    "identity.mdns_text": mdns_text,
}
CANNOT_FAIL = {"identity.seal_record", "identity.mdns_service", "identity.mdns_text"}
