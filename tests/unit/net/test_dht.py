"""The DHT on real sockets, in situations that the contract suite cannot make: frozen peers, clients, stale copies, garbage."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
from net_nodes import open_node, polled

from cocoon_p2p.errors import CocoonError, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_to_bytes
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.dht import dht, lookup, publishing
from cocoon_p2p.net.dht.lookup import Lookup
from cocoon_p2p.net.dht.messages import KAD, content_id_of, provider_key, read_message, send_message
from cocoon_p2p.net.dht.stores import _Held
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.multistream import encode_prefixed, encode_varint
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import CONTENT, KEY, full_addresses


async def never_answers(stream: MuxStream) -> None:
    await trio.sleep_forever()


async def identified(network: Libp2pNetwork) -> None:
    """Wait until every peer of a network has said who it is. A connection made only to see whether it can be, and dropped, is
    often the newest of a peer's."""
    while unknown := [link for link in network._switch.links() if not link.identified.is_set()]:
        await unknown[0].identified.wait()


async def test_the_network_is_asked_before_the_local_copy() -> None:
    async with open_node(1) as first, open_node(2, bootstrap=full_addresses(first)) as second:
        await first.connect(second.peer_id, second.addresses())
        await second.dht_put(KEY, b"1:old")
        first._dht._server.records.put(KEY, b"2:new", trio.current_time())
        assert second._dht._server.records.get(KEY, trio.current_time()) == b"1:old"
        assert await second.dht_get(KEY) == b"2:new"


async def test_who_dials_back_to_see_whether_he_can_stays_in_the_table() -> None:
    """The connection is dropped before he has said on it what he speaks."""
    async with open_node(1) as asker, open_node(2) as asked:
        await asker.connect(asked.peer_id, asked.addresses())
        await polled(lambda: asked.peer_id in asker._dht._table)
        dropped = trio.Event()

        async def look(link: Link) -> None:
            await link.ended.wait()
            await trio.testing.wait_all_tasks_blocked()
            dropped.set()

        asker._switch.on_link.append(look)
        await asked._switch.try_dial(asker.peer_id, parse_address(asker.addresses()[0]))
        await dropped.wait()
        assert asked.peer_id in asker._dht._table


async def test_an_invalid_record_of_a_peer_is_not_believed() -> None:
    async with open_node(1) as first, open_node(2, bootstrap=full_addresses(first)) as second:
        records = first._dht._server.records._records
        records[KEY] = _Held(b"not a number", 1, trio.current_time() + 99, None)
        assert await second.dht_get(KEY) is None
        assert second.counters()["dht_record_invalid"] == 1


@pytest.mark.slow
async def test_frozen_peers_do_not_stop_a_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "DHT_RPC_TIMEOUT_S", 1.0)  # the living answer in that time on a busy machine, too
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(1))
        known = full_addresses(first)
        for number in range(2, 8):
            frozen = await stack.enter_async_context(open_node(number, bootstrap=known))
            frozen._streams.set_internal(KAD, never_answers)
        last = await stack.enter_async_context(open_node(9, bootstrap=known))
        begin = trio.current_time()
        await last.dht_put(KEY, b"1:x")
        client = await stack.enter_async_context(open_node(10, bootstrap=known))
        assert await client.dht_get(KEY) == b"1:x"
        assert trio.current_time() - begin < 16.0, "two lookups of at most 6 s, and storing"


async def test_dht_clients_are_not_asked() -> None:
    async with open_node(1) as first:
        known = full_addresses(first)
        async with open_node(2, bootstrap=known, dht_server=False) as client, open_node(3, bootstrap=known) as server:
            await client.dht_put(KEY, b"1:x")  # it may ask
            assert await server.dht_get(KEY) == b"1:x"
            await identified(first)
            assert client.peer_id not in first._dht._table
            assert server.peer_id in first._dht._table
            with pytest.raises(TransportError):
                await first._streams.open_raw(client.peer_id, KAD)


async def test_a_restarted_provider_is_found_at_its_new_address() -> None:
    async with open_node(1) as first:
        known = full_addresses(first)
        async with open_node(2, bootstrap=known) as before:
            await before.provide(CONTENT)
        async with open_node(2, bootstrap=known) as after, open_node(3, bootstrap=known) as client:
            await after.provide(CONTENT)
            (found,) = await client.find_providers(CONTENT, 5)
            assert found.addresses[0] == after.addresses()[0]
            await client.connect(found.peer, found.addresses)


