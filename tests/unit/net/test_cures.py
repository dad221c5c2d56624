"""Each fault of the library, provoked with real sockets. What is to be seen is that nothing happens."""

from __future__ import annotations

import gc
import importlib.metadata
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
from libp2p.peer.id import ID
from net_nodes import assert_serves, open_node, raw_socket, seed_of

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.ids import peer_id_to_bytes
from cocoon_p2p.limits import HANDSHAKES_PER_ADDRESS_MAX, STREAM_WINDOW_BYTES_MAX
from cocoon_p2p.net import multistream
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.libp2p_cures import CURES, LIBRARY_VERSION
from cocoon_p2p.net.port import PeerDisconnected, Stream
from cocoon_p2p.net.switch import switch
from cocoon_p2p.net.switch.upgrade import SocketConnection, Upgrader, _Line
from cocoon_p2p.net.yamux import muxer
from cocoon_p2p.testing.net_contract import ECHO, SINK, echo

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Libp2pNetwork, Libp2pNetwork]]:
    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        yield server, client


def test_the_version_is_the_one_that_was_examined() -> None:
    assert importlib.metadata.version("libp2p") == LIBRARY_VERSION


def test_each_cure_has_its_tests() -> None:
    files = [*(ROOT / "tests" / "unit" / "net").glob("test_*.py"), ROOT / "src/cocoon_p2p/testing/net_contract.py"]
    present = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    wanted = {name for cure in CURES for name in cure.tests}
    assert wanted <= present, wanted - present


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0", "/yamux/1.0.0"])
async def test_only_noise_is_accepted(protocol: str) -> None:
    async with open_node(1) as server, raw_socket(server) as stream:
        line = _Line(SocketConnection(stream, is_initiator=True, address=""))
        with pytest.raises(TransportError) as caught:
            await multistream.propose(line, protocol)
        assert caught.value.code == "UNKNOWN_PROTOCOL"


async def test_only_yamux_is_accepted() -> None:
    async with open_node(1) as server, open_node(2) as client, raw_socket(server) as stream:
        noise = Upgrader.from_seed(client.peer_id, seed_of(2)).noise
        raw = SocketConnection(stream, is_initiator=True, address="")
        await multistream.propose(_Line(raw), "/noise")
        secure = await noise.secure_outbound(raw, ID(peer_id_to_bytes(server.peer_id)))
        with pytest.raises(TransportError) as caught:
            await multistream.propose(_Line(secure), "/mplex/6.7.0")
        assert caught.value.code == "UNKNOWN_PROTOCOL"


async def test_a_listener_that_offers_plaintext_is_not_spoken_to() -> None:
    """An attacker with the victim's public key alone: py-libp2p's own client would speak plaintext with it."""
    heard = bytearray()

    async def attacker(stream: trio.SocketStream) -> None:
        line = _Line(SocketConnection(stream, is_initiator=False, address=""))
        async with stream:
            await stream.send_all(multistream.encode_prefixed(multistream.HEADER))
            heard.extend(await multistream.read_prefixed(line, 1024))
            heard.extend(await multistream.read_prefixed(line, 1024))
            await stream.send_all(multistream.encode_prefixed(b"na\n"))
            heard.extend(await stream.receive_some())

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_node(1) as client, open_node(2) as victim, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, attacker, [listener])
        with pytest.raises(TransportError, match="does not speak /noise"):
            await client.connect(victim.peer_id, [f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"])
        nursery.cancel_scope.cancel()
    assert bytes(heard) == b"/multistream/1.0.0\n/noise\n"


async def test_inbound_places_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "CONNECTIONS_MAX", 3)
    async with open_node(1) as server:
        server.set_handler(ECHO, echo)
        for number in range(10):
            await assert_serves(server, 10 + number)
        assert server.peers() == ()


async def test_a_group_of_failures_harms_one_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(stream: Stream) -> None:
        await stream.receive()

        async def task(error: Exception) -> None:
            raise error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, ValueError("one"))
            nursery.start_soon(task, KeyError("two"))

    async with pair() as (server, client):
        server.set_handler(SINK, fail)
        stream = await client.open_stream(server.peer_id, SINK)
        await stream.send(b"x")
        with pytest.raises(TransportError):
            await stream.receive()
        await assert_serves(server)
        assert server.counters()["handler_failed"] == 1
    assert "ValueError: one" in caplog.text


