"""Gossip on real sockets: forgeries, floods, and what reaches whom over several hops."""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from itertools import pairwise

import pytest
import trio
from gossip_attackers import accept, message_of, open_attacker, say
from net_nodes import open_node, polled

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import peer_id_to_bytes
from cocoon_p2p.limits import GOSSIP_HEARTBEAT_S, GOSSIP_MESSAGE_BYTES_MAX
from cocoon_p2p.net import multistream
from cocoon_p2p.net.gossip import gossip
from cocoon_p2p.net.gossip import neighbour as neighbour_module
from cocoon_p2p.net.gossip.mesh import GraftAnswer
from cocoon_p2p.net.gossip.messages import MESHSUB, author_of, parse_rpc, publish_entry, sign_message, verify_message
from cocoon_p2p.net.gossip.neighbour import Neighbour
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.testing.net_contract import TOPIC, full_addresses


async def meshed(network: Libp2pNetwork, count: int) -> None:
    """Wait until a network has so many neighbours in the topic's mesh."""
    await polled(lambda: len(network._gossip._topics[TOPIC].mesh.peers) >= count)


def test_the_heartbeat_is_the_specifications() -> None:
    assert GOSSIP_HEARTBEAT_S == 1.0


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
        mesh = one._gossip._topics[TOPIC].mesh
        monkeypatch.setattr(mesh, "take_graft", lambda *_, **__: GraftAnswer.FULL)
        mesh.prune(two.peer_id, trio.current_time())  # two is lazily told from now on
        missed = sign_message(one._gossip._key, one.peer_id, TOPIC, b"missed", 1)
        one._gossip._hand_on(missed.message_id, TOPIC, publish_entry(missed.message), set())
        assert await anext(heard) == (one.peer_id, b"missed")


async def test_forged_and_malformed_messages_are_refused() -> None:
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(2, server) as stream,
    ):
        unsigned = message_of(2)
        unsigned.publish[0].signature = b""
        two_topics = message_of(2)
        two_topics.publish[0].topicIDs.append("another")
        strange = message_of(2)
        strange.publish[0].from_id = b"\x12\x20" + bytes(32)
        altered = message_of(2)
        altered.publish[0].data = b"altered"
        too_long = message_of(2, bytes(GOSSIP_MESSAGE_BYTES_MAX + 1))
        forged = message_of(2, author=author_of(message_of(3).publish[0]))
        for rpc in (unsigned, two_topics, strange, altered, too_long, forged, message_of(2, b"honest")):
            await say(stream, rpc)
        assert (await anext(heard))[1] == b"honest"
        assert server.counters()["gossip_invalid"] == 6


@pytest.mark.parametrize("garbage", [b"\xff" * 20, encode_prefixed(b"\xff" * 50), b"\xff\xff\xff\xff\x0f" + b"x" * 50])
async def test_garbage_harms_one_stream(garbage: bytes) -> None:
    async with open_node(1) as server, server.subscribe(TOPIC, accept) as heard:
        async with open_attacker(2, server) as stream:
            await stream.write(garbage)
            await polled(lambda: server.counters()["gossip_rpc_invalid"] == 1)
        async with open_attacker(2, server) as stream:
            await say(stream, message_of(2))
            assert (await anext(heard))[1] == b"x"
            await stream.write(garbage)


async def test_a_burst_of_300_arrives_whole() -> None:
    """At each of three subscribers, in order, also over a hop; and nothing is dropped or waits long."""
    async with AsyncExitStack() as stack:
        # They stand in a row: with the DHT they would find other ways in a second or two, and the order end there.
        nodes = [await stack.enter_async_context(open_node(number, dht_server=False)) for number in range(1, 5)]
        heard = [await stack.enter_async_context(node.subscribe(TOPIC, accept)) for node in nodes]
        for one, two in pairwise(nodes):
            await two.connect(one.peer_id, one.addresses())
        for node, neighbours in zip(nodes, (1, 2, 2, 1), strict=True):
            await meshed(node, neighbours)
        texts = [b"%d %s" % (number, secrets.token_bytes(500)) for number in range(300)]
        for text in texts:
            await nodes[0].publish(TOPIC, text)
        for feed in heard[1:]:
            assert [(await anext(feed))[1] for _ in texts] == texts
        dropped = ("gossip_too_fast", "gossip_out_dropped", "gossip_feed_dropped", "gossip_throttled")
        assert not any(node.counters().get(name) for node in nodes for name in dropped)


