"""Gossip on real sockets: forgeries, floods, and what reaches whom over several hops."""

from __future__ import annotations

from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from net_nodes import open_node, polled, seed_of

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key, peer_id_to_bytes
from cocoon_p2p.limits import GOSSIP_HEARTBEAT_S, GOSSIP_MESSAGE_BYTES_MAX, GOSSIP_OUT_QUEUE_MAX
from cocoon_p2p.net.gossip import gossip
from cocoon_p2p.net.gossip.messages import MESHSUB, parse_rpc, sign_message, verify_message
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.testing.net_contract import TOPIC, full_addresses


def accept(_: PeerId, __: bytes) -> bool:
    return True


async def meshed(network: Libp2pNetwork, count: int) -> None:
    """Wait until a network has so many neighbours in the topic's mesh."""
    await polled(lambda: len(network._gossip._topics[TOPIC].mesh) >= count)


def test_heartbeat_and_limits() -> None:
    assert GOSSIP_HEARTBEAT_S == 1.0
    assert GOSSIP_OUT_QUEUE_MAX >= 256


async def test_a_message_travels_over_hops() -> None:
    """A chain: each node is connected to the one before alone."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(number)) for number in range(1, 5)]
        heard = [await stack.enter_async_context(node.subscribe(TOPIC, accept)) for node in nodes]
        for one, two in pairwise(nodes):
            await two.connect(one.peer_id, one.addresses())
        for node, neighbours in zip(nodes, (1, 2, 2, 1), strict=True):
            await meshed(node, neighbours)
        await nodes[0].publish(TOPIC, b"pass it on")
        for feed in heard[1:]:
            assert await anext(feed) == (nodes[0].peer_id, b"pass it on")


async def test_a_rejected_message_is_not_passed_on() -> None:
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_node(number)) for number in range(1, 4)]
        rules = (accept, lambda _, data: data != b"rude", accept)
        heard = [await stack.enter_async_context(n.subscribe(TOPIC, r)) for n, r in zip(nodes, rules, strict=True)]
        await nodes[1].connect(nodes[0].peer_id, nodes[0].addresses())
        await nodes[1].connect(nodes[2].peer_id, nodes[2].addresses())
        await meshed(nodes[1], 2)
        await meshed(nodes[0], 1)
        await nodes[0].publish(TOPIC, b"rude")
        await nodes[0].publish(TOPIC, b"kind")
        assert (await anext(heard[2]))[1] == b"kind"
        assert nodes[1].counters()["gossip_rejected"] == 1


@pytest.mark.slow
async def test_what_was_missed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is not in the mesh's flow comes by IHAVE and IWANT at a heartbeat."""
    async with (
        open_node(1) as one,
        open_node(2) as two,
        one.subscribe(TOPIC, accept),
        two.subscribe(TOPIC, accept) as heard,
    ):
        await two.connect(one.peer_id, one.addresses())
        await meshed(one, 1)
        gossip = one._gossip
        monkeypatch.setattr(gossip, "_enter_mesh", lambda *_: False)
        gossip._topics[TOPIC].mesh.clear()  # two is lazily told from now on
        gossip._topics[TOPIC].backoff_until[two.peer_id] = float("inf")
        gossip._hand_on(sign_message(gossip._key, one.peer_id, TOPIC, b"missed", 1), [])
        assert await anext(heard) == (one.peer_id, b"missed")


def message_of(number: int, data: bytes = b"x", *, author: PeerId | None = None, sequence: int = 1) -> RPC:
    key = Ed25519PrivateKey.from_private_bytes(seed_of(number))
    own = peer_id_from_public_key(key.public_key().public_bytes_raw())
    return RPC(publish=[sign_message(key, author or own, TOPIC, data, sequence).message])


