"""The DHT under attack, on real sockets: floods, forgeries, replays, and peers that lie about other peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio
from net_nodes import open_node, polled, seed_of

from cocoon_p2p.errors import CocoonError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.limits import (
    DHT_CONTENTS_PER_PEER_MAX,
    DHT_HEARSAY_FAILURES_MAX,
    DHT_RECORDS_PER_PEER_MAX,
)
from cocoon_p2p.net.addresses import address_to_bytes, parse_address
from cocoon_p2p.net.dht import dht, server, table
from cocoon_p2p.net.dht.kademlia import position_of, position_of_peer
from cocoon_p2p.net.dht.lookup import tellable
from cocoon_p2p.net.dht.messages import KAD, provider_key, read_message, send_message
from cocoon_p2p.net.dht.table import Admission
from cocoon_p2p.net.libp2p import Libp2pNetwork, open_libp2p
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.proto.market import Announcer, MarketBook, validate_record
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.testing.net_contract import CONTENT, KEY, full_addresses
from cocoon_p2p.wire.capacity import CAPACITY_DOMAIN, SignedAnnouncement, capacity_key

NOW = 1_760_000_000.0
Watched = Callable[[Libp2pNetwork], list[tuple[PeerId, str]]]


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """What a node reports from now on, kept from having consequences: the attacks are to be seen whole."""

    def watched(network: Libp2pNetwork) -> list[tuple[PeerId, str]]:
        seen: list[tuple[PeerId, str]] = []
        monkeypatch.setattr(network._switch, "report", lambda peer, kind: seen.append((peer, kind)))
        return seen

    return watched


async def acquainted(network: Libp2pNetwork, other: Libp2pNetwork) -> None:
    """Connected, and in the routing table."""
    await network.connect(other.peer_id, other.addresses())
    await polled(lambda: other.peer_id in network._dht._table)


def put_request(key: str, value: bytes) -> Message:
    message = Message(type=Message.PUT_VALUE, key=key.encode())
    message.record.key, message.record.value = key.encode(), value
    return message


# --- forged, replayed, from another time -----------------------------------------------------------------------------


def announcement_of(number: int, now: float, sequence: int = 0) -> SignedAnnouncement:
    announcer = Announcer(IdentityKey.from_seed(seed_of(number)), agent="t", settlement_network=0, sequence=sequence)
    (published,) = [announcer._publish(now)]
    return published.signed


@asynccontextmanager
async def market_pair() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    """Two nodes that vouch for capacity records as ours do: a keeper, and somebody who brings it records."""
    validators = {"cocoon-capacity": validate_record}
    listen = ["/ip4/127.0.0.1/tcp/0"]
    with trio.fail_after(20):
        async with (
            open_libp2p(seed_of(1), listen=listen, agent="t", validators=validators) as keeper,
            open_libp2p(seed_of(2), listen=listen, agent="t", validators=validators) as bringer,
        ):
            await acquainted(bringer, keeper)
            yield keeper, bringer


async def test_a_record_signed_by_another_peer(reports: Watched) -> None:
    """Refused, and whoever brought it loses standing; the one in whose name it was does not."""
    async with market_pair() as (keeper, bringer):
        seen = reports(keeper)
        body = announcement_of(3, NOW).body
        forged = SignedAnnouncement(body, IdentityKey.from_seed(seed_of(2)).sign(CAPACITY_DOMAIN, body))
        key = capacity_key(forged.announcement.peer_id)
        with pytest.raises(CocoonError):
            await bringer._dht._rpc.ask(keeper.peer_id, put_request(key, forged.encode()))
        assert seen == [(bringer.peer_id, "forged_record")]
        assert keeper._dht._server.records.get(key, trio.current_time()) is None


async def test_a_record_under_another_key(reports: Watched) -> None:
    async with market_pair() as (keeper, bringer):
        seen = reports(keeper)
        own = announcement_of(2, NOW)
        with pytest.raises(CocoonError):
            await bringer._dht._rpc.ask(keeper.peer_id, put_request(capacity_key(keeper.peer_id), own.encode()))
        assert [peer for peer, _ in seen] == [bringer.peer_id]
        assert len(keeper._dht._server.records) == 0


async def test_a_replayed_record(reports: Watched) -> None:
    """An old one of a third peer: not taken, and the answer shows the newer one. That is no fault: copies travel."""
    async with market_pair() as (keeper, bringer):
        seen = reports(keeper)
        old, new = announcement_of(3, NOW), announcement_of(3, NOW + 10)
        key = capacity_key(old.announcement.peer_id)
        for record in (new, old):
            answer = await bringer._dht._rpc.ask(keeper.peer_id, put_request(key, record.encode()))
            assert answer.record.value == new.encode()
        assert keeper.counters()["dht_record_stale"] == 1
        assert not seen


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_record_from_another_time(reports: Watched, hours: int) -> None:
    """Of a peer whose clock is an hour wrong: kept, since the keeper's clock may be the wrong one; not believed by who reads
    it; and nobody is to blame."""
    async with market_pair() as (keeper, bringer):
        seen = reports(keeper), reports(bringer)
        record = announcement_of(2, NOW + hours * 3600)
        key = capacity_key(bringer.peer_id)
        await bringer.dht_put(key, record.encode())
        found = await keeper.dht_get(key)
        assert found == record.encode()
        with pytest.raises(RemoteProtocolError) as caught:
            MarketBook(keeper.peer_id).handle_announcement(found, now=NOW)
        assert caught.value.code == "EXPIRED"
        assert seen == ([], [])


# --- floods ----------------------------------------------------------------------------------------------------------


async def test_a_flood_of_records(reports: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than its share of the store, and faster than its share of the time."""
    burst, rate, parts = 100, 250.0, 5
    monkeypatch.setattr(server, "DHT_REQUESTS_PER_PEER_BURST", burst)
    monkeypatch.setattr(server, "DHT_REQUESTS_PER_PEER_S", rate)
    monkeypatch.setattr(server, "DHT_FLOOD_PATIENCE_S", 0.1)
    async with open_node(1) as keeper, open_node(2) as attacker, open_node(3) as honest:
        seen = reports(keeper)
        for node in (attacker, honest):
            await acquainted(node, keeper)
        await honest.dht_put(KEY, b"1:honest")
        began, sent = trio.current_time(), 0
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                nonlocal sent
                while keeper.counters()["dht_throttled"] <= 100 or sent <= DHT_RECORDS_PER_PEER_MAX:
                    sent += 1
                    request = put_request(f"/test-records/{sent}", b"1:x")
                    await attacker._dht._rpc.ask(keeper.peer_id, request)

            for _ in range(parts):
                nursery.start_soon(flood)
        assert sent <= burst + rate * (trio.current_time() - began) + parts
        assert len(keeper._dht._server.records) == DHT_RECORDS_PER_PEER_MAX + 1
        assert await attacker.dht_get(KEY) == b"1:honest"
        assert set(seen) == {(attacker.peer_id, "flood")}


