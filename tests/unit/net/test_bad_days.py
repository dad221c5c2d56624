"""Bad days, with real sockets: whatever a peer sends, or stops sending, costs its own connection and nothing else.

Processes that die, file descriptors and memory are in test_bad_days_processes.py and test_bad_days_memory.py.
"""

from __future__ import annotations

import socket
import struct
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import trio
from net_nodes import assert_serves, ends, open_node, peer_of, polled, port_of, raw_pipe, seed_of
from rude_ends import GREETING, PausingProxy, first_noise_message, open_bare, open_session, open_socket

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import STREAMS_PER_PEER_MAX
from cocoon_p2p.net import multistream
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import PeerConnected, PeerDisconnected, PeerMisbehaved, Stream
from cocoon_p2p.net.rates import Rate
from cocoon_p2p.net.switch import inbound
from cocoon_p2p.net.switch import streams as streams_module
from cocoon_p2p.net.switch.gate import Gate, OriginLimits
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.yamux import connection as connection_module
from cocoon_p2p.testing.net_contract import ECHO, SINK, echo

GARBAGE = b"\x7f" * 3000


def treat_loopback_as_a_subnet(network: Libp2pNetwork, *, connections: int = 32) -> None:
    """So that what holds for the internet's subnets can be seen on this machine."""
    gate: Gate = network._switch.gate
    public = replace(gate.limits.of_origins["public"], connections=connections)
    gate.set_limits(replace(gate.limits, of_origins={**gate.limits.of_origins, "loopback": public}))


async def wait_until_all_is_given_back(network: Libp2pNetwork) -> None:
    await polled(lambda: not any(network._switch.gate.places().values()))


# --- garbage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", GREETING[:10], GREETING, GREETING + b"\x00\x20"], ids=lambda b: f"{len(b)}")
async def test_garbage_in_the_handshake(before: bytes) -> None:
    async with open_node(1) as server, raw_pipe(server) as pipe:
        server.set_handler(ECHO, echo)
        await pipe.send_all(before + GARBAGE)
        await ends(pipe)
        assert server.counters()["handshake_failed"] == 1
        await wait_until_all_is_given_back(server)
        await assert_serves(server)


async def test_garbage_after_the_handshake() -> None:
    """Bytes that nobody sealed, on a connection that was in order."""
    async with open_node(1) as server, raw_pipe(server) as pipe:
        server.set_handler(ECHO, echo)
        await open_session(pipe, 2, server.peer_id)
        await pipe.send_all(b"\x00\x40" + GARBAGE)
        await ends(pipe)
        await wait_until_all_is_given_back(server)
        await assert_serves(server)


@pytest.mark.parametrize(
    "frames",
    [
        GARBAGE,
        struct.pack("!BBHII", 9, 0, 0, 1, 0),  # another version
        struct.pack("!BBHII", 0, 7, 0, 1, 0),  # no such type
        struct.pack("!BBHII", 0, 0, 1, 2, 0),  # a stream number that is ours to give
        struct.pack("!BBHII", 0, 0, 1, 0, 0),  # no number
    ],
    ids=["garbage", "version", "type", "number", "zero"],
)
async def test_what_is_no_yamux_is_a_fault_of_its_peer(frames: bytes) -> None:
    async with open_node(1) as server, raw_pipe(server) as pipe, server.events() as events:
        server.set_handler(ECHO, echo)
        session = await open_session(pipe, 2, server.peer_id)
        await session.send(frames)
        await ends(pipe)
        assert await anext(events) == PeerConnected(peer_of(2))
        seen = {await anext(events), await anext(events)}
        assert seen == {PeerMisbehaved(peer_of(2), "malformed"), PeerDisconnected(peer_of(2))}
        await wait_until_all_is_given_back(server)
        await assert_serves(server)


