"""The operations of kad/1 and gossip/1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import DecodeError

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import peer_id_from_bytes, peer_id_from_public_key, peer_id_to_bytes
from cocoon_p2p.limits import DHT_BUCKET_PEERS_MAX, DHT_PROVIDERS_MAX
from cocoon_p2p.net.dht.kademlia import Frontier, position_of
from cocoon_p2p.net.dht.messages import content_id_of, parse_message, provider_key, read_peers
from cocoon_p2p.net.dht.stores import RecordStore
from cocoon_p2p.net.gossip.messages import known_id, parse_rpc, sign_message, verify_message
from cocoon_p2p.net.pb.gossip_pb2 import Message
from cocoon_p2p.proto.market import validate_record

Given = dict[str, Any]
OWN = peer_id_from_public_key(bytes(32))


def kad_position(given: Given) -> Any:
    return position_of(bytes.fromhex(given["key"])).to_bytes(32).hex()


def kad_nearest(given: Given) -> Any:
    peers = [peer_id_from_bytes(bytes.fromhex(raw)) for raw in given["peers"]]
    frontier = Frontier(position_of(bytes.fromhex(given["key"])), OWN, peers)
    return [peer_id_to_bytes(peer).hex() for peer in frontier.nearest(given["count"])]


def kad_content_id(given: Given) -> Any:
    content_id = content_id_of(bytes.fromhex(given["key"]))
    assert provider_key(content_id).hex() == given["key"]
    return content_id.hex()


def kad_decode(given: Given) -> Any:
    frame = bytes.fromhex(given["frame"])
    message = parse_message(frame)
    record = {"key": message.record.key.hex(), "value": message.record.value.hex()}

    def peers(field: Any, most: int) -> Any:
        return [{"peer": peer, "addresses": list(map(str, there))} for peer, there in read_peers(field, most)]

    fields = {
        "type": message.type,
        "key": message.key.hex(),
        "record": record if message.HasField("record") else None,
        "closer": peers(message.closerPeers, DHT_BUCKET_PEERS_MAX),
        "providers": peers(message.providerPeers, DHT_PROVIDERS_MAX),
    }
    left_out = len(fields["closer"]) != len(message.closerPeers) or any(
        len(shown["addresses"]) != len(entry.addrs)
        for shown, entry in zip(fields["closer"], message.closerPeers, strict=False)
    )
    message.DiscardUnknownFields()
    return {"fields": fields, "exact": message.SerializeToString() == frame and not left_out}


def kad_closer(given: Given) -> Any:
    message = parse_message(bytes.fromhex(given["frame"]))
    return [peer_id_to_bytes(peer).hex() for peer, _ in read_peers(message.closerPeers, DHT_BUCKET_PEERS_MAX)]


def kad_keep(given: Given) -> Any:
    store = RecordStore({"cocoon-capacity": validate_record})
    outcomes = []
    for brought in given["records"]:
        now = float(brought["at_s"])
        outcomes.append(store.put(given["key"], bytes.fromhex(brought["value"]), now, OWN).value)
    held = store.get(given["key"], now)
    return {"outcomes": outcomes, "held": held.hex() if held is not None else None}


def gossip_sign(given: Given) -> Any:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(given["seed"]))
    author = peer_id_from_public_key(key.public_key().public_bytes_raw())
    signed = sign_message(key, author, given["topic"], bytes.fromhex(given["data"]), given["sequence"])
    return {"message": signed.message.SerializeToString().hex(), "id": signed.message_id.hex()}


def gossip_verify(given: Given) -> Any:
    message = Message()
    try:
        message.ParseFromString(bytes.fromhex(given["message"]))
    except DecodeError as error:
        raise RemoteProtocolError("no message", code="MALFORMED") from error
    gossiped = verify_message(message)
    return {
        "author": gossiped.author,
        "topic": gossiped.topic,
        "data": gossiped.data.hex(),
        "id": gossiped.message_id.hex(),
    }


def gossip_known_id(given: Given) -> Any:
    known = known_id(bytes.fromhex(given["id"]))
    return known.hex() if known is not None else None


def gossip_rpc(given: Given) -> Any:
    rpc = parse_rpc(bytes.fromhex(given["frame"]))
    return {
        "subscriptions": [[option.subscribe, option.topicid] for option in rpc.subscriptions],
        "messages": len(rpc.publish),
        "ihave": [[have.topicID, [raw.hex() for raw in have.messageIDs]] for have in rpc.control.ihave],
        "iwant": [[raw.hex() for raw in want.messageIDs] for want in rpc.control.iwant],
        "graft": [graft.topicID for graft in rpc.control.graft],
        "prune": [[prune.topicID, prune.backoff] for prune in rpc.control.prune],
    }


OPERATIONS: dict[str, Callable[[Given], Any]] = {
    "kad.position": kad_position,
    "kad.nearest": kad_nearest,
    "kad.content_id": kad_content_id,
    "kad.decode": kad_decode,
    "kad.closer": kad_closer,
    "kad.keep": kad_keep,
    "gossip.sign": gossip_sign,
    "gossip.verify": gossip_verify,
    "gossip.known_id": gossip_known_id,
    "gossip.rpc": gossip_rpc,
}
CANNOT_FAIL = {"kad.position", "kad.nearest", "gossip.sign", "gossip.known_id"}
