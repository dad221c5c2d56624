"""Each fault of the library, provoked with real sockets. What is to be seen is that nothing happens."""

from __future__ import annotations

import importlib.metadata
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from net_nodes import assert_serves, ends, open_node, peer_of, polled, raw_pipe, seed_of

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.limits import HANDSHAKES_FROM_LOOPBACK_MAX
from cocoon_p2p.net import multistream
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.libp2p_cures import CONCESSIONS, CURES, LIBRARY_VERSION
from cocoon_p2p.net.noise.agreement import HandshakeLine, NoiseInitiator, SessionLine
from cocoon_p2p.net.noise.identity import NoiseIdentity
from cocoon_p2p.net.port import PeerDisconnected, Stream
from cocoon_p2p.net.switch import inbound
from cocoon_p2p.net.switch.gate import GateLimits
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux import connection
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
    files += (ROOT / "tests" / "interop").glob("test_*.py")
    present = {name for file in files for name in re.findall(r"def (test_\w+)|^(Test\w+) =", file.read_text(), re.M)}
    wanted = {name for row in (*CURES, *CONCESSIONS) for name in row.tests}
    assert wanted <= {name for names in present for name in names}


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/secio/1.0.0", "/tls/1.0.0", "/yamux/1.0.0"])
async def test_only_noise_is_accepted(protocol: str) -> None:
    async with open_node(1) as server, raw_pipe(server) as pipe:
        with pytest.raises(TransportError) as caught:
            await multistream.propose(HandshakeLine(pipe), protocol)
        assert caught.value.code == "UNKNOWN_PROTOCOL"


async def test_only_yamux_is_accepted() -> None:
    async with open_node(1) as server, raw_pipe(server) as pipe:
        line = HandshakeLine(pipe)
        noise = NoiseInitiator(NoiseIdentity.from_seed(seed_of(2), []))
        line.write_behind(noise.first_message)
        await multistream.propose(line, "/noise")
        session, _ = await noise.run(line, server.peer_id)
        with pytest.raises(TransportError) as caught:
            await multistream.propose(SessionLine(session), "/mplex/6.7.0")
        assert caught.value.code == "UNKNOWN_PROTOCOL"


async def test_a_listener_that_offers_plaintext_is_not_spoken_to() -> None:
    """An attacker with the victim's public key alone: py-libp2p's own client would speak plaintext with it."""
    heard = bytearray()

    async def attacker(stream: trio.SocketStream) -> None:
        pipe = TcpPipe(socket.socket(fileno=stream.socket.detach()), "")
        line = HandshakeLine(pipe)
        try:
            await pipe.send_all(multistream.encode_prefixed(multistream.HEADER))
            heard.extend(await multistream.read_prefixed(line, 1024))
            heard.extend(await multistream.read_prefixed(line, 1024))
            line.take_rest()  # Noise's first message, which goes with its proposal
            await pipe.send_all(multistream.encode_prefixed(b"na\n"))
            with suppress(TransportError):
                heard.extend(await line.read_exactly(1))
        finally:
            pipe.abort()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with open_node(1) as client, open_node(2) as victim, trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, attacker, [listener])
        with pytest.raises(TransportError, match="does not speak /noise"):
            await client.connect(victim.peer_id, [f"/ip4/127.0.0.1/tcp/{listener.socket.getsockname()[1]}"])
        nursery.cancel_scope.cancel()
    assert bytes(heard) == b"/multistream/1.0.0\n/noise\n"


async def test_inbound_places_are_given_back() -> None:
    async with open_node(1) as server:
        server.set_handler(ECHO, echo)
        server._switch.gate.set_limits(GateLimits(connections=3))
        for number in range(10):
            await assert_serves(server, 10 + number)
        await polled(lambda: not any(server._switch.gate.places().values()))
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
        raw._send_window = 1 << 30
        with pytest.raises(TransportError):  # reset by the server
            while True:
                await raw.write(bytes(1024**2))
        await assert_serves(server)


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


@pytest.mark.slow
async def test_silent_sockets_are_capped_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "HANDSHAKE_TIMEOUT_S", 2.0)
    async with open_node(1) as server, AsyncExitStack() as sockets:
        server.set_handler(ECHO, echo)
        gate = server._switch.gate
        silent = [await sockets.enter_async_context(raw_pipe(server)) for _ in range(HANDSHAKES_FROM_LOOPBACK_MAX)]
        await polled(lambda: gate.places()["handshakes"] == HANDSHAKES_FROM_LOOPBACK_MAX)
        async with raw_pipe(server) as one_more:
            await ends(one_more)  # closed at once
        assert server.counters()["inbound_refused_subnet_handshakes"] == 1
        async with raw_pipe(server, source="127.0.0.2") as of_another:
            upgrader = Upgrader.from_seed(peer_of(8), seed_of(8))
            await upgrader.outbound(of_another, server.peer_id)
        for pipe in silent:
            await ends(pipe)
        await polled(lambda: gate.places()["handshakes"] == 0)
        assert server.counters()["handshake_failed"] == HANDSHAKES_FROM_LOOPBACK_MAX
        await assert_serves(server)


async def test_a_frozen_peer_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_INTERVAL_S", 0.1)
    async with open_node(1) as server, server.events() as events, raw_pipe(server) as pipe:
        peer = peer_of(2)
        await Upgrader.from_seed(peer, seed_of(2)).outbound(pipe, server.peer_id)  # and never run
        await anext(events)
        assert await anext(events) == PeerDisconnected(peer)
        assert server.peers() == ()


async def test_keepalive_measures_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_INTERVAL_S", 0.05)
    began = trio.current_time()
    async with pair() as (server, client):
        await trio.sleep(0.4)  # several intervals in which an unanswered ping would end it
        (peer,) = client.peers()
        assert peer.latency_s is not None and 0 < peer.latency_s < trio.current_time() - began
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
