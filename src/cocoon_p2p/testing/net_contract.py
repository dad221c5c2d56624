"""What every `Network` does: tests that the simulated and the real one both pass, and that yours can.

    class TestMine(NetworkContract):
        @pytest.fixture
        def harness(self) -> NetworkHarness: ...

Needs pytest and pytest-trio (`trio_mode = true`).
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import MappingProxyType
from typing import Protocol

import pytest
import trio

from cocoon_p2p.errors import CocoonError, EndOfStream, LocalProtocolError, RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import FRAME_BYTES_MAX, GOSSIP_MESSAGE_BYTES_MAX
from cocoon_p2p.net.port import Network, PeerConnected, PeerDisconnected, RecordValidator, Stream

ECHO, SINK, FAULTY = "/test/echo/1", "/test/sink/1", "/test/faulty/1"
KEY = "/test-records/one"
CONTENT = hashlib.sha256(b"some content").digest()
TOPIC = "/test/topic/1"
PATIENCE_S = 60.0
"""Far beyond what any test takes, ten thousand connections on a machine with other work included: only one that hangs meets it."""
_REPEAT_S = 0.05


class NetworkHarness(Protocol):
    """How the suite makes networks of one kind."""

    def open(
        self,
        number: int,
        *,
        bootstrap: Sequence[str] = (),
        validators: Mapping[str, RecordValidator] = MappingProxyType({}),
    ) -> AbstractAsyncContextManager[Network]:
        """A network that listens, under the `number`-th identity."""


def numbered(key: str, value: bytes) -> int:
    """A validator: b"<sequence number>:<anything>"."""
    head, _, _ = value.partition(b":")
    if not head.isdigit():
        raise RemoteProtocolError("no sequence number", code="MALFORMED")
    return int(head)


VALIDATORS: Mapping[str, RecordValidator] = MappingProxyType({"test-records": numbered})


def full_addresses(network: Network) -> list[str]:
    """With /p2p/, as `bootstrap` wants them."""
    return [f"{address}/p2p/{network.peer_id}" for address in network.addresses()]


async def echo(stream: Stream) -> None:
    while True:
        await stream.send(await stream.receive())


@asynccontextmanager
async def connected_pair(harness: NetworkHarness) -> AsyncIterator[tuple[Network, Network]]:
    """A server that echoes, and a client that is connected to it."""
    with trio.fail_after(PATIENCE_S):
        async with harness.open(1) as server, harness.open(2) as client:
            server.set_handler(ECHO, echo)
            await client.connect(server.peer_id, server.addresses())
            yield server, client


@asynccontextmanager
async def three_nodes(harness: NetworkHarness) -> AsyncIterator[tuple[Network, Network, Network]]:
    """A bootstrap node, and two that know nobody else."""
    with trio.fail_after(PATIENCE_S):
        async with harness.open(1, validators=VALIDATORS) as first:
            known = full_addresses(first)
            async with (
                harness.open(2, bootstrap=known, validators=VALIDATORS) as second,
                harness.open(3, bootstrap=known, validators=VALIDATORS) as third,
            ):
                yield first, second, third


class Connections:
    async def test_connect_and_events(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(1) as server, harness.open(2) as client, server.events() as events:
                await client.connect(server.peer_id, server.addresses())
                assert await anext(events) == PeerConnected(client.peer_id)
                (there,) = client.peers()
                assert (there.peer, there.direction) == (server.peer_id, "outbound")
                (back,) = server.peers()
                assert (back.peer, back.direction) == (client.peer_id, "inbound")
                await client.disconnect(server.peer_id)
                assert client.peers() == ()
                assert await anext(events) == PeerDisconnected(client.peer_id)

    async def test_another_peer_at_the_address_is_refused(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(1) as server, harness.open(2) as client, harness.open(3) as absent:
                with pytest.raises(TransportError) as caught:
                    await client.connect(absent.peer_id, server.addresses())
                assert server.addresses()[0] in str(caught.value)
                assert client.peers() == ()

    async def test_unreachable_addresses_are_each_named(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(1) as client, harness.open(2) as gone:
                peer = gone.peer_id
                addresses = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2", "/unix/nonsense"]
                with pytest.raises(TransportError) as caught:
                    await client.connect(peer, addresses)
                assert all(address in str(caught.value) for address in addresses)
                assert caught.value.outcome_known

    async def test_a_dial_at_one_address_alone(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(1) as server, harness.open(2) as client, harness.open(3) as absent:
                await client.try_dial(server.peer_id, server.addresses()[0])
                assert client.peers() == ()
                for peer, address in (
                    (server.peer_id, "/ip4/127.0.0.1/tcp/1"),
                    (absent.peer_id, server.addresses()[0]),
                    (server.peer_id, "/unix/nonsense"),
                ):
                    with pytest.raises(TransportError):
                        await client.try_dial(peer, address)

    async def test_a_peer_without_known_address(self, harness: NetworkHarness) -> None:
        async with harness.open(1) as client, harness.open(2) as stranger:
            with trio.fail_after(PATIENCE_S), pytest.raises(TransportError):
                await client.open_stream(stranger.peer_id, ECHO)

    async def test_a_lost_connection_is_dialled_again(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            await client.disconnect(server.peer_id)
            stream = await client.open_stream(server.peer_id, ECHO)
            await stream.send(b"again")
            assert await stream.receive() == b"again"

    async def test_ban(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client), client.events() as events:
            server.ban(client.peer_id, 60.0)
            assert await anext(events) == PeerDisconnected(server.peer_id)
            with pytest.raises(TransportError):
                await server.connect(client.peer_id, client.addresses())
            with pytest.raises(TransportError):
                stream = await client.open_stream(server.peer_id, ECHO)
                await stream.send(b"let me in")
                await stream.receive()

    async def test_closing_one_network_ends_the_others_streams(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(2) as client:
                async with harness.open(1) as server:
                    server.set_handler(ECHO, echo)
                    await client.connect(server.peer_id, server.addresses())
                    stream = await client.open_stream(server.peer_id, ECHO)
                    await stream.send(b"here")
                    assert await stream.receive() == b"here"
                with pytest.raises(TransportError) as caught:
                    await stream.receive()
                assert not isinstance(caught.value, EndOfStream)
                with pytest.raises(TransportError):
                    await client.connect(server.peer_id, server.addresses())


class Streams:
    async def test_frames_both_ways_in_order(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            stream = await client.open_stream(server.peer_id, ECHO)
            assert (stream.peer, stream.protocol) == (server.peer_id, ECHO)
            frames = [bytes([i % 256]) * (1 + i * 37) for i in range(200)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, *frames[:100])
                received = [await stream.receive() for _ in range(100)]
                nursery.start_soon(stream.send, *frames[100:])
                received += [await stream.receive() for _ in range(100)]
            assert received == frames

    async def test_the_handler_sees_who_asks(self, harness: NetworkHarness) -> None:
        seen: list[tuple[PeerId, str]] = []

        async def handler(stream: Stream) -> None:
            seen.append((stream.peer, stream.protocol))

        async with connected_pair(harness) as (server, client):
            server.set_handler(SINK, handler)
            stream = await client.open_stream(server.peer_id, SINK)
            with pytest.raises(EndOfStream):
                await stream.receive()
            assert seen == [(client.peer_id, SINK)]

    async def test_the_largest_frame(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            stream = await client.open_stream(server.peer_id, ECHO)
            frame = hashlib.shake_128(b"frame").digest(FRAME_BYTES_MAX)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send, memoryview(frame))
                assert await stream.receive() == frame

    @pytest.mark.parametrize("size", [0, FRAME_BYTES_MAX + 1])
    async def test_frames_out_of_bounds_are_our_fault(self, harness: NetworkHarness, size: int) -> None:
        async with connected_pair(harness) as (server, client):
            stream = await client.open_stream(server.peer_id, ECHO)
            with pytest.raises(LocalProtocolError):
                await stream.send(b"fine", bytes(size))
            await stream.send(b"still usable, and nothing was sent")
            assert await stream.receive() == b"still usable, and nothing was sent"

    async def test_frames_of_one_send_stay_together(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            stream = await client.open_stream(server.peer_id, ECHO)
            async with trio.open_nursery() as nursery:
                for task in range(8):
                    nursery.start_soon(stream.send, *[b"%d" % task + bytes(70_000)] * 3)
                received = [bytes((await stream.receive())[:1]) for _ in range(24)]
            runs = [received[i : i + 3] for i in range(0, 24, 3)]
            assert sorted(runs) == [[b"%d" % task] * 3 for task in range(8)]

    async def test_many_streams_at_once(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):

            async def talk(number: int) -> None:
                stream = await client.open_stream(server.peer_id, ECHO)
                for i in range(5):
                    frame = b"%d/%d" % (number, i)
                    await stream.send(frame)
                    assert await stream.receive() == frame
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(talk, number)

    async def test_a_reader_that_stops_stops_the_writer(self, harness: NetworkHarness) -> None:
        go_on = trio.Event()
        total = 0
        done = trio.Event()

        async def slow(stream: Stream) -> None:
            nonlocal total
            await go_on.wait()
            try:
                while True:
                    total += len(await stream.receive())
            except EndOfStream:
                done.set()

        async with connected_pair(harness) as (server, client):
            server.set_handler(SINK, slow)
            stream = await client.open_stream(server.peer_id, SINK)
            sent = 0
            frame = bytes(1024 * 1024)

            async def send_all() -> None:
                nonlocal sent
                for _ in range(48):
                    await stream.send(frame)
                    sent += 1
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_all)
                await trio.sleep(0.3)  # time in which it could send far more than it may
                assert sent <= 16
                go_on.set()
            await done.wait()
            assert total == 48 * len(frame)

    async def test_a_clean_end(self, harness: NetworkHarness) -> None:
        async def three(stream: Stream) -> None:
            await stream.send(b"1", b"2", b"3")

        async with connected_pair(harness) as (server, client):
            server.set_handler(SINK, three)
            stream = await client.open_stream(server.peer_id, SINK)
            assert [await stream.receive() for _ in range(3)] == [b"1", b"2", b"3"]
            for _ in range(2):  # and it stays ended
                with pytest.raises(EndOfStream):
                    await stream.receive()
            await stream.aclose()
            await stream.aclose()
            with pytest.raises(TransportError):
                await stream.send(b"after the end")

    async def test_a_reset_is_no_clean_end(self, harness: NetworkHarness) -> None:
        async def cut(stream: Stream) -> None:
            await stream.send(b"half of it")
            await stream.receive()
            await stream.reset()
            await stream.reset()

        async with connected_pair(harness) as (server, client):
            server.set_handler(SINK, cut)
            stream = await client.open_stream(server.peer_id, SINK)
            assert await stream.receive() == b"half of it"
            await stream.send(b"go on")
            with pytest.raises(TransportError) as caught:
                await stream.receive()
            assert not isinstance(caught.value, EndOfStream)
            assert not caught.value.outcome_known

    async def test_an_unknown_protocol(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            with pytest.raises(TransportError) as caught:
                await client.open_stream(server.peer_id, "/test/nobody-speaks-this/1")
            assert caught.value.code == "UNKNOWN_PROTOCOL"
            assert caught.value.outcome_known
            await client.open_stream(server.peer_id, ECHO)  # the connection lives

    async def test_a_failing_handler_harms_its_stream_alone(self, harness: NetworkHarness) -> None:
        async def fail(stream: Stream) -> None:
            await stream.receive()
            raise KeyError("a bug in a handler")

        async with connected_pair(harness) as (server, client):
            server.set_handler(FAULTY, fail)
            bystander = await client.open_stream(server.peer_id, ECHO)
            stream = await client.open_stream(server.peer_id, FAULTY)
            await stream.send(b"x")
            with pytest.raises(TransportError):
                await stream.receive()
            await bystander.send(b"I live")
            assert await bystander.receive() == b"I live"
            assert server.counters()["handler_failed"] == 1

    async def test_too_many_streams_is_an_error_not_a_wait(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            streams = []
            with pytest.raises(TransportError) as caught:
                for _ in range(1000):
                    streams.append(await client.open_stream(server.peer_id, ECHO))
            assert caught.value.code == "TOO_MANY_STREAMS"
            assert len(streams) >= 32
            await streams[-1].aclose()
            await streams[-2].reset()
            again = await client.open_stream(server.peer_id, ECHO)
            await again.send(b"room")
            assert await again.receive() == b"room"

    async def test_a_cancelled_receive_loses_nothing(self, harness: NetworkHarness) -> None:
        async with connected_pair(harness) as (server, client):
            stream = await client.open_stream(server.peer_id, ECHO)
            for i in range(20):
                with trio.move_on_after(0):
                    await stream.receive()
                await stream.send(b"%d" % i)
            assert [await stream.receive() for _ in range(20)] == [b"%d" % i for i in range(20)]


class DhtAndGossip:
    async def test_a_record_reaches_a_node_that_just_came(self, harness: NetworkHarness) -> None:
        async with three_nodes(harness) as (_, second, third):
            await second.dht_put(KEY, b"1:first")
            assert await third.dht_get(KEY) == b"1:first"
            assert await third.dht_get("/test-records/nobody-wrote-this") is None

    async def test_the_higher_sequence_number_wins(self, harness: NetworkHarness) -> None:
        async with three_nodes(harness) as (_, second, third):
            await second.dht_put(KEY, b"2:new")
            await second.dht_put(KEY, b"2:new")  # publishing again is no error
            with pytest.raises(CocoonError):
                await second.dht_put(KEY, b"old, and not valid")
            await second.dht_put(KEY, b"10:newest")
            assert await third.dht_get(KEY) == b"10:newest"
            assert await second.dht_get(KEY) == b"10:newest"

    async def test_a_namespace_without_validator_is_refused(self, harness: NetworkHarness) -> None:
        async with three_nodes(harness) as (_, second, __):
            for key in ("/unknown/one", "no slash", "/test-records/ünicode"):
                with pytest.raises(LocalProtocolError):
                    await second.dht_put(key, b"1:x")

    async def test_alone_nobody_takes_a_record(self, harness: NetworkHarness) -> None:
        with trio.fail_after(PATIENCE_S):
            async with harness.open(1, validators=VALIDATORS) as alone:
                with pytest.raises(TransportError):
                    await alone.dht_put(KEY, b"1:x")
                assert await alone.dht_get(KEY) == b"1:x"
                with pytest.raises(TransportError):
                    await alone.provide(CONTENT)

    async def test_providers_are_found_and_can_be_reached(self, harness: NetworkHarness) -> None:
        async with three_nodes(harness) as (first, second, third):
            second.set_handler(ECHO, echo)
            await second.provide(CONTENT)
            await third.provide(CONTENT)
            (found,) = await third.find_providers(CONTENT, 10)  # not itself
            assert found.peer == second.peer_id
            assert set(found.addresses) >= set(second.addresses())
            assert {hint.peer for hint in await first.find_providers(CONTENT, 10)} == {second.peer_id, third.peer_id}
            assert len(await first.find_providers(CONTENT, 1)) == 1
            assert await third.find_providers(hashlib.sha256(b"other").digest(), 10) == ()
            stream = await third.open_stream(second.peer_id, ECHO)  # by the addresses that the DHT told
            await stream.send(b"found you")
            assert await stream.receive() == b"found you"

    async def test_gossip_is_heard_and_rejected(self, harness: NetworkHarness) -> None:
        async with three_nodes(harness) as (first, second, third):

            def polite(author: PeerId, data: bytes) -> bool:
                if data == b"bug":
                    raise ValueError("a bug in a validator")
                return data != b"rude"

            async def repeat() -> None:
                while True:  # nothing is promised, least of all before the topic's mesh has formed
                    for data in (b"rude", b"bug", b"polite"):
                        await second.publish(TOPIC, data)
                    await trio.sleep(_REPEAT_S)

            async with (
                first.subscribe(TOPIC, polite) as one,
                third.subscribe(TOPIC, polite) as other,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(repeat)
                for heard in (one, other):
                    assert [await anext(heard) for _ in range(2)] == [(second.peer_id, b"polite")] * 2
                nursery.cancel_scope.cancel()
            assert first.counters()["gossip_rejected"] >= 2
            assert first.counters()["gossip_validator_failed"] >= 1

    async def test_gossip_is_not_heard_by_its_author(self, harness: NetworkHarness) -> None:
        async def repeat(network: Network, data: bytes) -> None:
            while True:
                await network.publish(TOPIC, data)
                await trio.sleep(_REPEAT_S)

        async with (
            three_nodes(harness) as (first, second, _),
            first.subscribe(TOPIC, lambda *_: True) as ours,
            second.subscribe(TOPIC, lambda *_: True) as theirs,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(repeat, first, b"of the first")
            nursery.start_soon(repeat, second, b"of the second")
            assert {(await anext(ours))[1] for _ in range(3)} == {b"of the second"}
            assert {(await anext(theirs))[1] for _ in range(3)} == {b"of the first"}
            nursery.cancel_scope.cancel()

    async def test_oversized_gossip_is_our_fault(self, harness: NetworkHarness) -> None:
        async with harness.open(1) as network:
            with pytest.raises(LocalProtocolError):
                await network.publish(TOPIC, bytes(GOSSIP_MESSAGE_BYTES_MAX + 1))


class NetworkContract(Connections, Streams, DhtAndGossip):
    """All of it."""