@pytest.mark.parametrize("length", [2**32 - 1, 2**24, 5 * 2**20])
async def test_a_yamux_frame_over_the_window(length: int) -> None:
    """Its stream is reset as soon as the first of its bytes is there: nothing is held for it."""
    async with open_node(1) as server, raw_pipe(server) as pipe:
        server.set_handler(ECHO, echo)
        session = await open_session(pipe, 2, server.peer_id)
        await session.send(struct.pack("!BBHII", 0, 0, 1, 1, length) + b"x")
        counters = server.counters()
        await polled(lambda: counters["peer_overrun"] + counters["peer_malformed"] == 1)
        await assert_serves(server)


async def test_an_application_frame_over_the_limit() -> None:
    async with open_node(1) as server, open_bare(server, 2) as connection:
        server.set_handler(ECHO, echo)
        stream = await connection.open_stream()
        await multistream.propose(stream, ECHO)
        await stream.write(struct.pack("!I", 64 * 2**20) + b"x" * 1000)
        with pytest.raises(TransportError):
            await stream.read_exactly(100)
        assert server.counters()["handler_peer_fault"] == 1
        await assert_serves(server)


# --- silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "phase", ["nothing", "half a line", "greeting", "half of Noise", "Noise's first message", "Noise's last message"]
)
async def test_a_handshake_that_stalls(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbound, "HANDSHAKE_TIMEOUT_S", 0.3)
    sent = {
        "nothing": b"",
        "half a line": GREETING[:7],
        "greeting": GREETING,
        "half of Noise": GREETING + first_noise_message()[:20],
        "Noise's first message": GREETING + first_noise_message(),
        "Noise's last message": GREETING + first_noise_message(),
    }[phase]
    async with open_node(1) as server, raw_pipe(server) as pipe:
        server.set_handler(ECHO, echo)
        await pipe.send_all(sent)
        if phase == "Noise's last message":
            await pipe.wait_readable()
            await pipe.send_all(b"\x01\x00")  # 256 bytes that never come
        await ends(pipe)
        await polled(lambda: server.counters()["handshake_failed"] == 1)
        await wait_until_all_is_given_back(server)
        await assert_serves(server)


async def test_streams_that_are_opened_and_never_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "STREAM_OPEN_TIMEOUT_S", 0.5)
    async with (
        open_node(1) as server,
        open_bare(server, 2) as connection,
        open_node(3) as good,
        server.events() as events,
    ):
        server.set_handler(ECHO, echo)
        idle = [await connection.open_stream() for _ in range(STREAMS_PER_PEER_MAX - 1)]
        for stream in idle:
            await stream.write(b"\x13")  # the first byte of a line, so that it is heard of
        await good.connect(server.peer_id, server.addresses())
        echoing = await good.open_stream(server.peer_id, ECHO)
        await echoing.send(b"meanwhile")
        assert await echoing.receive() == b"meanwhile"
        for stream in idle:
            with pytest.raises(TransportError):
                while await stream.read(100):
                    pass
        assert server.counters()["peer_idle_streams"] >= len(idle)
        reported = 0
        with trio.move_on_after(0.2):
            async for event in events:
                reported += event == PeerMisbehaved(peer_of(2), "idle_streams")
        assert 0 < reported < len(idle) / 2, "one peer's faults do not drown what others did"
        await assert_serves(server)


async def test_more_streams_than_one_may_have() -> None:
    async with open_node(1) as server, open_bare(server, 2) as connection:
        server.set_handler(ECHO, echo)
        connection.streams_outbound = -10_000  # our own side would not open that many
        streams = [await connection.open_stream() for _ in range(3 * STREAMS_PER_PEER_MAX)]
        for stream in streams:
            await stream.write(b"\x13") if not stream._cut_off else None
        await polled(lambda: server.counters()["yamux_too_many_streams"] >= STREAMS_PER_PEER_MAX)
        assert server._switch.gate.streams <= STREAMS_PER_PEER_MAX + 2
        await assert_serves(server)


