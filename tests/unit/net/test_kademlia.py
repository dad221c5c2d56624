"""Kademlia's tables, frontier and stores, with a float for a clock."""

from __future__ import annotations

import hashlib

import pytest

from cocoon_p2p.errors import RemoteProtocolError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import (
    DHT_BUCKET_PEERS_MAX,
    DHT_BUCKET_SUBNET_MAX,
    DHT_CANDIDATES_MAX,
    DHT_HEARSAY_FAILURES_MAX,
    DHT_PROVIDER_LIFETIME_S,
    DHT_PROVIDERS_MAX,
    DHT_PROVIDERS_PER_SUBNET_MAX,
    DHT_RECORD_LIFETIME_S,
    DHT_TABLE_SUBNET_MAX,
    DHT_VALUE_BYTES_MAX,
)
from cocoon_p2p.net.dht import stores
from cocoon_p2p.net.dht.kademlia import Frontier, position_of, position_of_peer
from cocoon_p2p.net.dht.messages import provider_key
from cocoon_p2p.net.dht.stores import ProviderStore, RecordStore, Stored
from cocoon_p2p.net.dht.table import Admission, RoutingTable
from cocoon_p2p.testing.net_contract import numbered

KEY = "/test-records/one"
PEERS = [peer_id_from_public_key(hashlib.sha256(b"peer %d" % i).digest()) for i in range(300)]
OWN = PEERS[0]


def nearest(target: int, peers: list[PeerId]) -> list[PeerId]:
    return sorted(peers, key=lambda peer: position_of_peer(peer) ^ target)


def test_the_table_keeps_the_near_and_its_oldest() -> None:
    table = RoutingTable(OWN)
    taken = [peer for peer in PEERS if table.add(peer, 0.0) is Admission.ADDED]
    assert OWN not in taken
    assert table.add(taken[0], 0.0) is Admission.KNOWN
    assert len(table) == len(taken) < 200  # half of the key space has room for k alone
    near = nearest(position_of_peer(OWN), PEERS[1:])[:5]
    assert set(near) <= set(taken)
    far = [peer for peer in PEERS if (position_of_peer(peer) ^ position_of_peer(OWN)) >> 255]
    assert [peer for peer in far if peer in taken] == far[:DHT_BUCKET_PEERS_MAX]
    table.remove(far[0])
    table.remove(far[0])
    assert table.add(far[DHT_BUCKET_PEERS_MAX], 0.0) is Admission.ADDED
    assert table.add(far[DHT_BUCKET_PEERS_MAX + 1], 0.0) is Admission.FULL


def far_peers() -> list[PeerId]:
    """Of the half of the key space that is not ours: all in one bucket."""
    return [peer for peer in PEERS if (position_of_peer(peer) ^ position_of_peer(OWN)) >> 255]


def test_the_oldest_of_a_bucket_is_the_one_heard_from_longest_ago() -> None:
    table, far = RoutingTable(OWN), far_peers()
    for number, peer in enumerate(far[:DHT_BUCKET_PEERS_MAX]):
        table.add(peer, float(number))
    assert table.oldest(far[-1]) == (far[0], 0.0)
    table.seen(far[0], 100.0)
    table.add(far[1], 101.0)
    assert table.oldest(far[-1]) == (far[2], 2.0)


def test_one_subnet_has_few_places() -> None:
    """Whoever rents a /24 does not surround us; who has no public address is not counted."""
    table = RoutingTable(OWN)
    near = [peer for peer in PEERS if peer not in far_peers()]
    took = [peer for peer in far_peers() + near if table.add(peer, 0.0, "192.0.2.0/24") is Admission.ADDED]
    assert len(took) == DHT_TABLE_SUBNET_MAX
    assert len([peer for peer in took if peer in far_peers()]) == DHT_BUCKET_SUBNET_MAX
    assert table.add(far_peers()[-1], 0.0, "192.0.2.0/24") is Admission.SUBNET_FULL
    assert table.add(far_peers()[-1], 0.0, "198.51.100.0/24") is Admission.ADDED
    assert table.add(far_peers()[-2], 0.0) is Admission.ADDED
    table.remove(took[0])
    assert table.add(took[0], 0.0, "192.0.2.0/24") is Admission.ADDED