async def test_forged_and_malformed_messages_are_refused() -> None:
    async with (
        open_node(1) as server,
        open_node(2) as client,
        open_node(3) as victim,
        server.subscribe(TOPIC, accept) as heard,
    ):
        await client.connect(server.peer_id, server.addresses())
        unsigned = message_of(2)
        unsigned.publish[0].signature = b""
        two_topics = message_of(2)
        two_topics.publish[0].topicIDs.append("another")
        strange = message_of(2)
        strange.publish[0].from_id = b"\x12\x20" + bytes(32)
        altered = message_of(2)
        altered.publish[0].data = b"altered"
        too_long = message_of(2, bytes(GOSSIP_MESSAGE_BYTES_MAX + 1))
        forged = message_of(2, author=victim.peer_id)
        stream = await client._streams.open_raw(server.peer_id, *MESHSUB)
        for rpc in (unsigned, two_topics, strange, altered, too_long, forged, message_of(2, b"honest")):
            await stream.write(encode_prefixed(rpc.SerializeToString()))
        assert await anext(heard) == (client.peer_id, b"honest")
        assert server.counters()["gossip_invalid"] == 6


@pytest.mark.parametrize("garbage", [b"\xff" * 20, encode_prefixed(b"\xff" * 50), b"\xff\xff\xff\xff\x0f" + b"x" * 50])
async def test_garbage_harms_one_stream(garbage: bytes) -> None:
    async with open_node(1) as server, open_node(2) as client, server.subscribe(TOPIC, accept) as heard:
        await client.connect(server.peer_id, server.addresses())
        stream = await client._streams.open_raw(server.peer_id, *MESHSUB)
        await stream.write(garbage)
        again = await client._streams.open_raw(server.peer_id, *MESHSUB)
        await again.write(encode_prefixed(message_of(2).SerializeToString()))
        assert await anext(heard) == (client.peer_id, b"x")
        await again.write(garbage)


async def test_a_flood_of_gossip_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_node(1) as server, open_node(2) as client, server.subscribe(TOPIC, accept) as heard:
        await client.connect(server.peer_id, server.addresses())
        stream = await client._streams.open_raw(server.peer_id, *MESHSUB)
        for sequence in range(1, 101):
            await stream.write(encode_prefixed(message_of(2, b"%d" % sequence, sequence=sequence).SerializeToString()))
        await stream.write(encode_prefixed(message_of(3, b"somebody else", sequence=1).SerializeToString()))
        texts = []
        while (text := (await anext(heard))[1]) != b"somebody else":
            texts.append(text)
        assert 20 <= len(texts) <= 40  # two seconds' worth, and what a slow machine takes meanwhile
        assert server.counters()["gossip_too_fast"] == 100 - len(texts)


async def test_a_message_is_taken_once() -> None:
    async with open_node(1) as server, open_node(2) as client, server.subscribe(TOPIC, accept) as heard:
        await client.connect(server.peer_id, server.addresses())
        stream = await client._streams.open_raw(server.peer_id, *MESHSUB)
        for rpc in (message_of(2, b"one"), message_of(2, b"one"), message_of(2, b"two", sequence=2)):
            await stream.write(encode_prefixed(rpc.SerializeToString()))
        assert [(await anext(heard))[1] for _ in range(2)] == [b"one", b"two"]


async def test_leaving_a_topic() -> None:
    async with open_node(1) as one, open_node(2, bootstrap=full_addresses(one)) as two, one.subscribe(TOPIC, accept):
        async with two.subscribe(TOPIC, accept):
            await meshed(one, 1)
        await polled(lambda: not one._gossip._topics[TOPIC].mesh)
        assert one._gossip._interested(TOPIC) == set()


def test_parse_rpc_refuses_garbage() -> None:
    with pytest.raises(RemoteProtocolError):
        parse_rpc(b"\xff\xff\xff")


def test_the_signature_covers_author_topic_data_and_number() -> None:
    for field, value in (("data", b"other"), ("seqno", bytes(8)), ("from_id", None), ("topicIDs", None)):
        message = message_of(1).publish[0]
        verify_message(message)
        if field == "topicIDs":
            message.topicIDs[0] = "other"
        elif field == "from_id":
            message.from_id = peer_id_to_bytes(verify_message(message_of(2).publish[0]).author)
        else:
            setattr(message, field, value)
        with pytest.raises(RemoteProtocolError):
            verify_message(message)


def test_a_mesh_is_bounded() -> None:
    assert gossip._MESH_LOW < gossip._MESH_WANTED < gossip._MESH_HIGH