async def test_a_flood_of_providers() -> None:
    async with open_node(1) as keeper, open_node(2) as attacker, open_node(3, dht_server=False) as honest:
        for node in (attacker, honest):
            await acquainted(node, keeper)
        await honest.provide(CONTENT)
        stream = await attacker._streams.open_raw(keeper.peer_id, KAD)
        for number in range(DHT_CONTENTS_PER_PEER_MAX + 50):
            message = Message(type=Message.ADD_PROVIDER, key=provider_key(number.to_bytes(32)))
            message.providerPeers.add(id=peer_id_to_bytes(attacker.peer_id))
            await send_message(stream, message)
        await polled(lambda: keeper.counters()["dht_provider_no_room"] == 50)
        (found,) = await attacker.find_providers(CONTENT, 5)
        assert found.peer == honest.peer_id


# --- lies about others -----------------------------------------------------------------------------------------------


def liar_about(target: int, own: PeerId, closed_port: int) -> Callable[[MuxStream], object]:
    """Names, in answer to everything, the asker itself and a thousand made-up peers, nearer to the target than anybody."""
    made_up = sorted((b"\x00\x24\x08\x01\x12\x20" + number.to_bytes(32) for number in range(1000)),
                     key=lambda raw: position_of(raw) ^ target)  # fmt: skip
    address = address_to_bytes(parse_address(f"/ip4/127.0.0.1/tcp/{closed_port}"))

    async def lie(stream: MuxStream) -> None:
        while True:
            request = await read_message(stream)
            answer = Message(type=request.type, key=request.key)
            answer.closerPeers.add(id=peer_id_to_bytes(own), addrs=[address])
            for raw in made_up[:300]:
                answer.closerPeers.add(id=raw, addrs=[address] * 20)
            await send_message(stream, answer)

    return lie