def test_buckets_that_nobody_looked_into_are_found() -> None:
    table = RoutingTable(OWN)
    assert table.stale_prefix(0.0, 60.0, 12) is None
    far = far_peers()[0]
    table.add(far, 0.0)
    assert table.stale_prefix(0.0, 60.0, 12) == 0
    table.note_lookup(position_of_peer(far), 10.0)
    assert table.stale_prefix(60.0, 60.0, 12) is None
    assert table.stale_prefix(70.0, 60.0, 12) == 0
    near = nearest(position_of_peer(OWN), PEERS[1:])[0]
    table.add(near, 0.0)
    shared = table.shared_bits(position_of_peer(near))
    assert shared > 3
    assert table.stale_prefix(0.0, 60.0, 12) == shared
    assert table.stale_prefix(0.0, 60.0, 3) is None


def test_the_nearest_come_first() -> None:
    table = RoutingTable(OWN)
    for peer in PEERS[:15]:
        table.add(peer, 0.0)
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
    assert frontier.nearest() == alive[:DHT_BUCKET_PEERS_MAX]
    assert len(asked) == len(set(asked)) < len(order)


def test_who_names_peers_that_are_not_there_is_not_believed() -> None:
    """A liar makes up a thousand peers that are nearer than anybody."""
    target = position_of(b"target")
    order = nearest(target, PEERS[1:])
    made_up, liar, honest = order[:150], order[200], order[201:]
    frontier = Frontier(target, OWN, [liar, *honest[:10]])
    dialled = 0
    while (peer := frontier.next()) is not None:
        if peer in made_up:
            dialled += 1
            frontier.failed(peer)
            continue
        frontier.succeeded(peer)
        if peer == liar:
            frontier.add(made_up, teller=liar)
        else:
            frontier.add(honest, teller=peer)
    assert dialled == DHT_HEARSAY_FAILURES_MAX
    assert frontier.nearest() == [liar, *honest][:DHT_BUCKET_PEERS_MAX]


def test_a_teller_whose_peers_answer_is_believed_on() -> None:
    target = position_of(b"target")
    order = nearest(target, PEERS[1:])
    frontier = Frontier(target, OWN, order[-1:])
    frontier.add(order[:40], teller=order[-1])
    asked = []
    while (peer := frontier.next()) is not None:
        asked.append(peer)
        frontier.failed(peer) if len(asked) % 3 == 0 else frontier.succeeded(peer)
    assert len(frontier.nearest()) == DHT_BUCKET_PEERS_MAX


def test_candidates_are_bounded() -> None:
    """The nearest of them stay."""
    frontier = Frontier(0, OWN, PEERS[:200])
    frontier.add(PEERS[200:], teller=PEERS[1])
    assert frontier.considered() == {OWN, *nearest(0, PEERS[1:])[:DHT_CANDIDATES_MAX]}


def test_records_higher_numbers_win() -> None:
    store = RecordStore({"test-records": numbered})
    assert store.put(KEY, b"2:b", 0.0)
    assert store.put(KEY, b"1:a", 0.0) is Stored.STALE
    assert store.put(KEY, b"2:another", 0.0) is Stored.STALE
    assert store.put(KEY, b"3:c", 0.0)
    assert store.get(KEY, 0.0) == b"3:c"
    assert store.better(KEY, b"5:x", b"5:y") == b"5:x"
    assert store.better(KEY, None, b"5:y") == b"5:y"