@pytest.mark.parametrize("name", [b"\xff\xfe\xfd\n", b"\n", b"", b"/" + b"x" * 1022 + b"\n", b"no newline"])
async def test_a_protocol_name_that_is_not_utf8(name: bytes) -> None:
    async with pair() as (server, client):
        link = client._switch.link(server.peer_id)
        assert link is not None
        stream = await link.connection.open_stream()
        await stream.write(multistream.encode_prefixed(multistream.HEADER) + multistream.encode_prefixed(name))
        assert await multistream.read_prefixed(stream, 1024) == multistream.HEADER
        assert await multistream.read_prefixed(stream, 1024) == b"na\n"
        await assert_serves(server)


async def test_garbage_instead_of_negotiation_harms_one_stream() -> None:
    async with pair() as (server, client):
        link = client._switch.link(server.peer_id)
        assert link is not None
        for garbage in (
            b"\xff" * 40,
            b"\x00" * 40,
            multistream.encode_varint(1 << 40) + b"x" * 40,
            b"GET / HTTP/1.1\r\n" * 9,
        ):
            stream = await link.connection.open_stream()
            await stream.write(garbage)
            with pytest.raises(TransportError):
                while await stream.read(100):
                    pass
        await assert_serves(server)
        assert server.counters()["negotiation_failed"] >= 4


async def test_a_peer_that_ignores_the_window() -> None:
    reading = trio.Event()

    async def never_reads(stream: Stream) -> None:
        reading.set()
        await trio.sleep_forever()

    async with pair() as (server, client):
        server.set_handler(SINK, never_reads)
        framed = await client.open_stream(server.peer_id, SINK)
        await reading.wait()
        raw = framed._raw  # type: ignore[attr-defined]
        for _ in range(3 * STREAM_WINDOW_BYTES_MAX // 1024**2):
            raw._stream.send_window = 1 << 30
            await raw.write(bytes(1024**2))
        await assert_serves(server)  # everything before it was read from the socket
        buffers = [buffer for buffer in gc.get_objects() if isinstance(buffer, muxer._BoundedBuffer)]
        assert 0 < max(map(len, buffers)) <= STREAM_WINDOW_BYTES_MAX


@pytest.mark.slow
async def test_a_reader_may_be_idle_for_long() -> None:
    received = 0

    async def slow(stream: Stream) -> None:
        nonlocal received
        await trio.sleep(6)  # the library gives the writer up after 5
        while True:
            received += len(await stream.receive())
            await stream.send(b"%d" % received)

    async with pair() as (server, client):
        server.set_handler(SINK, slow)
        stream = await client.open_stream(server.peer_id, SINK)
        await stream.send(*[bytes(1024**2)] * 4)
        assert [int(await stream.receive()) for _ in range(4)][-1] == 4 * 1024**2


async def test_silent_sockets_are_capped_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "HANDSHAKE_TIMEOUT_S", 0.3)
    async with open_node(1) as server, AsyncExitStack() as sockets:
        server.set_handler(ECHO, echo)
        silent = [await sockets.enter_async_context(raw_socket(server)) for _ in range(HANDSHAKES_PER_ADDRESS_MAX)]
        for stream in silent:
            assert await stream.receive_some()  # greeted: it is being served
        async with raw_socket(server) as one_more:
            assert await one_more.receive_some() == b""  # closed at once
        assert server.counters()["inbound_refused"] == 1
        for stream in silent:
            assert await stream.receive_some() == b""
        assert server.counters()["handshake_failed"] == HANDSHAKES_PER_ADDRESS_MAX
        await assert_serves(server)


async def test_a_frozen_peer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "KEEPALIVE_INTERVAL_S", 0.1)
    async with (
        open_node(1) as server,
        open_node(2) as client,
        server.events() as events,
        raw_socket(server) as stream,
    ):
        upgrader = Upgrader.from_seed(client.peer_id, seed_of(2))
        await upgrader.upgrade_outbound(stream, "/ip4/127.0.0.1/tcp/1", server.peer_id)  # and never run
        await anext(events)
        assert await anext(events) == PeerDisconnected(client.peer_id)
        assert server.peers() == ()


