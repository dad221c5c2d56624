"""Gossip's parts without IO: memory, pace, outbox, mesh, and what one neighbour may ask."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import trio

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key, peer_id_to_bytes
from cocoon_p2p.limits import (
    GOSSIP_ANSWERS_PER_ID_MAX,
    GOSSIP_CONTROL_ENTRIES_MAX,
    GOSSIP_IDS_PER_HEARTBEAT_MAX,
    GOSSIP_IHAVES_PER_HEARTBEAT_MAX,
    GOSSIP_MESSAGES_PER_PEER_BURST,
    GOSSIP_MESSAGES_PER_PEER_S,
    GOSSIP_MESSAGES_PER_RPC_MAX,
    GOSSIP_PROMISE_S,
    GOSSIP_PUBLISH_BURST,
    GOSSIP_PUBLISH_S,
    GOSSIP_SEEN_S,
)
from cocoon_p2p.net.gossip import memory as gossip_memory
from cocoon_p2p.net.gossip import outbox as gossip_outbox
from cocoon_p2p.net.gossip.memory import MessageMemory
from cocoon_p2p.net.gossip.mesh import (
    BACKOFF_S,
    MESH_BEST,
    MESH_HIGH,
    MESH_LOW,
    MESH_OUTBOUND,
    MESH_WANTED,
    GraftAnswer,
    Mesh,
)
from cocoon_p2p.net.gossip.messages import ihave, known_id, parse_rpc
from cocoon_p2p.net.gossip.neighbour import Neighbour
from cocoon_p2p.net.gossip.outbox import Outbox
from cocoon_p2p.net.pb.gossip_pb2 import RPC
from cocoon_p2p.net.rates import Pace

PEERS = [peer_id_from_public_key(hashlib.sha256(b"peer %d" % i).digest()) for i in range(40)]


def ids(count: int) -> list[bytes]:
    return [peer_id_to_bytes(PEERS[0]) + number.to_bytes(8) for number in range(count)]


def test_messages_are_seen_for_a_while_and_kept_for_five_heartbeats() -> None:
    memory = MessageMemory()
    memory.first_time(b"1", 0.0)
    memory.remember(b"1", "topic", b"text")
    assert memory.has(b"1")
    assert memory.recent("topic") == [b"1"]
    assert memory.recent("other") == []
    for _ in range(2):
        memory.turn(1.0)
    assert memory.recent("topic") == [b"1"]
    memory.turn(1.0)
    assert memory.recent("topic") == []
    assert memory.recall(b"1") == b"text"
    memory.turn(1.0)
    memory.turn(1.0)
    assert memory.recall(b"1") is None
    assert memory.has(b"1")
    memory.turn(GOSSIP_SEEN_S + 1.0)
    assert not memory.has(b"1")


def test_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_memory, "GOSSIP_SEEN_MAX", 2)
    memory = MessageMemory()
    for i in range(3):
        memory.first_time(bytes([i]), 0.0)
    assert [memory.has(bytes([i])) for i in range(3)] == [False, True, True]


def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_memory, "GOSSIP_KEPT_BYTES_MAX", 30)
    memory = MessageMemory()
    for i in range(20):
        memory.remember(bytes([i]), "topic", bytes(10))
        if i % 2:
            memory.turn(0.0)
        kept = [j for j in range(20) if memory.recall(bytes([j])) is not None]
        assert kept == list(range(max(0, i - 2), i + 1))
    for _ in range(5):
        memory.turn(0.0)
    assert memory._kept_bytes == 0


def test_pace() -> None:
    pace = Pace(10.0, 20.0, 0.0)
    for _ in range(20):
        assert pace.wait_s(0.0) == 0
        pace.spend(0.0)
    assert pace.wait_s(0.0) == pytest.approx(0.1)
    assert pace.wait_s(0.0, 100.0) == pytest.approx(2.0)
    pace.spend(0.0, 5.0)
    assert pace.wait_s(0.5) == pytest.approx(0.1)
    assert pace.available(100.0) == 20.0
    assert pace.available(50.0) == 20.0  # a clock that goes backwards


def test_what_a_node_may_publish_is_taken_by_others() -> None:
    assert GOSSIP_PUBLISH_S * 1.5 == GOSSIP_MESSAGES_PER_PEER_S
    assert GOSSIP_PUBLISH_BURST * 1.5 == GOSSIP_MESSAGES_PER_PEER_BURST


async def test_control_goes_first_and_messages_go_together(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox(Counter())
    outbox.send(b"one")
    outbox.send(b"two")
    outbox.say(ihave("topic", [b"id"]))
    assert await outbox.next() == ihave("topic", [b"id"]).SerializeToString()
    assert await outbox.next() == b"onetwo"


async def test_a_batch_is_bounded(autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_outbox, "GOSSIP_BATCH_BYTES", 10)
    outbox = Outbox(Counter())
    for entry in (b"x" * 50, b"aaaaa", b"bbbbb", b"c"):
        outbox.send(entry)
    assert [await outbox.next() for _ in range(3)] == [b"x" * 50, b"aaaaabbbbb", b"c"]


async def test_messages_leave_at_their_pace(autojump_clock: trio.testing.MockClock) -> None:
    outbox = Outbox(Counter())
    for _ in range(600):
        outbox.send(b"x")
    begin, sizes = trio.current_time(), []
    while len(outbox):
        sizes.append(len(await outbox.next()))
    assert sizes[0] == 100
    assert max(sizes[1:]) <= 11
    assert trio.current_time() - begin == pytest.approx(1.0, abs=0.05)


async def test_a_full_outbox_drops_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_outbox, "GOSSIP_OUT_QUEUE_MAX", 2)
    monkeypatch.setattr(gossip_outbox, "GOSSIP_OUT_CONTROL_MAX", 1)
    counters: Counter[str] = Counter()
    outbox = Outbox(counters)
    for entry in (b"1", b"2", b"3"):
        outbox.send(entry)
        outbox.say(ihave("topic", [entry]))
    assert await outbox.next() == ihave("topic", [b"3"]).SerializeToString()
    assert await outbox.next() == b"23"
    assert counters == {"gossip_out_dropped": 1, "gossip_out_control_dropped": 2}


async def test_an_outbox_wakes_its_sender() -> None:
    outbox = Outbox(Counter())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.next)
        await trio.testing.wait_all_tasks_blocked()
        outbox.send(b"x")


def test_a_mesh_is_filled_and_thinned() -> None:
    mesh = Mesh()
    assert len(mesh.missing(PEERS, lambda _: True, 0.0)) == MESH_WANTED
    mesh.peers = set(PEERS[:MESH_LOW])
    assert mesh.missing(PEERS, lambda peer: peer in PEERS[:2], 0.0) == []
    assert mesh.surplus(lambda _: False, lambda _: 0.0) == []
    mesh.peers = set(PEERS)
    news = {peer: float(number) for number, peer in enumerate(PEERS)}
    dialled = set(PEERS[5:7])
    gone = mesh.surplus(lambda peer: peer in dialled, news.__getitem__)
    left = mesh.peers - set(gone)
    assert len(left) == MESH_WANTED
    assert set(PEERS[-MESH_BEST:]) <= left
    assert dialled <= left


def test_some_of_the_mesh_we_dialled() -> None:
    """An attacker that dials us a hundred times has not all of our mesh."""
    mesh = Mesh()
    mesh.peers = set(PEERS[:MESH_HIGH])
    outbound = set(PEERS[-5:])
    fresh = mesh.missing(PEERS, outbound.__contains__, 0.0)
    assert len(fresh) == MESH_OUTBOUND
    assert set(fresh) <= outbound
    assert mesh.take_graft(PEERS[-1], 0.0, outbound=True) is GraftAnswer.TAKEN
    assert mesh.take_graft(PEERS[20], 0.0, outbound=False) is GraftAnswer.FULL
    assert mesh.take_graft(PEERS[0], 0.0, outbound=False) is GraftAnswer.TAKEN  # it is there already


def test_backoff() -> None:
    mesh = Mesh()
    mesh.peers.add(PEERS[1])
    mesh.prune(PEERS[1], 100.0)
    assert not mesh.peers
    assert mesh.take_graft(PEERS[1], 100.5, outbound=True) is GraftAnswer.FULL  # was on its way
    assert mesh.take_graft(PEERS[1], 130.0, outbound=True) is GraftAnswer.TOO_SOON
    assert mesh.waits(PEERS[1], 100.0 + BACKOFF_S)
    assert not mesh.missing([PEERS[1]], lambda _: True, 130.0)
    mesh.tidy(frozenset(PEERS), 100.0 + BACKOFF_S)
    assert mesh.waits(PEERS[1], 100.0 + BACKOFF_S)
    assert mesh.take_graft(PEERS[1], 100.0 + BACKOFF_S, outbound=True) is GraftAnswer.TAKEN
    mesh.prune(PEERS[2], 0.0, 1e12)
    assert not mesh.waits(PEERS[2], 3602.0)


def test_backoffs_are_bounded() -> None:
    mesh = Mesh()
    for number in range(2000):
        mesh.prune(PeerId(str(number)), 0.0, 60.0 + number)
    assert len(mesh._backoff) == 1024
    assert mesh.waits(PeerId("1999"), 1.0)
    assert not mesh.waits(PeerId("0"), 1.0)


async def test_what_a_neighbour_is_asked_and_told() -> None:
    counters: Counter[str] = Counter()
    neighbour = Neighbour(PEERS[1], counters)
    many = ids(GOSSIP_IDS_PER_HEARTBEAT_MAX + 100)
    assert neighbour.ask(many, 0.0) == many[:GOSSIP_IDS_PER_HEARTBEAT_MAX]
    assert neighbour.ask(many, 0.0) == []
    assert counters.pop("gossip_ids_unasked") == 100 + len(many)
    for _ in range(GOSSIP_ANSWERS_PER_ID_MAX):
        assert neighbour.answerable(many[:1]) == many[:1]
    assert neighbour.answerable(many[:1]) == []
    assert len(neighbour.answerable(many[1:])) == GOSSIP_IDS_PER_HEARTBEAT_MAX - GOSSIP_ANSWERS_PER_ID_MAX
    assert sum(neighbour.may_tell() for _ in range(1000)) == GOSSIP_IHAVES_PER_HEARTBEAT_MAX
    neighbour.beat()
    assert neighbour.may_tell()
    assert neighbour.answerable(many[:1]) == []  # still not: kept for five beats
    assert neighbour.ask(many[:2], 0.0) == many[:2]


async def test_promises() -> None:
    neighbour = Neighbour(PEERS[1], Counter())
    neighbour.ask(ids(1), 10.0)
    assert neighbour.broken_promises(10.0 + GOSSIP_PROMISE_S - 0.1) == []
    assert neighbour.broken_promises(10.0 + GOSSIP_PROMISE_S) == ids(1)
    assert neighbour.broken_promises(99.0) == []
    neighbour.ask(ids(1), 10.0)
    neighbour.kept(ids(1)[0])
    assert neighbour.broken_promises(99.0) == []


def test_ids_of_js_are_ours_without_two_bytes() -> None:
    (ours,) = ids(1)
    assert known_id(ours) == ours
    assert known_id(ours[2:]) == ours
    for strange in (b"", ours[1:], ours + b"x", bytes(46), bytes(44)):
        assert known_id(strange) is None


@pytest.mark.parametrize("field", ["subscriptions", "publish", "ihave", "iwant", "graft", "prune"])
def test_long_lists_are_refused(field: str) -> None:
    bound = GOSSIP_MESSAGES_PER_RPC_MAX if field == "publish" else GOSSIP_CONTROL_ENTRIES_MAX
    rpc = RPC()
    entries = getattr(rpc if field in ("subscriptions", "publish") else rpc.control, field)
    for _ in range(bound):
        entries.add()
    parse_rpc(rpc.SerializeToString())
    entries.add()
    with pytest.raises(RemoteProtocolError) as caught:
        parse_rpc(rpc.SerializeToString())
    assert caught.value.code == "BOUND"
