"""Relays: reservations, circuits, and what a relay refuses and cuts off. Real nodes on loopback."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from net_nodes import open_node, polled

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import peer_id_from_public_key
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.pb import circuit_pb2
from cocoon_p2p.net.pb.circuit_pb2 import HopMessage
from cocoon_p2p.net.port import Stream
from cocoon_p2p.net.reach import circuit_pipe, relay_server
from cocoon_p2p.net.reach.circuit_forwarding import Circuit
from cocoon_p2p.net.reach.circuit_messages import HOP, STOP, encode, hop_connect, read_hop, read_stop, stop_connect
from cocoon_p2p.net.reach.circuit_pipe import CircuitPipe
from cocoon_p2p.net.reach.hole_punch import DCUTR
from cocoon_p2p.net.reach.relay_client import RelayClient
from cocoon_p2p.net.reach.relay_server import RelayLimits, _Place
from cocoon_p2p.net.switch.origins import origin_of_host
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import ECHO

RELAY, PROVIDER, CLIENT = 1, 2, 3


@asynccontextmanager
async def open_relay(number: int = RELAY, **relay_limits: Any) -> AsyncIterator[Libp2pNetwork]:
    async with open_node(number) as relay:
        relay._relay_server.limits = RelayLimits(**relay_limits)
        relay._relay_server.set_enabled(True)
        yield relay


@asynccontextmanager
async def open_unreachable(number: int, *relays: Libp2pNetwork) -> AsyncIterator[Libp2pNetwork]:
    """A node without a listener, with a reservation at each of `relays`."""
    async with open_node(number, listen=[]) as node:
        node.set_handler(ECHO, echo)
        hold_relays(node)
        for relay in relays:
            await node.connect(relay.peer_id, relay.addresses())
        await polled(lambda: set(node._relay_client.relays()) == {relay.peer_id for relay in relays})
        yield node


def hold_relays(node: Libp2pNetwork) -> None:
    """Whatever the node finds out about its being reachable: on loopback it is."""
    node._relay_client.set_needed(True)
    node._relay_client.set_needed = lambda needed: None  # type: ignore[method-assign]


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


async def say_nothing(stream: MuxStream) -> None:
    await trio.sleep_forever()


@asynccontextmanager
async def three(**relay_limits: Any) -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork, Libp2pNetwork]]:
    """A relay, a provider that is reached through it only, and a client that is connected to it that way."""
    async with AsyncExitStack() as stack:
        relay = await stack.enter_async_context(open_relay(**relay_limits))
        provider = await stack.enter_async_context(open_unreachable(PROVIDER, relay))
        client = await stack.enter_async_context(open_node(CLIENT, listen=[]))
        await client.connect(provider.peer_id, provider._relay_client.addresses())
        yield relay, provider, client


async def test_a_circuit_carries_what_a_connection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Authenticated and encrypted from end to end: the relay never holds a word of it."""
    passed = bytearray()

    class Tapped(Circuit):
        async def _forward(self, source: Any, sink: Any) -> Any:
            class Tap:
                async def read_into(self, buffer: memoryview) -> int:
                    size: int = await source.read_into(buffer)
                    passed.extend(buffer[:size])
                    return size

            return await super()._forward(Tap(), sink)  # type: ignore[arg-type]

    monkeypatch.setattr(relay_server, "Circuit", Tapped)
    async with three() as (relay, provider, client):
        stream = await client.open_stream(provider.peer_id, ECHO)
        secret = b"the same words again and again " * 1000
        data = secret + os.urandom(900_000)
        await stream.send(data)
        assert await stream.receive() == data
        (seen,) = [peer for peer in client.peers() if peer.peer == provider.peer_id]
        assert seen.relayed and seen.address.endswith(f"/p2p/{relay.peer_id}/p2p-circuit")
        (seen,) = [peer for peer in provider.peers() if peer.peer == client.peer_id]
        assert seen.relayed and seen.direction == "inbound"
        assert len(passed) > 2 * len(data)
        assert secret[:40] not in passed and ECHO.encode() not in passed
        assert relay._relay_server.circuits == 1
        assert relay._relay_server.reservations() == (provider.peer_id,)
        await client.disconnect(provider.peer_id)
        await polled(lambda: relay._relay_server.circuits == 0)
        assert relay.counters()["relay_bytes"] > 2 * len(data)
        assert relay.counters()["relay_circuits"] == 1


async def test_both_sides_keep_their_connection_to_the_relay() -> None:
    async with three() as (relay, provider, _):
        for node, other in ((relay, provider), (provider, relay)):
            link = node._switch.link(other.peer_id)
            assert link is not None and link.is_protected


