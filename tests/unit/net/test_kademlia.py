"""Kademlia's tables and stores, and gossip's memory, with a float for a clock."""

from __future__ import annotations

import hashlib

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import (
    DHT_BUCKET_PEERS_MAX,
    DHT_PROVIDER_LIFETIME_S,
    DHT_PROVIDERS_MAX,
    DHT_RECORD_LIFETIME_S,
    DHT_VALUE_BYTES_MAX,
    GOSSIP_SEEN_S,
)
from cocoon_p2p.net.dht import kademlia
from cocoon_p2p.net.dht.kademlia import (
    Frontier,
    ProviderStore,
    RecordStore,
    RoutingTable,
    position_of,
    position_of_peer,
)
from cocoon_p2p.net.gossip import memory as gossip_memory
from cocoon_p2p.net.gossip.memory import MessageMemory, RateLimiter
from cocoon_p2p.testing.net_contract import numbered

KEY = "/test-records/one"
PEERS = [peer_id_from_public_key(hashlib.sha256(b"peer %d" % i).digest()) for i in range(300)]
OWN = PEERS[0]


def nearest(target: int, peers: list[PeerId]) -> list[PeerId]:
    return sorted(peers, key=lambda peer: position_of_peer(peer) ^ target)


def test_the_table_keeps_the_near_and_its_oldest() -> None:
    table = RoutingTable(OWN)
    taken = [peer for peer in PEERS if table.add(peer)]
    assert OWN not in taken
    assert not table.add(taken[0])
    assert len(table) == len(taken) < 200  # half of the key space has room for k alone
    near = nearest(position_of_peer(OWN), PEERS[1:])[:5]
    assert set(near) <= set(taken)
    far = [peer for peer in PEERS if (position_of_peer(peer) ^ position_of_peer(OWN)) >> 255]
    assert [peer for peer in far if peer in taken] == far[:DHT_BUCKET_PEERS_MAX]
    table.remove(far[0])
    table.remove(far[0])
    assert table.add(far[DHT_BUCKET_PEERS_MAX])


def test_the_nearest_come_first() -> None:
    table = RoutingTable(OWN)
    for peer in PEERS[:15]:
        table.add(peer)
    target = position_of(b"key")
    assert table.nearest(target, 4) == nearest(target, PEERS[1:15])[:4]


def test_a_lookup_goes_nearer_and_ends() -> None:
    target = position_of(b"target")
    order = nearest(target, PEERS[1:])
    frontier = Frontier(target, OWN, [order[-1], OWN])
    asked = []
    while (peer := frontier.next()) is not None:
        asked.append(peer)
        place = order.index(peer)
        if place % 7 == 3:
            frontier.failed(peer)
            continue
        frontier.succeeded(peer)
        frontier.add([*order[max(0, place // 2) : place], OWN, peer])
    alive = [peer for peer in order if order.index(peer) % 7 != 3]
    assert frontier.nearest_answered() == alive[:DHT_BUCKET_PEERS_MAX]
    assert len(asked) == len(set(asked)) < len(order)


def test_records_higher_numbers_win() -> None:
    store = RecordStore({"test-records": numbered})
    assert store.put(KEY, b"2:b", 0.0)
    assert not store.put(KEY, b"1:a", 0.0)
    assert store.put(KEY, b"3:c", 0.0)
    assert store.get(KEY, 0.0) == b"3:c"
    assert store.better(KEY, b"5:x", b"5:y") == b"5:x"
    assert store.better(KEY, None, b"5:y") == b"5:y"


def test_publishing_again_renews() -> None:
    store = RecordStore({"test-records": numbered})
    store.put(KEY, b"1:a", 0.0)
    assert store.put(KEY, b"1:a", DHT_RECORD_LIFETIME_S - 1)
    assert store.get(KEY, DHT_RECORD_LIFETIME_S + 1) == b"1:a"
    assert store.get(KEY, 2 * DHT_RECORD_LIFETIME_S) is None
    assert store.put(KEY, b"0:older, but the other one expired", 2 * DHT_RECORD_LIFETIME_S)


@pytest.mark.parametrize(
    ("key", "value"),
    [("/unknown/x", b"1:a"), ("test-records/x", b"1:a"), ("/test-records", b"1:a"), ("", b"1:a"),
     (KEY, b"no number"), (KEY, b"1:" + bytes(DHT_VALUE_BYTES_MAX)), ("/test-records/é", b"1:a")],
)  # fmt: skip
def test_records_that_are_not_valid(key: str, value: bytes) -> None:
    store = RecordStore({"test-records": numbered})
    with pytest.raises(RemoteProtocolError):
        store.put(key, value, 0.0)
    assert store.get(key, 0.0) is None


def test_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kademlia, "DHT_RECORDS_MAX", 3)
    store = RecordStore({"test-records": numbered})
    for i in range(5):
        store.put(f"/test-records/{i}", b"1:a", 0.0)
    assert [store.get(f"/test-records/{i}", 0.0) is not None for i in range(5)] == [False, False, True, True, True]


def test_providers_expire() -> None:
    store = ProviderStore()
    store.add(b"c", PEERS[1], 0.0)
    store.add(b"c", PEERS[2], 10.0)
    store.add(b"c", PEERS[1], 5.0)
    assert store.get(b"c", 10.0) == [PEERS[1], PEERS[2]]
    assert store.get(b"c", DHT_PROVIDER_LIFETIME_S + 6.0) == [PEERS[2]]
    assert store.get(b"d", 0.0) == []


def test_providers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kademlia, "DHT_CONTENTS_MAX", 2)
    store = ProviderStore()
    for peer in PEERS:
        store.add(b"c", peer, 0.0)
    assert store.get(b"c", 0.0) == PEERS[::-1][:DHT_PROVIDERS_MAX]
    store.add(b"d", OWN, 0.0)
    store.add(b"e", OWN, 0.0)
    assert store.get(b"c", 0.0) == []


def test_messages_are_seen_for_a_while_and_kept_for_five_heartbeats() -> None:
    memory: MessageMemory[str] = MessageMemory()
    memory.first_time(b"1", 0.0)
    memory.remember(b"1", "topic", "text")
    assert memory.has(b"1")
    assert memory.recent("topic") == [b"1"]
    assert memory.recent("other") == []
    for _ in range(2):
        memory.turn(1.0)
    assert memory.recent("topic") == [b"1"]
    memory.turn(1.0)
    assert memory.recent("topic") == []
    assert memory.recall(b"1") == "text"
    memory.turn(1.0)
    memory.turn(1.0)
    assert memory.recall(b"1") is None
    assert memory.has(b"1")
    memory.turn(GOSSIP_SEEN_S + 1.0)
    assert not memory.has(b"1")


def test_what_was_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_memory, "GOSSIP_SEEN_MAX", 2)
    memory: MessageMemory[str] = MessageMemory()
    for i in range(3):
        memory.first_time(bytes([i]), 0.0)
    assert [memory.has(bytes([i])) for i in range(3)] == [False, True, True]


def test_the_rate_limit_lets_through_what_it_says() -> None:
    limiter = RateLimiter(10.0)
    assert sum(limiter.allows(OWN, 0.0) for _ in range(100)) == 20
    assert sum(limiter.allows(OWN, 1.0) for _ in range(100)) == 10
    assert limiter.allows(PEERS[1], 1.0)
    limiter.forget(OWN)
    assert limiter.allows(OWN, 1.0)