async def test_a_reader_that_stops_holds_up_its_own_stream_only() -> None:
    stop = trio.Event()

    async def never_reads(stream: Stream) -> None:
        await stop.wait()

    async with open_node(1) as server, open_node(2) as client:
        server.set_handler(SINK, never_reads)
        server.set_handler(ECHO, echo)
        await client.connect(server.peer_id, server.addresses())
        stuck = await client.open_stream(server.peer_id, SINK)
        other = await client.open_stream(server.peer_id, ECHO)
        sent = 0
        async with trio.open_nursery() as nursery:

            async def fill() -> None:
                nonlocal sent
                while True:
                    await stuck.send(bytes(1024**2))
                    sent += 1

            nursery.start_soon(fill)
            for number in range(50):
                await other.send(b"%d" % number)
                assert await other.receive() == b"%d" % number
            nursery.cancel_scope.cancel()
        assert sent < 32, "its writer was held"
        stop.set()


async def open_only_way(server: Libp2pNetwork, nursery: trio.Nursery) -> PausingProxy:
    """A proxy that is all that the server says of where it is: told its own port, a client goes round the proxy as soon as
    that is paused."""
    proxy = PausingProxy(port_of(server))
    await nursery.start(proxy.run)
    server.announce([f"/ip4/127.0.0.1/tcp/{proxy.port}"])
    return proxy