async def test_a_peer_without_a_reservation_is_not_reached() -> None:
    async with open_relay() as relay, open_node(PROVIDER) as provider, open_node(CLIENT) as client:
        await provider.connect(relay.peer_id, relay.addresses())
        through = [f"{relay.addresses()[0]}/p2p/{relay.peer_id}/p2p-circuit"]
        with pytest.raises(TransportError, match="the peer holds no reservation at that relay"):
            await client._switch.connect(provider.peer_id, through)  # the network itself would look for it elsewhere
        assert relay.counters()["relay_refused_no_reservation"] == 1


async def test_who_is_no_relay_offers_none() -> None:
    async with open_node(RELAY) as plain, open_node(CLIENT) as client:
        plain._relay_server.set_enabled(False)
        await client.connect(plain.peer_id, plain.addresses())
        with pytest.raises(TransportError) as caught:
            await client._streams.open_raw(plain.peer_id, HOP)
        assert caught.value.code == "UNKNOWN_PROTOCOL"


async def test_a_relay_that_stops_keeps_what_it_promised() -> None:
    """A node that doubts for a moment whether others can dial it takes nobody's way from him: he would not hear of it."""
    async with open_relay() as relay, open_node(CLIENT) as client:
        async with open_unreachable(PROVIDER, relay) as provider:
            relay._relay_server.set_enabled(False)
            await client.connect(provider.peer_id, provider._relay_client.addresses())
            await client.connect(relay.peer_id, relay.addresses())
            with pytest.raises(TransportError) as caught:
                await client._relay_client._reserve(client._switch.links_of(relay.peer_id)[0])
            assert caught.value.code == "PERMISSION_DENIED"
        await polled(lambda: HOP not in relay._streams.protocols())


async def test_a_relay_that_says_that_it_is_none_is_asked_again() -> None:
    """Another make forgets its places with that."""
    async with open_relay() as relay, open_unreachable(PROVIDER, relay) as provider:
        relay._relay_server._release(provider.peer_id)
        relay._relay_server.set_enabled(False)
        relay._identification.changed()
        await polled(lambda: provider._relay_client.relays() == ())
        relay._relay_server.set_enabled(True)
        provider._relay_client._refused.clear()
        relay._identification.changed()
        await polled(lambda: relay._relay_server.reservations() == (provider.peer_id,))


async def test_a_full_relay_refuses_and_the_client_goes_elsewhere() -> None:
    async with (
        open_relay(reservations=1) as full,
        open_relay(4) as other,
        open_unreachable(PROVIDER, full),
        open_node(CLIENT, listen=[]) as node,
    ):
        hold_relays(node)
        await node.connect(full.peer_id, full.addresses())
        await polled(lambda: node.counters().get("relay_reservation_failed") == 1)
        assert full.counters()["relay_refused_reservation_refused"] == 1
        await node.connect(other.peer_id, other.addresses())
        await polled(lambda: node._relay_client.relays() == (other.peer_id,))


async def test_a_lost_relay_is_replaced() -> None:
    async with open_relay(1) as first, open_relay(4) as second, open_unreachable(PROVIDER, first) as node:
        changes: list[tuple[str, ...]] = []
        node._relay_client.on_change = lambda: changes.append(node._relay_client.addresses())
        await first.disconnect(node.peer_id)
        await polled(lambda: node._relay_client.relays() == ())
        assert first._relay_server.reservations() == ()
        assert changes == [()]
        await node.connect(second.peer_id, second.addresses())
        await polled(lambda: node._relay_client.relays() == (second.peer_id,))
        assert second.peer_id in changes[-1][0]


async def test_a_reservation_is_renewed_and_takes_no_second_place() -> None:
    async with open_relay(reservations=1) as relay, open_unreachable(PROVIDER, relay) as node:
        client = node._relay_client
        held = client._held[relay.peer_id]
        assert 1700 < held.renew_at - trio.current_time() <= 1800
        held.renew_at = trio.current_time()
        client._wake.set()
        await polled(lambda: relay.counters()["relay_reservations"] == 2)
        await polled(lambda: client._held[relay.peer_id] is not held)
        assert relay._relay_server.reservations() == (node.peer_id,)


@pytest.mark.parametrize("hours_wrong", [-1, 1])
async def test_a_clock_an_hour_wrong_costs_renewals_only(hours_wrong: int) -> None:
    async with open_relay() as relay:
        relay._relay_server._unix_s = lambda: 1_700_000_000
        async with open_node(PROVIDER, listen=[]) as node:
            node._relay_client._unix_s = lambda: 1_700_000_000 + 3600 * hours_wrong
            hold_relays(node)
            await node.connect(relay.peer_id, relay.addresses())
            await polled(lambda: node._relay_client.relays() == (relay.peer_id,))
            left = node._relay_client._held[relay.peer_id].renew_at - trio.current_time()
            assert 50 < left <= 1800


