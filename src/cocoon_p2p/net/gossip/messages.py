"""Gossip messages: built and signed, checked, and found in the RPCs of /meshsub. StrictSign of the libp2p pubsub spec."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from google.protobuf.message import DecodeError

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes, public_key_of
from cocoon_p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from cocoon_p2p.net.pb.gossip_pb2 import RPC, Message

MESHSUB = ("/meshsub/1.1.0", "/meshsub/1.0.0")
_SIGNING_PREFIX = b"libp2p-pubsub:"
_SEQUENCE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Gossiped:
    """A message whose signature was checked."""

    message_id: bytes
    author: PeerId
    topic: str
    data: bytes
    message: Message


def sign_message(key: Ed25519PrivateKey, author: PeerId, topic: str, data: bytes, sequence: int) -> Gossiped:
    message = Message(
        from_id=peer_id_to_bytes(author), data=data, seqno=sequence.to_bytes(_SEQUENCE_BYTES), topicIDs=[topic]
    )
    message.signature = key.sign(_SIGNING_PREFIX + message.SerializeToString())
    return Gossiped(message_id(message), author, topic, data, message)


def message_id(message: Message) -> bytes:
    """Author and sequence number: the default of every implementation."""
    return bytes(message.from_id + message.seqno)


def verify_message(message: Message) -> Gossiped:
    """Raises RemoteProtocolError(code=...) for one that is too big, has not exactly one topic, or is not its author's.

    The key is read from the author's id; a `key` field is not looked at.
    """
    if len(message.data) > GOSSIP_MESSAGE_BYTES_MAX or len(message.seqno) > _SEQUENCE_BYTES:
        raise RemoteProtocolError("gossip: a message that is too long", code="BOUND")
    if len(message.topicIDs) != 1:
        raise RemoteProtocolError("gossip: a message has one topic", code="MALFORMED")
    try:
        author = peer_id_from_bytes(message.from_id)
        signed = Message(from_id=message.from_id, data=message.data, seqno=message.seqno, topicIDs=message.topicIDs)
        body = _SIGNING_PREFIX + signed.SerializeToString()
        Ed25519PublicKey.from_public_bytes(public_key_of(author)).verify(message.signature, body)
    except (ValueError, InvalidSignature) as error:
        raise RemoteProtocolError("gossip: not signed by its author", code="SIGNATURE") from error
    return Gossiped(message_id(message), author, message.topicIDs[0], message.data, message)


def parse_rpc(raw: bytes) -> RPC:
    """Raises RemoteProtocolError."""
    rpc = RPC()
    try:
        rpc.ParseFromString(raw)
    except DecodeError as error:
        raise RemoteProtocolError("gossip: not a protobuf message", code="MALFORMED") from error
    return rpc