async def test_a_slow_reader_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes nothing from its stream for a while; what the window does not hold waits in the sender's queue."""
    async with (
        open_node(1) as one,
        open_node(2) as two,
        one.subscribe(TOPIC, accept),
        two.subscribe(TOPIC, accept) as heard,
    ):
        await two.connect(one.peer_id, one.addresses())
        await meshed(one, 1)
        hindrance, take = trio.Event(), two._gossip._take

        async def hindered(neighbour: Neighbour, rpc: RPC) -> None:
            await hindrance.wait()
            await take(neighbour, rpc)

        monkeypatch.setattr(two._gossip, "_take", hindered)
        texts = [b"%d " % number + bytes(GOSSIP_MESSAGE_BYTES_MAX - 5) for number in range(300)]
        for text in texts:
            await one.publish(TOPIC, text)
        outbox = one._gossip._neighbours[two.peer_id].outbox
        await polled(lambda: 0 < len(outbox) < 300)
        hindrance.set()
        assert [(await anext(heard))[1] for _ in texts] == texts
        assert not one.counters().get("gossip_out_dropped")


async def test_publishing_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "GOSSIP_PUBLISH_BURST", 3)
    async with open_node(1) as one:
        begin = trio.current_time()
        for _ in range(4):
            await one.publish(TOPIC, b"x")
        assert trio.current_time() - begin > 0.09
        assert one.counters()["gossip_publish_waited"] == 1


async def test_a_message_is_taken_once() -> None:
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(2, server) as stream,
    ):
        for rpc in (message_of(2, b"one"), message_of(2, b"one"), message_of(2, b"two", sequence=2)):
            await say(stream, rpc)
        assert [(await anext(heard))[1] for _ in range(2)] == [b"one", b"two"]
        assert server.counters()["gossip_duplicate"] == 1


async def test_a_second_stream_takes_the_place_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_module, "GOSSIP_OVERLAP_S", 0.05)
    async with open_node(1) as server, server.subscribe(TOPIC, accept) as heard, open_attacker(2, server) as first:
        await say(first, message_of(2, b"one"))
        assert (await anext(heard))[1] == b"one"
        again = await first.connection.open_stream()
        await multistream.propose(again, *MESHSUB)
        await say(again, message_of(2, b"two", sequence=2))
        assert (await anext(heard))[1] == b"two"
        with pytest.raises(TransportError):
            while True:
                await first.read_exactly(1)


async def test_the_first_is_heard_out_and_a_third_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before the second stream was opened is not lost; three at once are not had."""
    async with open_node(1) as server, server.subscribe(TOPIC, accept) as heard, open_attacker(2, server) as first:
        hindrance, take = trio.Event(), server._gossip._take

        async def hindered(neighbour: Neighbour, rpc: RPC) -> None:
            await hindrance.wait()
            await take(neighbour, rpc)

        monkeypatch.setattr(server._gossip, "_take", hindered)
        for number in (1, 2):
            await say(first, message_of(2, b"%d" % number, sequence=number))
        second = await first.connection.open_stream()
        await multistream.propose(second, *MESHSUB)
        await say(second, message_of(2, b"3", sequence=3))
        await polled(lambda: _inbound(server) == 2)
        hindrance.set()
        assert sorted([(await anext(heard))[1] for _ in range(3)]) == [b"1", b"2", b"3"]
        third = await first.connection.open_stream()
        await multistream.propose(third, *MESHSUB)
        with trio.fail_after(1.0), pytest.raises(TransportError):
            while True:
                await first.read_exactly(1)
        assert _inbound(server) == 2


def _inbound(server: Libp2pNetwork) -> int:
    (neighbour,) = server._gossip._neighbours.values()
    return len(neighbour._inbound)


async def test_leaving_a_topic() -> None:
    async with open_node(1) as one, open_node(2, bootstrap=full_addresses(one)) as two, one.subscribe(TOPIC, accept):
        async with two.subscribe(TOPIC, accept):
            await meshed(one, 1)
        await polled(lambda: not one._gossip._topics[TOPIC].mesh.peers)
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
