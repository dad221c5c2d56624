"""Gossip under attack, on real sockets: each attack is bounded, counted and reported, and an honest word gets through."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from gossip_attackers import accept, message_of, open_attacker, peer_of, say
from net_nodes import open_node, polled

from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    GOSSIP_CONTROL_ENTRIES_MAX,
    GOSSIP_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_MESSAGES_PER_PEER_BURST,
    GOSSIP_MESSAGES_PER_PEER_S,
    GOSSIP_RPC_BYTES_MAX,
    GOSSIP_TOPICS_PER_PEER_MAX,
)
from cocoon_p2p.net.gossip import gossip, neighbour
from cocoon_p2p.net.gossip.mesh import MESH_HIGH
from cocoon_p2p.net.gossip.messages import graft, ihave, parse_rpc, subscriptions, verify_message
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_varint
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.testing.net_contract import TOPIC

ATTACKER = 2


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Callable[[Libp2pNetwork], list[tuple[PeerId, str]]]:
    """What a node reports from now on, kept from having consequences: the attacks are to be seen whole."""

    def watched(network: Libp2pNetwork) -> list[tuple[PeerId, str]]:
        seen: list[tuple[PeerId, str]] = []
        monkeypatch.setattr(network._switch, "report", lambda peer, kind: seen.append((peer, kind)))
        return seen

    return watched


Watched = Callable[[Libp2pNetwork], list[tuple[PeerId, str]]]


def bundle(rpcs: list[RPC]) -> RPC:
    return RPC(publish=[message for rpc in rpcs for message in rpc.publish])


@pytest.mark.slow
async def test_10_000_messages_of_one_author(reports: Watched) -> None:
    """His burst is taken, and little of the rest is even looked at; others are heard meanwhile over their own links."""
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
        open_node(3) as honest,
    ):
        seen = reports(server)
        flood = [message_of(ATTACKER, b"flood", sequence=number) for number in range(10_000)]
        checked = []
        await honest.connect(server.peer_id, server.addresses())
        await polled(lambda: server.peer_id in honest._gossip._interested(TOPIC))
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(say, stream, *(bundle(flood[i : i + 100]) for i in range(0, 10_000, 100)))
            while len(checked) < GOSSIP_MESSAGES_PER_PEER_BURST:
                author, _ = await anext(heard)
                checked.append(author)
            await honest.publish(TOPIC, b"honest")
            while (await anext(heard))[1] != b"honest":
                checked.append(peer_of(ATTACKER))
            assert trio.current_time() - began < 2.0
            nursery.cancel_scope.cancel()
        most = GOSSIP_MESSAGES_PER_PEER_BURST + GOSSIP_MESSAGES_PER_PEER_S * (trio.current_time() - began) + 1
        assert set(checked) == {peer_of(ATTACKER)}
        assert len(checked) <= most
        assert server.counters()["gossip_too_fast"] > 0
        assert not [kind for _, kind in seen if kind != "flood"]


@pytest.mark.slow
async def test_who_sends_too_fast_waits_and_is_reported(reports: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replays: each is dropped unread, and still no more than so many a second come through."""
    monkeypatch.setattr(neighbour, "GOSSIP_MESSAGES_PER_LINK_BURST", 10)
    monkeypatch.setattr(neighbour, "GOSSIP_MESSAGES_PER_LINK_S", 100.0)
    # A small part of the 0.9 s that it is to wait: on a machine with other work it sends slower itself, and waits less for us.
    monkeypatch.setattr(neighbour, "GOSSIP_FLOOD_PATIENCE_S", 0.05)
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
    ):
        seen = reports(server)
        began = trio.current_time()
        replay = message_of(ATTACKER)
        await say(stream, *(bundle([replay] * 100) for _ in range(10)), message_of(ATTACKER, b"end", sequence=2))
        assert (await anext(heard))[1] == b"x"
        assert (await anext(heard))[1] == b"end"
        assert trio.current_time() - began > 0.85, "1,000 of them at a tenth each are 100, less the burst of 10"
        counters = server.counters()
        assert counters["gossip_duplicate"] == 999
        assert counters["gossip_throttled"] > 10
        assert set(seen) == {(peer_of(ATTACKER), "flood")}


async def test_forged_authors_cost_their_sender_alone(reports: Watched) -> None:
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
    ):
        seen = reports(server)
        forged = [message_of(ATTACKER, author=peer_of(3), sequence=number) for number in range(500)]
        await say(stream, bundle(forged), message_of(3, b"the real one", sequence=7))
        assert await anext(heard) == (peer_of(3), b"the real one")
        assert server.counters()["gossip_invalid"] == 500
        assert set(seen) == {(peer_of(ATTACKER), "bad_signature")}


async def test_a_giant_rpc_is_not_read(reports: Watched) -> None:
    async with open_node(1) as server, server.subscribe(TOPIC, accept), open_attacker(ATTACKER, server) as stream:
        seen = reports(server)
        await stream.write(encode_varint(GOSSIP_RPC_BYTES_MAX + 1) + bytes(1000))
        await polled(lambda: server.counters()["gossip_rpc_invalid"] == 1)
        assert seen == [(peer_of(ATTACKER), "malformed")]