async def test_what_was_published_reaches_peers_that_come_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that started before anybody else was there."""
    monkeypatch.setattr(dht, "_SETTLE_S", 0.01)
    async with open_node(1) as early:
        with pytest.raises(TransportError):
            await early.provide(CONTENT)
        with pytest.raises(TransportError):
            await early.dht_put(KEY, b"1:early")
        async with open_node(2, bootstrap=full_addresses(early)) as late:
            await polled(lambda: late._dht._server.records.get(KEY, trio.current_time()) == b"1:early")
            await polled(lambda: bool(late._dht._server.providers.get(CONTENT, trio.current_time())))


async def test_what_is_put_again_goes_straight_to_those_who_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """No lookup for each announcement; and one as soon as somebody nearer may have come."""
    async with open_node(1) as first, open_node(2) as second, open_node(3) as third:
        lookups = 0
        find = second._dht._find

        async def counted(raw_key: bytes) -> Lookup:
            nonlocal lookups
            lookups += 1
            return await find(raw_key)

        monkeypatch.setattr(second._dht._publisher, "_find", counted)
        await second.connect(first.peer_id, first.addresses())
        await polled(lambda: first.peer_id in second._dht._table)
        for number in range(3):
            await second.dht_put(KEY, b"%d:x" % number)
        assert lookups == 1
        await second.connect(third.peer_id, third.addresses())
        await polled(lambda: third.peer_id in second._dht._table)
        await second.dht_put(KEY, b"3:x")
        assert third._dht._server.records.get(KEY, trio.current_time()) == b"3:x"
        assert first._dht._server.records.get(KEY, trio.current_time()) == b"3:x"
        await third.disconnect(second.peer_id)
        await first.disconnect(second.peer_id)


async def test_records_are_republished_before_they_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "DHT_RECORD_REPUBLISH_S", 0.1)
    monkeypatch.setattr(publishing, "DHT_PROVIDER_REPUBLISH_S", 0.1)
    monkeypatch.setattr(dht, "_SETTLE_S", 0.01)
    async with open_node(1) as first, open_node(2) as second:
        await second.connect(first.peer_id, first.addresses())
        await polled(lambda: first.peer_id in second._dht._table)
        await second.dht_put(KEY, b"1:x")
        await second.provide(CONTENT)
        kept = first._dht._server
        record, provider = kept.records._records[KEY], kept.providers._contents[CONTENT][second.peer_id]
        await polled(lambda: kept.records._records[KEY].expires_at > record.expires_at)
        await polled(lambda: kept.providers._contents[CONTENT][second.peer_id] > provider)


async def test_a_node_publishes_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "DHT_PUBLISHED_MAX", 1)
    async with open_node(1) as first, open_node(2) as second:
        await second.connect(first.peer_id, first.addresses())
        await polled(lambda: first.peer_id in second._dht._table)
        await second.dht_put(KEY, b"1:x")
        await second.dht_put(KEY, b"2:x")
        with pytest.raises(LocalProtocolError):
            await second.provide(CONTENT)


async def test_a_peer_provides_only_for_itself() -> None:
    async with open_node(1) as first, open_node(2) as victim, open_node(3) as liar:
        await liar.connect(first.peer_id, first.addresses())
        message = dht.Message(type=dht.Message.ADD_PROVIDER, key=provider_key(CONTENT))
        message.providerPeers.add().id = dht.peer_id_to_bytes(victim.peer_id)
        question = dht.Message(type=dht.Message.GET_PROVIDERS, key=provider_key(CONTENT))
        answer = await liar._dht._rpc.ask(first.peer_id, message, question)
        assert list(answer.providerPeers) == []


def test_contents_are_asked_for_by_their_multihash() -> None:
    """Of anything else js-libp2p says "Invalid CID" and go-libp2p nothing."""
    key = provider_key(CONTENT)
    assert key == b"\x12\x20" + CONTENT
    assert content_id_of(key) == CONTENT
    for wrong in (CONTENT, key[:-1], key + b"x", b"\x13" + key[1:], b""):
        with pytest.raises(RemoteProtocolError):
            content_id_of(wrong)


async def test_a_peer_that_confirms_add_provider() -> None:
    """py-libp2p's own DHT answers ADD_PROVIDER, others do not: the answer must not be taken for that to the next request,
    nor for those to all later ones on the same stream. And rust-libp2p leaves the asker out of its answer."""
    asked = []

    async def answers_everything(stream: MuxStream) -> None:
        while True:
            request = await read_message(stream)
            asked.append(request.type)
            answer = dht.Message(type=request.type, key=request.key)
            if request.type == dht.Message.GET_VALUE:
                answer.record.key, answer.record.value = request.key, b"1:x"
            await send_message(stream, answer)

    async with open_node(1) as first, open_node(2, bootstrap=full_addresses(first)) as second:
        first._streams.set_internal(KAD, answers_everything)
        await second.provide(CONTENT)
        assert dht.Message.ADD_PROVIDER in asked
        assert await second.dht_get(KEY) == b"1:x"


async def test_a_peer_that_refuses_a_provider() -> None:
    async def refuses(stream: MuxStream) -> None:
        while True:
            request = await read_message(stream)
            if request.type == dht.Message.ADD_PROVIDER:
                raise RemoteProtocolError("no")
            await send_message(stream, dht.Message(type=request.type, key=request.key))

    async with open_node(1) as first, open_node(2, bootstrap=full_addresses(first)) as second:
        first._streams.set_internal(KAD, refuses)
        with pytest.raises(TransportError) as caught:
            await second.provide(CONTENT)
        assert caught.value.code == "NOBODY"


async def test_an_answer_to_another_request_is_refused() -> None:
    async def answers_wrongly(stream: MuxStream) -> None:
        while True:
            await read_message(stream)
            await send_message(stream, dht.Message(type=dht.Message.PING))

    async with open_node(1) as first, open_node(2) as second:
        first._streams.set_internal(KAD, answers_wrongly)
        await second.connect(first.peer_id, first.addresses())
        with pytest.raises(RemoteProtocolError):
            await second._dht._rpc.ask(first.peer_id, dht.Message(type=dht.Message.FIND_NODE, key=b"any"))
        assert not second._dht._rpc._pool


async def asked_for(asker: Libp2pNetwork, asked: PeerId, wanted: PeerId) -> list[bytes]:
    question = dht.Message(type=dht.Message.FIND_NODE, key=peer_id_to_bytes(wanted))
    answer = await asker._dht._rpc.ask(asked, question)
    return [entry.id for entry in answer.closerPeers if entry.addrs]


async def test_the_peer_that_is_asked_for_is_told() -> None:
    """Also when it is ourselves, by which go-libp2p tries each new peer, or no server of the DHT."""
    async with open_node(1) as first:
        known = full_addresses(first)
        async with open_node(2, dht_server=False, bootstrap=known) as client, open_node(3, bootstrap=known) as asker:
            await client.connect(first.peer_id, first.addresses())
            await asker.connect(first.peer_id, first.addresses())
            await identified(first)
            assert await asked_for(asker, first.peer_id, first.peer_id) == [peer_id_to_bytes(first.peer_id)]
            assert await asked_for(asker, first.peer_id, client.peer_id) == [peer_id_to_bytes(client.peer_id)]
            assert await asked_for(asker, first.peer_id, asker.peer_id) == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 20,
        encode_varint(1 << 40),
        encode_prefixed(b"\xff" * 50),
        encode_prefixed(bytes([8, 9])),
        encode_prefixed(b""),
        encode_prefixed(bytes([8, 0, 0x12, 0x02]) + b"ab"),
        encode_prefixed(bytes([8, 2, 0x12, 0x02]) + b"ab"),
    ],
)
async def test_garbage_harms_one_stream(garbage: bytes) -> None:
    async with open_node(1) as server, open_node(2) as client:
        await client.connect(server.peer_id, server.addresses())
        stream = await client._streams.open_raw(server.peer_id, KAD)
        await stream.write(garbage)
        with pytest.raises(CocoonError), trio.fail_after(5):
            while True:
                await stream.read_exactly(1)
        await client.dht_put(KEY, b"1:still there")


async def test_a_key_that_is_not_text() -> None:
    """Nobody can have put a record under it; the answer names who is nearest, and the stream goes on."""
    async with open_node(1) as server, open_node(2) as client:
        await client.connect(server.peer_id, server.addresses())
        stream = await client._streams.open_raw(server.peer_id, KAD)
        for key in (b"\xff\xfe\xfd", b""):
            await send_message(stream, dht.Message(type=dht.Message.GET_VALUE, key=key))
            answer = await read_message(stream)
            assert (answer.type, answer.key, answer.HasField("record")) == (dht.Message.GET_VALUE, key, False)


@pytest.mark.slow
async def test_many_nodes_find_each_other_through_one() -> None:
    """A net of a dozen, each knowing only the first."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_node(1))
        nodes = [
            await stack.enter_async_context(open_node(number, bootstrap=full_addresses(first)))
            for number in range(2, 13)
        ]
        await polled(lambda: all(node._dht._table.peers() for node in nodes))  # no call waits for the entry for long
        async with trio.open_nursery() as nursery:
            for number, node in enumerate(nodes):
                nursery.start_soon(node.dht_put, f"/test-records/{number}", b"1:%d" % number)
                nursery.start_soon(node.provide, CONTENT)
        for number in range(len(nodes)):
            assert await nodes[0].dht_get(f"/test-records/{number}") == b"1:%d" % number
        assert len(await nodes[3].find_providers(CONTENT, 64)) == len(nodes) - 1
        assert len(await nodes[3].find_providers(hashlib.sha256(b"-").digest(), 64)) == 0