async def test_a_peer_that_makes_up_others(monkeypatch: pytest.MonkeyPatch, reports: Watched) -> None:
    async with AsyncExitStack() as stack:
        liar = await stack.enter_async_context(open_node(1))
        honest = await stack.enter_async_context(open_node(2))
        client = await stack.enter_async_context(open_node(3, dht_server=False))
        liar._streams.set_internal(KAD, liar_about(position_of(KEY.encode()), client.peer_id, 1))
        dialled = []
        connect = client._switch.connect

        async def counted(peer: PeerId, addresses: list[str] = [], **options: bool) -> object:  # noqa: B006
            dialled.append(peer)
            return await connect(peer, addresses, **options)

        for node in (liar, honest):
            await acquainted(client, node)
        monkeypatch.setattr(client._switch, "connect", counted)
        with trio.fail_after(3):
            await client.dht_put(KEY, b"1:x")
            assert await client.dht_get(KEY) == b"1:x"
            assert await honest.dht_get(KEY) == b"1:x"
        assert client.peer_id not in dialled
        made_up = [peer for peer in dialled if peer not in (liar.peer_id, honest.peer_id)]
        assert len(made_up) <= 2 * (DHT_HEARSAY_FAILURES_MAX + dht.DHT_BREADTH + 8)
        assert all(not client._switch.book.get(peer) for peer in made_up), "hearsay stays out of the book"
        assert set(client._dht._table.peers()) == {liar.peer_id, honest.peer_id}


@pytest.mark.parametrize(
    ("teller", "told"),
    [
        ("/ip4/127.0.0.1/tcp/1", {"127.0.0.1", "10.0.0.1", "8.8.8.8", "node.example"}),
        ("/ip4/10.0.0.9/tcp/1", {"10.0.0.1", "8.8.8.8", "node.example"}),
        ("/ip4/9.9.9.9/tcp/1", {"8.8.8.8", "node.example"}),
    ],
)
async def test_strangers_do_not_send_us_into_our_own_network(
    monkeypatch: pytest.MonkeyPatch, teller: str, told: set[str]
) -> None:
    async with open_node(1) as one, open_node(2) as two:
        await one.connect(two.peer_id, two.addresses())
        (link,) = one._switch.links()
        hosts = ("ip4/127.0.0.1", "ip4/10.0.0.1", "ip4/8.8.8.8", "dns4/node.example")
        addresses = [parse_address(f"/{host}/tcp/4001") for host in hosts]
        with monkeypatch.context() as patch:
            patch.setattr(link.connection, "address", teller)
            ((_, left),) = tellable(one._switch, two.peer_id, [(one.peer_id, addresses)])
        assert {address.host for address in left} == told
        ((_, left),) = tellable(one._switch, one.peer_id, [(one.peer_id, addresses)])  # of somebody who has gone
        assert {address.host for address in left} == {"8.8.8.8", "node.example"}


