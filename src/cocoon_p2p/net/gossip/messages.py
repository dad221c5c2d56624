"""Gossip messages: built and signed, checked, and found in the RPCs of /meshsub. StrictSign of the libp2p pubsub spec."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes, public_key_of
from cocoon_p2p.limits import (
    GOSSIP_CONTROL_ENTRIES_MAX,
    GOSSIP_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_MESSAGE_BYTES_MAX,
    GOSSIP_MESSAGES_PER_RPC_MAX,
    GOSSIP_TOPIC_CHARS_MAX,
)
from cocoon_p2p.net.multistream import encode_varint
from cocoon_p2p.net.pb.gossip_pb2 import RPC, Message
from cocoon_p2p.net.protobuf import parsed

MESHSUB = ("/meshsub/1.1.0", "/meshsub/1.0.0")
_SIGNING_PREFIX = b"libp2p-pubsub:"
_SEQUENCE_BYTES = 8
_PUBLISH_FIELD = b"\x12"  # field 2 of RPC, length-delimited
_PEER_ID_HEAD = bytes.fromhex("0024")  # multihash: identity, 36 bytes
_KEY_HEAD = bytes.fromhex("08011220")  # protobuf PublicKey: Ed25519, 32 bytes
_ID_BYTES = len(_PEER_ID_HEAD) + len(_KEY_HEAD) + 32 + _SEQUENCE_BYTES


@dataclass(frozen=True, slots=True)
class Gossiped:
    """A message whose signature was checked."""

    message_id: bytes
    author: PeerId
    topic: str
    data: bytes
    message: Message


def sign_message(key: Ed25519PrivateKey, author: PeerId, topic: str, data: bytes, sequence: int) -> Gossiped:
    # SPEC gossip/1 §3.1
    message = Message(
        from_id=peer_id_to_bytes(author), data=data, seqno=sequence.to_bytes(_SEQUENCE_BYTES), topicIDs=[topic]
    )
    message.signature = key.sign(_SIGNING_PREFIX + message.SerializeToString())
    return Gossiped(message_id(message), author, topic, data, message)


def message_id(message: Message) -> bytes:
    """Author and sequence number: the default of go-libp2p, rust-libp2p and py-libp2p."""
    # SPEC gossip/1 §3.2
    return bytes(message.from_id + message.seqno)


def known_id(raw: bytes) -> bytes | None:
    """An id out of a neighbour's IHAVE or IWANT as we write it; None for what cannot be one.

    js-libp2p's ids begin with the author's public key where all others' begin with its peer id, which is that key and two
    bytes before it.
    """
    # SPEC gossip/1 §3.2
    if len(raw) == _ID_BYTES and raw.startswith(_PEER_ID_HEAD + _KEY_HEAD):
        return raw
    if len(raw) == _ID_BYTES - len(_PEER_ID_HEAD) and raw.startswith(_KEY_HEAD):
        return _PEER_ID_HEAD + raw
    return None


def author_of(message: Message) -> PeerId:
    """Who a message says it is from, not checked. Raises RemoteProtocolError(code="SIGNATURE")."""
    try:
        return peer_id_from_bytes(message.from_id)
    except ValueError as error:
        raise RemoteProtocolError("gossip: the author is no Ed25519 peer", code="SIGNATURE") from error


def verify_message(message: Message) -> Gossiped:
    """Raises RemoteProtocolError(code=...): BOUND too long; MALFORMED not exactly one topic, or no sequence number;
    SIGNATURE not its author's.

    The key is read from the author's id; a `key` field is not looked at.
    """
    # SPEC gossip/1 §3.3
    if len(message.data) > GOSSIP_MESSAGE_BYTES_MAX:
        raise RemoteProtocolError("gossip: a message that is too long", code="BOUND")
    if len(message.topicIDs) != 1 or len(message.seqno) != _SEQUENCE_BYTES:
        raise RemoteProtocolError("gossip: a message has one topic and a number of 8 bytes", code="MALFORMED")
    if len(message.topicIDs[0]) > GOSSIP_TOPIC_CHARS_MAX:
        raise RemoteProtocolError("gossip: a topic that is too long", code="BOUND")
    author = author_of(message)
    signed = Message(from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs)
    body = _SIGNING_PREFIX + signed.SerializeToString()
    try:
        Ed25519PublicKey.from_public_bytes(public_key_of(author)).verify(message.signature, body)
    except (ValueError, InvalidSignature) as error:
        raise RemoteProtocolError("gossip: not signed by its author", code="SIGNATURE") from error
    return Gossiped(message_id(message), author, message.topicIDs[0], message.data, message)


def parse_rpc(raw: bytes) -> RPC:
    """Raises RemoteProtocolError: MALFORMED for what is no RPC, or names a mesh not in UTF-8; BOUND for lists that nobody needs so
    long."""
    rpc = parsed(RPC(), raw, "gossip")
    # SPEC gossip/1 §4
    control = rpc.control
    if max(len(rpc.subscriptions), len(control.graft), len(control.prune)) > GOSSIP_CONTROL_ENTRIES_MAX:
        raise RemoteProtocolError("gossip: too many subscriptions, grafts or prunes in one RPC", code="BOUND")
    if max(len(control.ihave), len(control.iwant)) > GOSSIP_CONTROL_ENTRIES_MAX:
        raise RemoteProtocolError("gossip: too many lists of ids in one RPC", code="BOUND")
    if len(rpc.publish) > GOSSIP_MESSAGES_PER_RPC_MAX:
        raise RemoteProtocolError(f"gossip: {len(rpc.publish)} messages in one RPC", code="BOUND")
    # What is not UTF-8 protobuf gives out as bytes, whatever its types say, and does not take back.
    meshes = [*(each.topicID for each in control.graft), *(each.topicID for each in control.prune)]
    if not all(isinstance(name, str) for name in meshes):
        raise RemoteProtocolError("gossip: a topic that is no text", code="MALFORMED")
    return rpc


def publish_entry(message: Message) -> bytes:
    """A message as a field of an RPC. Encoded once for all neighbours; several in a row are one RPC."""
    raw = message.SerializeToString()
    return _PUBLISH_FIELD + encode_varint(len(raw)) + raw


def ihave(topic: str, message_ids: list[bytes]) -> RPC:
    """The most recent of `message_ids` (oldest first), as many as a neighbour may ask for."""
    rpc = RPC()
    rpc.control.ihave.add(topicID=topic, messageIDs=message_ids[-GOSSIP_IDS_PER_HEARTBEAT_MAX:])
    return rpc


def subscriptions(topics: Iterable[str], *, subscribe: bool) -> RPC:
    return RPC(subscriptions=[RPC.SubOpts(subscribe=subscribe, topicid=topic) for topic in topics])


def graft(topic: str) -> RPC:
    rpc = RPC()
    rpc.control.graft.add(topicID=topic)
    return rpc


def prune(topic: str, backoff_s: float) -> RPC:
    rpc = RPC()
    rpc.control.prune.add(topicID=topic, backoff=int(backoff_s))
    return rpc