async def test_a_peer_that_is_half_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine lost power: no FIN, no RST, and nothing answers."""
    monkeypatch.setattr(connection_module, "KEEPALIVE_INTERVAL_S", 0.2)
    async with open_node(1) as server, trio.open_nursery() as nursery:
        server.set_handler(ECHO, echo)
        proxy = await open_only_way(server, nursery)
        async with open_node(2, listen=()) as client, client.events() as events:
            await client.connect(server.peer_id, [f"/ip4/127.0.0.1/tcp/{proxy.port}"])
            stream = await client.open_stream(server.peer_id, ECHO)
            proxy.pause()
            with pytest.raises(TransportError) as caught:
                await stream.receive()
            assert not caught.value.outcome_known
            await polled(lambda: server.peers() == ())
            async for event in events:
                if event == PeerDisconnected(server.peer_id):
                    break
        await wait_until_all_is_given_back(server)
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_the_network_goes_away_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "KEEPALIVE_INTERVAL_S", 0.2)
    async with open_node(1) as server, trio.open_nursery() as nursery:
        server.set_handler(ECHO, echo)
        proxy = await open_only_way(server, nursery)
        bootstrap = f"/ip4/127.0.0.1/tcp/{proxy.port}/p2p/{server.peer_id}"
        async with open_node(2, listen=(), bootstrap=[bootstrap]) as client, client.events() as events:
            await polled(lambda: len(client.peers()) == 1)
            proxy.pause()
            async for event in events:
                if event == PeerDisconnected(server.peer_id):
                    break
            proxy.resume()
            async for event in events:
                if event == PeerConnected(server.peer_id):
                    break
            stream = await client.open_stream(server.peer_id, ECHO)
            await stream.send(b"back again")
            assert await stream.receive() == b"back again"
        nursery.cancel_scope.cancel()


# --- floods ----------------------------------------------------------------------------------------------------------


async def knock(server: Libp2pNetwork, source: str) -> None:
    """One socket, closed by whoever closes first."""
    try:
        sock = await open_socket(port_of(server), source)
    except OSError:
        return
    with sock, trio.move_on_after(5):
        try:
            await sock.send(GARBAGE)
            while await sock.recv(1000):
                pass
        except OSError:
            pass


@pytest.mark.slow
async def test_ten_thousand_connections_from_one_address() -> None:
    """A good peer, which comes from another, is served meanwhile and afterwards; so is one that was there before."""
    async with open_node(1) as server, open_node(2) as resident, trio.open_nursery() as nursery:
        server.set_handler(ECHO, echo)
        await resident.connect(server.peer_id, server.addresses())
        settled = await resident.open_stream(server.peer_id, ECHO)
        places = trio.CapacityLimiter(200)
        left, done = 10_000, trio.Event()

        async def flood() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                async with places:
                    await knock(server, "127.0.0.66")
            done.set()

        for _ in range(200):
            nursery.start_soon(flood)
        waits, newcomers = [], 0
        while not done.is_set():
            began = trio.current_time()
            await settled.send(b"still there?")
            assert await settled.receive() == b"still there?"
            waits.append(trio.current_time() - began)
            upgrader = Upgrader.from_seed(peer_of(3), seed_of(3))
            async with raw_pipe(server, source="127.0.0.2") as pipe:
                await upgrader.outbound(pipe, server.peer_id)
                newcomers += 1
        assert newcomers > 3
        assert sorted(waits)[len(waits) // 2] < 3.0, "0.02 s on an idle machine"
        refused = sum(count for name, count in server.counters().items() if name.startswith("inbound_refused"))
        assert refused > 5_000
        nursery.cancel_scope.cancel()
        await assert_serves(server)
    await trio.lowlevel.checkpoint()


@pytest.mark.slow
async def test_failed_handshakes_ban_their_subnet_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async with open_node(1) as server:
        server.set_handler(ECHO, echo)
        treat_loopback_as_a_subnet(server)
        gate = server._switch.gate
        gate.set_limits(replace(gate.limits, failures=Rate(0.001, 5.0), subnet_ban_s=1.0))
        for _ in range(6):
            await knock(server, "127.0.0.66")
        assert server.counters()["handshake_failed"] == 6
        await knock(server, "127.0.0.66")
        assert server.counters()["inbound_refused_banned_subnet"] == 1
        assert "127.0.0.66 is refused" in caplog.text
        await assert_serves(server)  # from another address
        await polled(lambda: not gate.banned_origins.current(trio.current_time()))
        before = server.counters()["handshake_failed"]
        await knock(server, "127.0.0.66")
        assert server.counters()["handshake_failed"] == before + 1, "it is heard again"


async def test_authenticated_connections_of_one_subnet_are_bounded() -> None:
    async with open_node(1) as server, AsyncExitStack() as stack:
        server.set_handler(ECHO, echo)
        treat_loopback_as_a_subnet(server, connections=5)
        for number in range(5):
            await stack.enter_async_context(open_bare(server, 20 + number, source="127.0.0.66"))
        sock = await open_socket(port_of(server), "127.0.0.66")
        with sock:
            assert await sock.recv(10) == b""
        assert server.counters()["inbound_refused_subnet_full"] == 1
        assert len(server.peers()) == 5
        await assert_serves(server)


@pytest.mark.slow
async def test_a_flood_of_refused_streams_is_slowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rust's lattica: a thousand times a second for a protocol that we do not have. What we do have is served."""
    monkeypatch.setattr(streams_module, "REFUSED_STREAM_WAIT_S", 0.3)
    async with open_node(1) as server, open_bare(server, 2) as connection:
        server.set_handler(ECHO, echo)
        gate = server._switch.gate
        gate.set_limits(replace(gate.limits, refusals=Rate(1.0, 20.0)))
        asked = 0

        async def ask_for_ever() -> None:
            nonlocal asked
            while True:
                stream = await connection.open_stream()
                try:
                    await multistream.propose(stream, "/bitswap/1.2.0")
                except TransportError as error:
                    asked += error.code == "UNKNOWN_PROTOCOL"
                stream.reset_soon()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(ask_for_ever)
            with trio.move_on_after(1.5):
                await trio.sleep_forever()
            stream = await connection.open_stream()
            assert await multistream.propose(stream, ECHO) == ECHO
            nursery.cancel_scope.cancel()
        assert 20 <= asked <= 20 + 2 + 4 * 7
        assert server.counters()["stream_refused_unknown_protocols"] >= 4
        assert peer_of(2) in [peer.peer for peer in server.peers()], "slowed, not cut off"


async def test_a_public_limit_is_smaller_than_loopbacks() -> None:
    async with open_node(1) as server:
        of = server._switch.gate.limits.of_origins
        assert of["public"].connections < of["private"].connections < of["loopback"].connections
        assert isinstance(of["relay"], OriginLimits)
        with socket.socket() as probe:  # and the port is the real one
            probe.connect(("127.0.0.1", port_of(server)))
