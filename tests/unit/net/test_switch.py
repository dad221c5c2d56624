"""Connections as the rest of the network layer sees them: several with one peer, too many, and what is told of them."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import trio
from net_nodes import assert_serves, open_node, peer_of, polled, port_of
from rude_ends import PausingProxy, open_bare

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.port import PeerConnected, PeerMisbehaved, Stream
from cocoon_p2p.net.rates import Rate
from cocoon_p2p.net.switch import streams, switch
from cocoon_p2p.net.yamux import connection as connection_module
from cocoon_p2p.testing.net_contract import ECHO, echo


async def test_two_peers_that_dial_each_other_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever connections come of it, streams on both go on working, and in the end there is one."""
    monkeypatch.setattr(switch, "CONNECTION_GRACE_S", 0.2)
    monkeypatch.setattr(switch, "SWITCH_ROUND_S", 0.1)
    async with open_node(1) as one, open_node(2) as two:
        for node in (one, two):
            node.set_handler(ECHO, echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, two.peer_id, two.addresses())
            nursery.start_soon(two.connect, one.peer_id, one.addresses())
        await one._switch.dial_direct(two.peer_id, [parse_address(two.addresses()[0])])  # if they took turns after all
        streams = [await one.open_stream(two.peer_id, ECHO), await two.open_stream(one.peer_id, ECHO)]
        for stream in streams:
            await stream.send(b"before")
            assert await stream.receive() == b"before"
        links = [*one._switch.links_of(two.peer_id), *two._switch.links_of(one.peer_id)]
        await polled(lambda: all(link.identified.is_set() for link in links))
        best = [one._switch.link(two.peer_id), two._switch.link(one.peer_id)]
        assert best[0] is not None and best[1] is not None
        assert best[0].connection.is_outbound != best[1].connection.is_outbound, "both use the same one"
        for stream in streams:
            await stream.send(b"after")
            assert await stream.receive() == b"after"
            await stream.aclose()


async def test_a_second_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "CONNECTION_GRACE_S", 0.1)
    monkeypatch.setattr(switch, "SWITCH_ROUND_S", 0.05)
    async with open_node(1) as server, open_bare(server, 2) as first, open_bare(server, 2) as second:
        await polled(lambda: server.counters()["connections_doubled"] == 1)
        await polled(lambda: first.is_over or second.is_over)
        assert not (first.is_over and second.is_over)
        assert len(server.peers()) == 1


async def test_the_least_useful_connections_are_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "CONNECTIONS_KEPT", 5)
    monkeypatch.setattr(switch, "CONNECTIONS_KEPT_LOW", 3)
    monkeypatch.setattr(switch, "CONNECTION_GRACE_S", 0.0)
    async with open_node(1, dht_server=False) as server, AsyncExitStack() as stack:
        server.set_handler(ECHO, echo)
        server._switch.protect(peer_of(2), "manual")
        busy = await stack.enter_async_context(open_node(3))
        await busy.connect(server.peer_id, server.addresses())
        stream = await busy.open_stream(server.peer_id, ECHO)
        bare = {number: await stack.enter_async_context(open_bare(server, number)) for number in (2, 4, 5, 6, 7)}
        await polled(lambda: len(server.peers()) == 3)
        assert {peer.peer for peer in server.peers()} >= {peer_of(2), busy.peer_id}
        assert not bare[2].is_over
        assert server.counters()["connections_trimmed"] == 3
        await stream.send(b"undisturbed")
        assert await stream.receive() == b"undisturbed"


async def test_new_connections_have_a_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "CONNECTIONS_KEPT", 1)
    monkeypatch.setattr(switch, "CONNECTIONS_KEPT_LOW", 1)
    async with open_node(1) as server, open_bare(server, 2), open_bare(server, 3), open_bare(server, 4):
        await polled(lambda: len(server.peers()) == 3)
        server._switch._trim()
        assert server.counters()["connections_trimmed"] == 0


