"""What the simulated network adds to the contract: time, loss, partitions, death, and a thousand nodes."""

from __future__ import annotations

import hashlib
from contextlib import AsyncExitStack

import pytest
import trio

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_public_key
from cocoon_p2p.limits import DIAL_TIMEOUT_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_MISSES_MAX
from cocoon_p2p.net.memory import MemoryHub
from cocoon_p2p.net.port import PeerDisconnected
from cocoon_p2p.testing.net_contract import CONTENT, ECHO, KEY, TOPIC, VALIDATORS, echo, full_addresses

GIVEN_UP_S = KEEPALIVE_INTERVAL_S * (KEEPALIVE_MISSES_MAX + 1)


def peer(number: int) -> PeerId:
    return peer_id_from_public_key(hashlib.sha256(b"memory %d" % number).digest())


async def test_latency_is_paid_per_trip_not_per_frame(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(latency_s=0.1)
    async with hub.open(peer(1)) as server, hub.open(peer(2)) as client:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        assert trio.current_time() == pytest.approx(0.2)
        stream = await client.open_stream(server.peer_id, ECHO)
        assert trio.current_time() == pytest.approx(0.4)
        for i in range(10):
            await stream.send(b"%d" % i)
        assert [await stream.receive() for _ in range(10)] == [b"%d" % i for i in range(10)]
        assert trio.current_time() == pytest.approx(0.6)


async def test_the_same_seed_gives_the_same_losses(autojump_clock: trio.testing.MockClock) -> None:
    async def heard(seed: int) -> list[int]:
        hub = MemoryHub(seed=seed, loss=0.5)
        async with hub.open(peer(1)) as one, hub.open(peer(2)) as two:
            await two.connect(one.peer_id, one.addresses())
            async with one.subscribe(TOPIC, lambda *_: True) as feed:
                for i in range(40):
                    await two.publish(TOPIC, bytes([i]))
                received: list[int] = []
                with trio.move_on_after(10):
                    async for _, data in feed:
                        received += data
                return sorted(received)  # gossip promises no order

    first, again, other = await heard(1), await heard(1), await heard(2)
    assert first == again != other
    assert 5 < len(first) < 35


async def test_a_short_partition_holds_and_a_long_one_cuts(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub()
    async with hub.open(peer(1)) as server, hub.open(peer(2)) as client, client.events() as events:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        await anext(events)
        stream = await client.open_stream(server.peer_id, ECHO)
        hub.partition([server.peer_id])
        await stream.send(b"held")
        with trio.move_on_after(GIVEN_UP_S / 2):
            await stream.receive()
            pytest.fail("it passed a partition")
        hub.heal()
        assert await stream.receive() == b"held"
        hub.partition([server.peer_id])
        begin = trio.current_time()
        with pytest.raises(TransportError) as caught:
            await stream.receive()
        assert not isinstance(caught.value, EndOfStream)
        assert trio.current_time() - begin == pytest.approx(GIVEN_UP_S)
        assert await anext(events) == PeerDisconnected(server.peer_id)
        begin = trio.current_time()
        with pytest.raises(TransportError, match="timed out"):
            await client.open_stream(server.peer_id, ECHO)
        assert trio.current_time() - begin == pytest.approx(DIAL_TIMEOUT_S)
        hub.heal()
        await client.open_stream(server.peer_id, ECHO)


async def test_a_killed_node_is_noticed_and_its_records_are_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(latency_s=0.01)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(hub.open(peer(0), validators=VALIDATORS))
        known = full_addresses(first)
        one, two = [
            await stack.enter_async_context(hub.open(peer(n), validators=VALIDATORS, bootstrap=known)) for n in (1, 2)
        ]
        one.set_handler(ECHO, echo)
        await one.dht_put(KEY, b"1:x")
        await one.provide(CONTENT)
        (found,) = await two.find_providers(CONTENT, 5)
        stream = await two.open_stream(found.peer, ECHO)
        hub.kill(one.peer_id)
        with pytest.raises(TransportError):
            await stream.receive()
        assert await two.dht_get(KEY) == b"1:x"
        with pytest.raises(TransportError, match="Connection refused"):
            await two.open_stream(one.peer_id, ECHO)
        with pytest.raises(TransportError, match="dead"):
            await one.dht_get(KEY)
        hub.kill(first.peer_id)
        assert two.peers() == ()


async def test_a_frozen_node_takes_part_in_nothing(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub()
    async with hub.open(peer(1)) as one, hub.open(peer(2)) as two, one.subscribe(TOPIC, lambda *_: True) as feed:
        await two.connect(one.peer_id, one.addresses())
        hub.freeze(one.peer_id)
        await two.publish(TOPIC, b"unheard")
        with trio.move_on_after(GIVEN_UP_S + 1) as scope:
            await anext(feed)
        assert scope.cancelled_caught
        assert two.peers() == ()


@pytest.mark.slow
async def test_a_thousand_nodes(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(seed=3, latency_s=0.02, loss=0.01)
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(hub.open(peer(0), validators=VALIDATORS))
        first.set_handler(ECHO, echo)
        known = full_addresses(first)
        nodes = [
            await stack.enter_async_context(hub.open(peer(n), validators=VALIDATORS, bootstrap=known))
            for n in range(1, 1000)
        ]
        async with trio.open_nursery() as nursery:
            for n, node in enumerate(nodes[:100]):
                nursery.start_soon(node.dht_put, f"/test-records/{n}", b"1:%d" % n)
                nursery.start_soon(node.provide, CONTENT)
        for n in range(0, 100, 10):
            assert await nodes[-1 - n].dht_get(f"/test-records/{n}") == b"1:%d" % n
        assert len(await nodes[500].find_providers(CONTENT, 50)) == 50