async def test_what_is_no_longer_needed_is_given_up() -> None:
    async with open_relay() as relay, open_unreachable(PROVIDER, relay) as node:
        RelayClient.set_needed(node._relay_client, False)
        assert node._relay_client.addresses() == ()


async def test_the_data_limit_ends_a_circuit() -> None:
    async with three(circuit_bytes=300_000) as (relay, provider, client):
        stream = await client.open_stream(provider.peer_id, ECHO)
        with pytest.raises(TransportError):
            for _ in range(10):
                await stream.send(os.urandom(50_000))
                await stream.receive()
        assert relay.counters()["relay_circuit_over_data_limit"] == 1
        assert relay.counters()["relay_bytes"] <= 600_000


async def test_the_time_limit_ends_a_circuit() -> None:
    async with three(circuit_s=0.5) as (relay, provider, client):
        stream = await client.open_stream(provider.peer_id, ECHO)
        with pytest.raises(TransportError):
            await stream.receive()
        assert relay.counters()["relay_circuit_over_time_limit"] == 1


async def test_circuits_of_one_peer_are_bounded() -> None:
    async with three(circuits_per_peer=1) as (relay, provider, _), open_node(4, listen=[]) as second:
        with pytest.raises(TransportError, match="the relay is full"):
            await second.connect(provider.peer_id, provider._relay_client.addresses())
        # Not once: its DHT, which is told of the provider by the relay, may have tried it, too.
        assert relay.counters()["relay_refused_resource_limit_exceeded"] >= 1
        assert relay._relay_server.circuits == relay.counters()["relay_circuits"] == 1


async def test_a_reader_that_stops_holds_up_its_writer_and_fills_nothing() -> None:
    """Nor does it hold up another stream of the same relayed connection."""
    async with three() as (_, provider, client):
        stalled = trio.Event()

        async def sink(stream: Stream) -> None:
            await stalled.wait()

        provider.set_handler("/test/sink/1", sink)
        stuck = await client.open_stream(provider.peer_id, "/test/sink/1")
        piece = os.urandom(500_000)
        with trio.move_on_after(0.5) as patience:
            while True:
                await stuck.send(piece)
        assert patience.cancelled_caught
        other = await client.open_stream(provider.peer_id, ECHO)
        await other.send(b"still there?")
        assert await other.receive() == b"still there?"
        link = client._switch.link(provider.peer_id)
        assert link is not None and link.connection.bytes_sent < 20_000_000


async def test_nothing_is_relayed_over_a_relayed_connection() -> None:
    async with three() as (_, provider, client):
        provider._relay_server.set_enabled(True)
        for request in (encode(HopMessage(type=HopMessage.RESERVE)), hop_connect(client.peer_id)):
            stream = await client._streams.open_raw(provider.peer_id, HOP)
            await stream.write(request)
            assert (await read_hop(stream)).status == circuit_pb2.PERMISSION_DENIED
        assert provider._relay_server.reservations() == ()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x03\xff\xff\xff", circuit_pb2.MALFORMED_MESSAGE),
        (encode(HopMessage(type=HopMessage.CONNECT)), circuit_pb2.MALFORMED_MESSAGE),
        (encode(HopMessage(type=HopMessage.STATUS)), circuit_pb2.UNEXPECTED_MESSAGE),
    ],
)
async def test_nonsense_is_answered(request_: bytes, status: int) -> None:
    async with open_relay() as relay, open_node(CLIENT) as client:
        await client.connect(relay.peer_id, relay.addresses())
        stream = await client._streams.open_raw(relay.peer_id, HOP)
        await stream.write(request_)
        assert (await read_hop(stream)).status == status


async def test_circuits_come_in_only_from_relays_that_hold_a_place() -> None:
    """Anybody could send us strangers otherwise, under an address of his choice."""
    async with open_node(RELAY) as stranger, open_node(PROVIDER) as node:
        await stranger.connect(node.peer_id, node.addresses())
        stream = await stranger._streams.open_raw(node.peer_id, STOP)
        await stream.write(stop_connect(stranger.peer_id, RelayLimits().message()))
        assert (await read_stop(stream)).status == circuit_pb2.PERMISSION_DENIED
        assert node.counters()["relay_circuit_refused"] == 1


async def test_a_relay_that_says_nothing_does_not_hold_us() -> None:
    """Dialling through it fails in time, and the peer behind it can be dialled another way at the same time."""
    async with open_node(RELAY) as mute, open_node(PROVIDER) as provider, open_node(CLIENT) as client:
        mute._streams.set_internal(HOP, say_nothing)
        provider.set_handler(ECHO, echo)
        through = f"{mute.addresses()[0]}/p2p/{mute.peer_id}/p2p-circuit"
        with trio.fail_after(4):
            await client.connect(provider.peer_id, [through, *provider.addresses()])