# --- who is in the table ---------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_server_and_client_mode_change_while_it_runs() -> None:
    """A node that turns out to be unreachable leaves its neighbours' tables, and comes back."""
    async with open_node(1) as first, open_node(2) as second:
        await second.connect(first.peer_id, first.addresses())
        await polled(lambda: second.peer_id in first._dht._table)
        second._dht.set_server(False)
        second._identification.changed()
        await polled(lambda: second.peer_id not in first._dht._table)
        assert second._dht.mode == "client"
        with pytest.raises(TransportError):
            await first._streams.open_raw(second.peer_id, KAD)
        second._dht.set_server(True)
        second._identification.changed()
        await polled(lambda: second.peer_id in first._dht._table)


def in_the_other_half(own: PeerId, count: int) -> list[int]:
    """Numbers of nodes that share one bucket of ours."""
    found = []
    number = 10
    while len(found) < count:
        number += 1
        peer = IdentityKey.from_seed(seed_of(number)).peer_id
        if (position_of_peer(peer) ^ position_of_peer(own)) >> 255:
            found.append(number)
    return found


async def test_a_dead_peer_gives_way_and_a_living_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "DHT_BUCKET_PEERS_MAX", 1)
    monkeypatch.setattr(dht, "DHT_EVICTION_AGE_S", 0.0)
    async with open_node(1) as first:
        old, second, third = in_the_other_half(first.peer_id, 3)
        async with open_node(second) as newcomer:
            async with open_node(old) as there:
                await there.connect(first.peer_id, first.addresses())
                await polled(lambda: there.peer_id in first._dht._table)
                await newcomer.connect(first.peer_id, first.addresses())
                await polled(lambda: first._switch.link(newcomer.peer_id) is not None)
                link = first._switch.link(newcomer.peer_id)
                await link.identified.wait()
                await polled(lambda: not first._dht._evicting)
                await first._dht._make_room(link)
                assert first._dht._table.peers() == [there.peer_id]
            await first.disconnect(there.peer_id)
            async with open_node(third) as later:
                await later.connect(first.peer_id, first.addresses())
                await polled(lambda: first._dht._table.peers() == [later.peer_id])
                assert first.counters()["dht_evicted"] == 1


async def test_a_crowded_subnet_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "subnet_of", lambda *_: "192.0.2.0/24")
    monkeypatch.setattr(table, "DHT_TABLE_SUBNET_MAX", 1)
    async with open_node(1) as first, open_node(2) as second, open_node(3) as third:
        await first.connect(second.peer_id, second.addresses())
        await polled(lambda: second.peer_id in first._dht._table)
        await first.connect(third.peer_id, third.addresses())
        await polled(lambda: first.counters()["dht_subnet_full"] >= 1)
        assert first._dht._table.add(third.peer_id, 0.0, "192.0.2.0/24") is Admission.SUBNET_FULL


async def test_connections_that_lookups_made_are_closed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dht, "DHT_CONNECTION_IDLE_S", 0.0)
    async with open_node(1) as first:
        known = full_addresses(first)
        async with open_node(2, bootstrap=known) as second, open_node(3, bootstrap=known) as third:
            await polled(lambda: len(first._dht._table) == 2)
            assert await third.dht_get(KEY) is None
            assert set(third._dht._rpc.made) == {second.peer_id}
            await third._dht._sweep(trio.current_time())
            assert third._switch.link(second.peer_id), "a near neighbour"
            monkeypatch.setattr(third._dht._table, "neighbours", list)
            third._dht.spares.append(lambda _: True)
            await third._dht._sweep(trio.current_time())
            assert third._switch.link(second.peer_id), "somebody else needs it"
            third._dht.spares.pop()
            await third._dht._sweep(trio.current_time())
            assert third._switch.link(second.peer_id) is None
            assert third._switch.link(first.peer_id)
            assert third.counters()["dht_connections_closed"] == 1
            assert second.peer_id in third._dht._table
            assert await third.dht_get(KEY) is None  # and it is reached again