async def test_shedding_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with open_node(1) as server, open_bare(server, 2) as connection:
            await polled(lambda: len(server.peers()) == 1)
            server._switch.shed()
            server._switch.shed()
            await polled(lambda: connection.is_over)
            assert server.counters()["descriptors_exhausted"] == 2
    assert caplog.text.count("no file descriptor is left") == 1


async def test_a_connection_takes_one_round_trip() -> None:
    """Counted, not timed: what the dialler waits for. The answer to its first flight is all."""
    async with open_node(1) as server, open_node(2, listen=()) as client, trio.open_nursery() as nursery:
        proxy = PausingProxy(port_of(server))
        await nursery.start(proxy.run)
        answers_before = proxy.answers
        await client.connect(server.peer_id, [f"/ip4/127.0.0.1/tcp/{proxy.port}"])
        assert proxy.answers - answers_before == 1
        nursery.cancel_scope.cancel()


async def test_what_is_told_of_a_peer() -> None:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        stream = await client.open_stream(server.peer_id, ECHO)
        await stream.send(bytes(100_000))
        await stream.receive()
        told = next(peer for peer in client.peers() if peer.peer == server.peer_id)
        assert (told.transport, told.relayed, told.direction) == ("tcp", False, "outbound")
        assert 100_000 < told.bytes_sent < 150_000
        assert 100_000 < told.bytes_received < 150_000


async def test_a_machine_that_moves_asks_all_whether_they_are_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "SWITCH_ROUND_S", 0.1)
    monkeypatch.setattr(connection_module, "KEEPALIVE_DOUBT_S", 0.2)
    async with open_node(1) as server, open_node(2, listen=()) as client, trio.open_nursery() as nursery:
        proxy = PausingProxy(port_of(server))
        await nursery.start(proxy.run)
        server.announce([f"/ip4/127.0.0.1/tcp/{proxy.port}"])
        await client.connect(server.peer_id, [f"/ip4/127.0.0.1/tcp/{proxy.port}"])
        await polled(lambda: client.peers()[0].latency_s is not None)
        proxy.pause()
        monkeypatch.setattr(switch, "own_hosts_now", lambda: frozenset({"192.0.2.1"}))
        began = trio.current_time()
        await polled(lambda: client.peers() == ())
        assert trio.current_time() - began < 2.0, "not only after two keep-alive intervals of 10 s"
        assert client.counters()["machine_moved"] >= 1
        nursery.cancel_scope.cancel()


async def test_a_fresh_connection_beside_another() -> None:
    async with open_node(1) as server, open_node(2) as client:
        link = await client._switch.connect(server.peer_id, server.addresses())
        assert await client._switch.connect(server.peer_id, server.addresses()) is link
        fresh = await client._switch.connect(server.peer_id, server.addresses(), fresh=True)
        assert fresh is not link
        assert len(client._switch.links_of(server.peer_id)) == 2
        with pytest.raises(TransportError, match="Connection refused"):
            await client._switch.connect(server.peer_id, ["/ip4/127.0.0.1/tcp/1"], fresh=True)


async def test_a_relayed_address_without_relays_says_so() -> None:
    async with open_node(1) as client:
        client._switch.dial_relayed = None
        address = f"/ip4/127.0.0.1/tcp/1/p2p/{peer_of(5)}/p2p-circuit"
        with pytest.raises(TransportError, match="this node uses no relays"):
            await client.connect(peer_of(6), [address])


async def test_nobody_listens_at_a_relay() -> None:
    with pytest.raises(ConfigError, match="nobody listens at a relay"):
        async with open_node(1, listen=[f"/ip4/127.0.0.1/tcp/1/p2p/{peer_of(5)}/p2p-circuit"]):
            pass


async def test_announced_addresses_and_who_hears_of_them() -> None:
    async with open_node(1) as node:
        heard: list[tuple[str, ...]] = []
        listening = node.addresses()
        node._switch.on_addresses_changed.append(lambda: heard.append(node._switch.announced_addresses()))
        node._switch.extra_addresses = ("/ip4/192.0.2.1/tcp/4001",)
        node._switch.extra_addresses = ("/ip4/192.0.2.1/tcp/4001",)
        node.announce(["/dns4/node.example/tcp/4001"])
        node.announce([])
        assert heard == [
            ("/ip4/192.0.2.1/tcp/4001", *listening),  # loopback comes last
            ("/dns4/node.example/tcp/4001", "/ip4/192.0.2.1/tcp/4001"),
            ("/ip4/192.0.2.1/tcp/4001", *listening),
        ]