async def test_several_addresses_of_a_relay_are_one_circuit() -> None:
    async with (
        open_relay() as relay,
        open_unreachable(PROVIDER, relay) as provider,
        open_node(CLIENT, listen=[]) as client,
    ):
        port = relay.addresses()[0].rpartition("/")[2]
        hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "localhost")
        kinds = ("ip4", "ip4", "ip4", "dns4")
        through = [
            f"/{kind}/{host}/tcp/{port}/p2p/{relay.peer_id}/p2p-circuit"
            for kind, host in zip(kinds, hosts, strict=True)
        ]
        await client.connect(provider.peer_id, through)
        assert relay.counters()["relay_circuits"] == 1
        assert len(relay._switch.links_of(client.peer_id)) == 1


async def test_relays_behind_each_other_are_given_up_at_once() -> None:
    async with open_node(1) as one, open_node(2) as two, open_node(CLIENT) as client:
        nowhere = "/ip4/127.0.0.1/tcp/9"
        client._switch.book.add(one.peer_id, [f"{nowhere}/p2p/{two.peer_id}/p2p-circuit"])
        client._switch.book.add(two.peer_id, [f"{nowhere}/p2p/{one.peer_id}/p2p-circuit"])
        with trio.fail_after(2), pytest.raises(TransportError):
            await client.connect(one.peer_id, [])
        assert not client._relay_client._dialled_relays


async def test_a_reservation_ends_without_renewal() -> None:
    async with open_relay(reservation_s=0.05) as relay, open_unreachable(PROVIDER, relay) as provider:
        await polled(lambda: not relay._relay_server.reservations())
        async with open_node(CLIENT, listen=[]) as client:
            with pytest.raises(TransportError, match="the peer holds no reservation at that relay"):
                await client.connect(provider.peer_id, provider._relay_client.addresses())
        link = relay._switch.link(provider.peer_id)
        assert link is not None and not link.is_protected


async def test_one_subnet_gets_few_places() -> None:
    async with open_relay(reservations=5, reservations_per_subnet=2) as relay:
        server = relay._relay_server
        peers = [peer_id_from_public_key(bytes([i]) * 32) for i in range(8)]
        for peer in peers[:2]:
            server._places[peer] = _Place(origin_of_host("45.90.0.1"), trio.current_time() + 60)
        assert not server._has_room(peers[2], origin_of_host("45.90.0.200"))
        assert server._has_room(peers[0], origin_of_host("45.90.0.1")), "a renewal"
        assert server._has_room(peers[2], origin_of_host("45.90.1.1"))
        for peer in peers[2:5]:
            server._places[peer] = _Place(origin_of_host("127.0.0.1"), trio.current_time() + 60)
        assert not server._has_room(peers[5], origin_of_host("127.0.0.1")), "five in all"


async def test_a_cancelled_send_goes_on_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of an encrypted message would be the end of the connection."""
    received = bytearray()
    go_on = trio.Event()

    async def read_late(stream: MuxStream) -> None:
        await go_on.wait()
        while data := await stream.read(1 << 20):
            received.extend(data)

    async with open_node(PROVIDER) as node, open_node(CLIENT) as client:
        node._streams.set_internal("/test/late/1", read_late)
        await client.connect(node.peer_id, node.addresses())
        pipe = CircuitPipe(await client._streams.open_raw(node.peer_id, "/test/late/1"), "/ip4/127.0.0.1/tcp/1")
        data = os.urandom(3_000_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipe.send_all, data)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
            go_on.set()
        await polled(lambda: bytes(received) == data)

        monkeypatch.setattr(circuit_pipe, "SEND_FINISH_TIMEOUT_S", 0.05)
        go_on = trio.Event()
        pipe = CircuitPipe(await client._streams.open_raw(node.peer_id, "/test/late/1"), "/ip4/127.0.0.1/tcp/1")
        with trio.move_on_after(0.05):
            await pipe.send_all(data)
        with pytest.raises(TransportError):  # given up whole
            await pipe.send_all(b"more")


async def test_hole_punching_is_for_relayed_connections_only() -> None:
    """Else anybody could have us dial where he likes."""
    async with open_node(RELAY) as stranger, open_node(PROVIDER) as node:
        await stranger.connect(node.peer_id, node.addresses())
        stream = await stranger._streams.open_raw(node.peer_id, DCUTR)
        with pytest.raises(TransportError):
            await stream.read_exactly(1)