async def test_many_topics(reports: Watched) -> None:
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
    ):
        for begin in range(0, 10_000, GOSSIP_CONTROL_ENTRIES_MAX):
            names = [f"/topic/{number}" for number in range(begin, min(10_000, begin + GOSSIP_CONTROL_ENTRIES_MAX))]
            await say(stream, subscriptions(names, subscribe=True))
        await say(stream, subscriptions(["x" * 1000], subscribe=True), message_of(ATTACKER))
        assert (await anext(heard))[1] == b"x"
        assert len(server._gossip._neighbours[peer_of(ATTACKER)].topics) == GOSSIP_TOPICS_PER_PEER_MAX
        assert server.counters()["gossip_topics_refused"] == 10_001 - GOSSIP_TOPICS_PER_PEER_MAX


async def test_messages_of_topics_that_nobody_follows_are_dropped_unread() -> None:
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
    ):
        unread = message_of(ATTACKER, topic="/another")
        unread.publish[0].signature = b""
        await say(stream, bundle([unread] * 1000), message_of(ATTACKER))
        assert (await anext(heard))[1] == b"x"
        assert server.counters()["gossip_unwanted"] == 1000
        assert "gossip_invalid" not in server.counters()


async def test_what_is_told_and_not_sent_is_a_broken_promise(reports: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour, "GOSSIP_PROMISE_S", 0.0)
    async with open_node(1) as server, server.subscribe(TOPIC, accept), open_attacker(ATTACKER, server) as stream:
        seen = reports(server)
        made_up = [peer_id_to_bytes(peer_of(3)) + number.to_bytes(8) for number in range(2000)]
        for begin in range(0, 2000, GOSSIP_IDS_PER_HEARTBEAT_MAX):
            await say(stream, ihave(TOPIC, made_up[begin : begin + GOSSIP_IDS_PER_HEARTBEAT_MAX]))
        await say(stream, ihave(TOPIC, [b"nonsense"] * 100))
        await polled(lambda: server.counters()["gossip_ids_ignored"] == 100)
        assert server.counters()["gossip_ids_unasked"] == 2000 - GOSSIP_IDS_PER_HEARTBEAT_MAX
        server._gossip._heartbeat()
        assert seen == [(peer_of(ATTACKER), "flood")]


async def test_a_promise_that_was_kept(reports: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the message is worth nothing, or comes from another neighbour."""
    monkeypatch.setattr(neighbour, "GOSSIP_PROMISE_S", 0.0)
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, lambda *_: False),
        open_attacker(ATTACKER, server) as stream,
        open_attacker(3, server) as other,
    ):
        seen = reports(server)
        rude, word = message_of(ATTACKER), message_of(ATTACKER, sequence=2)
        for rpc in (rude, word):
            await say(stream, ihave(TOPIC, [verify_message(rpc.publish[0]).message_id]))
        await say(stream, rude)
        await say(other, word)
        await polled(lambda: server.counters()["gossip_rejected"] == 2)
        server._gossip._heartbeat()
        assert seen == []


async def test_a_flood_of_grafts(reports: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mesh that is full: the neighbour is told to wait; what it sends after that costs it its standing."""
    async with open_node(1) as server, server.subscribe(TOPIC, accept), open_attacker(ATTACKER, server) as stream:
        seen = reports(server)
        mesh = server._gossip._topics[TOPIC].mesh
        mesh.peers = {peer_of(number) for number in range(10, 10 + MESH_HIGH)}
        await say(stream, *[graft(TOPIC)] * 5)
        await polled(lambda: server.counters()["gossip_graft_refused"] == 5)
        assert not seen
        began, until = mesh._backoff[peer_of(ATTACKER)]
        mesh._backoff[peer_of(ATTACKER)] = (began - 10, until - 10)  # ten seconds later
        await say(stream, *[graft(TOPIC)] * 5, graft("/unknown"))
        await polled(lambda: server.counters()["gossip_graft_too_soon"] == 5)
        assert seen == [(peer_of(ATTACKER), "flood")] * 5
        assert peer_of(ATTACKER) not in mesh.peers


async def test_a_flood_of_iwant_is_answered_a_few_times() -> None:
    async with open_node(1) as server, server.subscribe(TOPIC, accept), open_attacker(ATTACKER, server) as stream:
        await server.publish(TOPIC, b"wanted")
        (identity,) = server._gossip._memory.recent(TOPIC)
        want = RPC()
        want.control.iwant.add(messageIDs=[identity] * 500)
        await say(stream, want)
        await polled(lambda: server.counters()["gossip_iwant_refused"] == 497)


@pytest.mark.slow
async def test_a_subscriber_that_does_not_keep_up_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "GOSSIP_QUEUE_MAX", 10)
    async with (
        open_node(1) as server,
        server.subscribe(TOPIC, accept) as heard,
        open_attacker(ATTACKER, server) as stream,
    ):
        await say(stream, *(message_of(ATTACKER, b"%d" % number, sequence=number) for number in range(25)))
        await polled(lambda: server.counters()["gossip_feed_dropped"] == 15)
        assert (await anext(heard))[1] == b"15"


def test_an_empty_rpc_says_nothing() -> None:
    assert not parse_rpc(b"").ByteSize()