async def test_a_machine_that_moves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = frozenset({"192.0.2.1"})
    monkeypatch.setattr(switch, "own_hosts_now", lambda: hosts)
    monkeypatch.setattr(switch, "SWITCH_ROUND_S", 0.02)
    async with open_node(1) as node:
        moved = trio.Event()
        node._switch.on_addresses_changed.append(moved.set)
        await trio.sleep(0.1)
        assert not moved.is_set(), "nothing has changed yet"
        hosts = frozenset({"198.51.100.1"})
        await moved.wait()


async def test_reports_are_heard_and_thinned_out() -> None:
    async with open_node(1) as node, node.events() as events:
        for _ in range(100):
            node._switch.report(peer_of(2), "flood")
        node._switch.events.publish(PeerConnected(peer_of(3)))
        heard = []
        async for event in events:
            if event == PeerConnected(peer_of(3)):
                break
            heard.append(event)
        assert set(heard) == {PeerMisbehaved(peer_of(2), "flood")}
        assert 1 <= len(heard) <= 10
        assert node.counters()["peer_flood"] == 100


async def test_a_slowed_peer_gets_less() -> None:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, echo)
        gate = server._switch.gate
        gate.set_limits(replace(gate.limits, openings=Rate(0.001, 40.0)))
        await client.connect(server.peer_id, server.addresses())
        server.slow(client.peer_id, 0.25, 60.0)
        opened = 0
        with pytest.raises(TransportError):
            for _ in range(40):
                stream = await client.open_stream(server.peer_id, ECHO)
                await stream.aclose()
                opened += 1
        assert opened < 10
        assert server.counters()["stream_refused_rate"] >= 1
        await assert_serves(server)


@pytest.mark.parametrize("end", ["banned", "gone"])
async def test_a_handler_does_not_outlive_its_connection_for_long(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(streams, "HANDLER_GRACE_S", 0.05)
    started, cancelled = trio.Event(), trio.Event()

    async def neither_reads_nor_writes(stream: Stream) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, neither_reads_nor_writes)
        await client.connect(server.peer_id, server.addresses())
        await client.open_stream(server.peer_id, ECHO)
        await started.wait()
        assert server._switch.gate.streams >= 1
        if end == "banned":
            server.ban(client.peer_id, 60.0)
        else:
            await client.disconnect(server.peer_id)
        await cancelled.wait()
        await polled(lambda: server._switch.gate.streams == 0)
        assert server.counters()["handler_outlived_connection"] == 1
        assert server.counters()["handler_failed"] == 0


async def test_a_handler_that_is_done_within_the_grace_is_not_cut_off() -> None:
    started, done = trio.Event(), trio.Event()

    async def notes_the_end(stream: Stream) -> None:
        started.set()
        with pytest.raises(TransportError):
            await stream.receive()
        await trio.sleep(0.05)
        done.set()

    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, notes_the_end)
        await client.connect(server.peer_id, server.addresses())
        await client.open_stream(server.peer_id, ECHO)
        await started.wait()
        await client.disconnect(server.peer_id)
        await done.wait()
        assert "handler_outlived_connection" not in server.counters()


async def test_a_ban_and_its_end() -> None:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        server.ban(client.peer_id, 60.0)
        await polled(lambda: client.peers() == ())
        with pytest.raises(TransportError, match="banned"):
            await server.connect(client.peer_id, client.addresses())
        server.unban(client.peer_id)
        await client.connect(server.peer_id, server.addresses())
        server.ban(client.peer_id, 0.05)
        await trio.sleep(0.1)  # what ends by itself
        await client.connect(server.peer_id, server.addresses())
