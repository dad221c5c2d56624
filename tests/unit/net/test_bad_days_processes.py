"""Bad days that need processes: peers killed at every phase, SIGTERM in the middle of a transfer, no file descriptors."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from net_nodes import assert_serves, open_node, polled, port_of
from rude_ends import child, line_of, open_socket

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.port import PeerDisconnected, Stream
from cocoon_p2p.testing.net_contract import ECHO, PATIENCE_S, SINK, echo

pytestmark = [pytest.mark.slow, pytest.mark.processes]

FOLDER = Path(__file__).parent

KILLED = """
import socket, sys, trio
sys.path.insert(0, {folder!r})
from net_nodes import peer_of, seed_of
from rude_ends import GREETING, first_noise_message, open_session, open_socket
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net import multistream
from cocoon_p2p.net.switch.upgrade import Upgrader
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux.stream import MuxStream

async def main(port, server, phase):
    sock = await open_socket(port)
    pipe = TcpPipe(socket.socket(fileno=sock.detach()), f"/ip4/127.0.0.1/tcp/{{port}}")
    async with trio.open_nursery() as nursery:
        if phase == "greeting":
            await pipe.send_all(GREETING)
        elif phase == "handshake":
            await pipe.send_all(GREETING + first_noise_message())
            await pipe.wait_readable()
        elif phase != "connected":
            connection = await Upgrader.from_seed(peer_of(2), seed_of(2)).outbound(pipe, server)
            nursery.start_soon(connection.run, MuxStream.release)
            if phase != "secured":
                stream = await connection.open_stream()
                await multistream.propose(stream, "{echo}")
                await stream.write(b"\\0\\0\\0\\5hello")
                assert await stream.read_exactly(9)
            if phase == "mid-frame":
                await stream.write(b"\\0\\1\\0\\0half a frame")
            if phase == "mid-transfer":
                nursery.start_soon(stream.write, bytes(64 * 2**20))
        print("there", flush=True)
        await trio.sleep_forever()

trio.run(main, int(sys.argv[1]), PeerId(sys.argv[2]), sys.argv[3])
"""

STOPPED = f"""
import signal, trio
from cocoon_p2p.limits import BULK_BYTES_MIN
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.port import BulkFrame
async def send_for_ever(stream):
    beside = await stream.receive() == b"beside the stream"
    if beside:
        stream.expect_bulk(BULK_BYTES_MIN)
    body = bytes(10**6)
    while True:
        await stream.send(BulkFrame(b"head", body, b"tail", True) if beside else body)
async def main():
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_libp2p(bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], agent="server") as network:
            network.set_handler("{SINK}", send_for_ever)
            print(network.peer_id, network.addresses()[0], flush=True)
            await anext(signals)
trio.run(main)
"""

STARVED = f"""
import logging, resource, sys, trio
logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
from cocoon_p2p.net.libp2p import open_libp2p
from cocoon_p2p.net.switch.gate import GateLimits
from cocoon_p2p.testing.net_contract import echo
async def main():
    async with open_libp2p(bytes(32), listen=["/ip4/127.0.0.1/tcp/0"], agent="server") as network:
        network.set_handler("{ECHO}", echo)
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        print(network.peer_id, network.addresses()[0], flush=True)
        while not network.counters()["descriptors_exhausted"]:
            await trio.sleep(0.01)
        print("shed", flush=True)
        await trio.sleep_forever()
trio.run(main)
"""


@pytest.mark.parametrize(
    "phase", ["connected", "greeting", "handshake", "secured", "streaming", "mid-frame", "mid-transfer"]
)
async def test_a_peer_that_is_killed(phase: str) -> None:
    handled: list[str] = []

    async def noting_echo(stream: Stream) -> None:
        try:
            await echo(stream)
        except TransportError as error:
            handled.append(error.code or "")
            raise

    async with open_node(1) as server:
        server.set_handler(ECHO, noting_echo)
        code = KILLED.format(folder=str(FOLDER), echo=ECHO)
        async with child(code, str(port_of(server)), server.peer_id, phase) as process:
            assert await line_of(process.stdout) == "there"
            process.send_signal(signal.SIGKILL)
            began = trio.current_time()
            await polled(lambda: not any(server._switch.gate.places().values()))
            assert trio.current_time() - began < 2.0, "the kernel tells at once"
        assert server.peers() == ()
        assert server.counters()["handler_failed"] == server.counters()["inbound_failed"] == 0
        if phase in ("streaming", "mid-frame", "mid-transfer"):
            assert handled, "a stream that was cut off ends with an error"
        await assert_serves(server)


@pytest.mark.parametrize("path", ["on the stream", "beside the stream"])
async def test_sigterm_in_the_middle_of_a_transfer(path: str) -> None:
    """The peer learns within a second, and not by silence; also when the bulk goes by data socket."""
    async with child(STOPPED) as process, open_node(1) as client, client.events() as events:
        peer, address = (await line_of(process.stdout)).split()
        await client.connect(PeerId(peer), [address])
        await anext(events)
        stream = await client.open_stream(PeerId(peer), SINK)
        await stream.send(path.encode())
        for _ in range(5):
            await stream.receive()
        if path == "beside the stream":
            sidecars = client._data_sockets._sidecars
            while not any(sidecar.inlets for sidecar in sidecars.values()):
                await stream.receive()
            before = client.peers()[0].bytes_received
            for _ in range(20):
                await stream.receive()
            assert client.peers()[0].bytes_received > before
            assert sum(sidecar.traffic.received for sidecar in sidecars.values()) > 10**7
        process.send_signal(signal.SIGTERM)
        began = trio.current_time()
        with pytest.raises(TransportError) as caught:
            while True:
                await stream.receive()
        assert trio.current_time() - began < 1.0
        assert not caught.value.outcome_known
        assert await anext(events) == PeerDisconnected(PeerId(peer))
        assert trio.current_time() - began < 1.0
        await process.wait()
        assert process.returncode == 0
        assert trio.current_time() - began < 2.0


async def test_no_file_descriptor_is_left() -> None:
    """The node sheds, says so once, lives, and serves again when there is room."""
    async with child(STARVED) as process:
        peer, address = (await line_of(process.stdout)).split()
        port = int(address.rpartition("/")[2])
        async with AsyncExitStack() as stack:
            for number in range(2, 12):  # peers in order, which the node has to let go of
                client = await stack.enter_async_context(open_node(number, listen=()))
                await client.connect(PeerId(peer), [address])
            sockets = [await open_socket(port) for _ in range(60)]
            for sock in sockets:
                stack.callback(sock.close)
            assert await line_of(process.stdout) == "shed"
        async with open_node(30) as late:
            with trio.fail_after(PATIENCE_S):
                while True:
                    try:
                        await late.connect(PeerId(peer), [address])
                        stream = await late.open_stream(PeerId(peer), ECHO)
                        await stream.send(b"alive")
                        assert await stream.receive() == b"alive"
                        break
                    except TransportError:
                        await trio.sleep(0.1)
        assert process.returncode is None
        process.kill()
        said = b""
        while piece := await process.stderr.receive_some():
            said += piece
        assert said.count(b"no file descriptor is left") == 1
        assert b"Traceback" not in said