def test_publishing_again_renews() -> None:
    store = RecordStore({"test-records": numbered})
    store.put(KEY, b"1:a", 0.0)
    assert store.put(KEY, b"1:a", DHT_RECORD_LIFETIME_S - 1) is Stored.RENEWED
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
    """The farthest goes; what is our own stays."""
    monkeypatch.setattr(stores, "DHT_RECORDS_MAX", 3)
    own = position_of_peer(OWN)
    store = RecordStore({"test-records": numbered}, own)
    keys = sorted((f"/test-records/{i}" for i in range(6)), key=lambda key: position_of(key.encode()) ^ own)
    assert store.put(keys[5], b"1:ours", 0.0)
    for key in (keys[4], keys[0], keys[2]):
        assert store.put(key, b"1:a", 0.0, PEERS[1])
    assert store.put(keys[1], b"1:a", 0.0, PEERS[1]) is Stored.NEW
    assert store.put(keys[3], b"1:a", 0.0, PEERS[1]) is Stored.NO_ROOM
    assert [store.get(key, 0.0) is not None for key in keys] == [True, True, True, False, False, True]
    store.expire(DHT_RECORD_LIFETIME_S)
    assert len(store) == len(store._by_distance) == len(store._of_writer) == 0


def test_one_peer_fills_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "DHT_RECORDS_PER_PEER_MAX", 2)
    monkeypatch.setattr(stores, "DHT_CONTENTS_PER_PEER_MAX", 2)
    records = RecordStore({"test-records": numbered})
    assert records.put("/test-records/honest", b"1:a", 0.0, PEERS[2])
    for i in range(5):
        assert records.put(f"/test-records/{i}", b"1:a", 0.0, PEERS[1])
    assert len(records) == 3
    assert records.get("/test-records/4", 0.0)
    assert records.get("/test-records/honest", 0.0)
    providers = ProviderStore()
    assert [providers.add(bytes([i]), PEERS[1], 0.0) for i in range(4)] == [True, True, False, False]
    assert providers.add(b"\0", PEERS[1], 1.0)  # said again
    assert providers.add(b"\3", PEERS[2], 0.0)
    providers.expire(DHT_PROVIDER_LIFETIME_S + 0.5)
    assert providers.get(b"\0", 900.5) == [PEERS[1]]
    assert providers.add(bytes([9]), PEERS[1], 900.5)


def test_one_subnet_provides_a_content_so_often() -> None:
    store = ProviderStore()
    took = [store.add(b"c", peer, 0.0, "192.0.2.0/24") for peer in PEERS[1:40]]
    assert sum(took) == DHT_PROVIDERS_PER_SUBNET_MAX
    assert store.add(b"c", PEERS[50], 0.0, "198.51.100.0/24")
    assert store.add(b"c", PEERS[51], 0.0)
    assert store.add(b"d", PEERS[39], 0.0, "192.0.2.0/24")


def test_providers_expire() -> None:
    store = ProviderStore()
    store.add(b"c", PEERS[1], 0.0)
    store.add(b"c", PEERS[2], 10.0)
    store.add(b"c", PEERS[1], 5.0)
    assert store.get(b"c", 10.0) == [PEERS[1], PEERS[2]]
    assert store.get(b"c", DHT_PROVIDER_LIFETIME_S + 6.0) == [PEERS[2]]
    assert store.get(b"d", 0.0) == []


def test_providers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "DHT_CONTENTS_MAX", 2)
    store = ProviderStore()
    near, middle, far = sorted((b"a", b"b", b"c"), key=lambda content: position_of(provider_key(content)))
    for peer in PEERS:
        store.add(far, peer, 0.0)
    assert store.get(far, 0.0) == PEERS[::-1][:DHT_PROVIDERS_MAX]
    assert store.add(middle, OWN, 0.0)
    assert store.add(near, OWN, 0.0)
    assert store.get(far, 0.0) == []
    assert not store.add(far, OWN, 0.0)
    store.expire(DHT_PROVIDER_LIFETIME_S)
    assert len(store) == len(store._by_distance) == len(store._contents_of) == 0