async def test_keepalive_measures_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(muxer, "KEEPALIVE_INTERVAL_S", 0.05)
    async with pair() as (server, client):
        await trio.sleep(0.4)  # several intervals in which an unanswered ping would end it
        (peer,) = client.peers()
        assert peer.latency_s is not None and 0 < peer.latency_s < 0.4
        assert server.counters()["connection_failed"] == 0


async def test_a_port_in_use_is_said() -> None:
    async with open_node(1) as server:
        with pytest.raises(ConfigError, match="address already in use") as caught:
            async with open_node(2, listen=[server.addresses()[0]]):
                pass
        assert caught.value.code == "ADDRESS_IN_USE"


async def test_a_port_in_use_by_the_library_is_said() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="address already in use"):
            async with open_node(1, listen=[f"/ip4/127.0.0.1/tcp/{other.getsockname()[1]}"]):
                pass


@pytest.mark.parametrize("address", ["/ip4/127.0.0.1/udp/0/quic-v1", "127.0.0.1:4001", "/ip4/300.0.0.1/tcp/1"])
async def test_an_address_that_is_none_is_said(address: str) -> None:
    with pytest.raises(ConfigError):
        async with open_node(1, listen=[address]):
            pass


async def test_listeners_close_with_the_network() -> None:
    with trio.CancelScope() as scope:
        async with open_node(1) as server:
            addresses = server.addresses()
            scope.cancel()
            await trio.lowlevel.checkpoint()
    async with open_node(2) as client:
        with pytest.raises(TransportError, match="Connection refused"):
            await client.connect(server.peer_id, addresses)
    async with open_node(1, listen=addresses):
        pass


async def test_only_our_own_dht_is_offered() -> None:
    async with pair() as (server, client):
        link = client._switch.link(server.peer_id)
        assert link is not None
        await link.identified.wait()
        assert {name for name in link.protocols if "kad" in name} == {"/cocoon/kad/1.0.0"}
        assert link.agent == "test/1"
        for protocol in ("/ipfs/kad/1.0.0", "/ipfs/lan/kad/1.0.0"):
            with pytest.raises(TransportError):
                await client.open_stream(server.peer_id, protocol)


async def test_dialling_does_not_wait() -> None:
    times = []
    async with open_node(1) as server:
        for number in range(2, 6):
            async with open_node(number) as client:
                begin = trio.current_time()
                await client.connect(server.peer_id, server.addresses())
                times.append(trio.current_time() - begin)
    assert min(times) < 0.2, "the library's head start of 250 ms is back"


async def test_cancelled_sends_do_not_harm_the_connection() -> None:
    go_on = trio.Event()

    async def reluctant(stream: Stream) -> None:
        await go_on.wait()

    async with pair() as (server, client):
        server.set_handler(SINK, reluctant)
        bystander = await client.open_stream(server.peer_id, ECHO)
        for patience_s in (0, 0.0001, 0.001, 0.005, 0.02, 0.05):
            stream = await client.open_stream(server.peer_id, SINK)
            with trio.move_on_after(patience_s):
                await stream.send(*[bytes(1024**2)] * 8)
            if patience_s:
                with pytest.raises(TransportError):  # half a frame is out: this stream is over
                    await stream.send(b"x")
            await bystander.send(b"still in step")
            assert await bystander.receive() == b"still in step"
        go_on.set()


async def test_what_was_sent_before_the_end_can_be_read() -> None:
    sent = trio.Event()

    async def last_words(stream: Stream) -> None:
        await stream.send(bytes(100_000), b"last words")
        await stream.aclose()
        sent.set()

    async with open_node(2) as client, client.events() as events:
        async with open_node(1) as server:
            server.set_handler(SINK, last_words)
            await client.connect(server.peer_id, server.addresses())
            stream = await client.open_stream(server.peer_id, SINK)
            await sent.wait()
        async for event in events:
            if isinstance(event, PeerDisconnected):
                break
        assert [len(await stream.receive()), await stream.receive()] == [100_000, b"last words"]
