"""Somebody who says to a node's gossip just what a test wants to be said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from net_nodes import open_node, seed_of

from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.net.gossip.messages import MESHSUB, sign_message
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import TOPIC


def accept(_: PeerId, __: bytes) -> bool:
    return True


def peer_of(number: int) -> PeerId:
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number))
    return peer_id_from_public_key(key.public_key().public_bytes_raw())


def message_of(
    number: int, data: bytes = b"x", *, author: PeerId | None = None, sequence: int = 1, topic: str = TOPIC
) -> RPC:
    """Signed by the `number`-th identity, whoever is said to be its author."""
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number))
    return RPC(publish=[sign_message(key, author or peer_of(number), topic, data, sequence).message])


@asynccontextmanager
async def open_attacker(number: int, victim: Libp2pNetwork) -> AsyncIterator[MuxStream]:
    """A gossip stream to the victim, over which nothing is said but what the test says."""
    async with open_node(number) as attacker:
        attacker._switch.on_link.remove(attacker._gossip._talk)
        await attacker.connect(victim.peer_id, victim.addresses())
        yield await attacker._streams.open_raw(victim.peer_id, *MESHSUB)


async def say(stream: MuxStream, *rpcs: RPC) -> None:
    for rpc in rpcs:
        await stream.write(encode_prefixed(rpc.SerializeToString()))
