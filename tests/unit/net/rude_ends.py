"""Ends of connections that do what no peer in order does, as far as they are let."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from subprocess import PIPE

import trio
from net_nodes import peer_of, port_of, seed_of

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net import multistream
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.noise.agreement import HandshakeLine, NoiseInitiator
from cocoon_p2p.net.noise.identity import NoiseIdentity
from cocoon_p2p.net.noise.session import NoiseSession
from cocoon_p2p.net.switch.upgrade import YAMUX, Upgrader
from cocoon_p2p.net.transport.pipe import TcpPipe
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.stream import MuxStream

LINE_PATIENCE_S = float(os.environ.get("COCOON_BAD_DAYS_PATIENCE_S", "60"))
"""How long a program may take for a line; the full figures of test_bad_days_memory.py take longer."""
GREETING = multistream.encode_prefixed(multistream.HEADER) + multistream.encode_prefixed(b"/noise\n")


async def open_socket(port: int, source: str = "127.0.0.1") -> trio.socket.SocketType:
    """Raises OSError."""
    sock = trio.socket.socket()
    try:
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


async def open_session(pipe: TcpPipe, number: int, server: PeerId) -> NoiseSession:
    """A handshake as it should be, and no muxer behind it."""
    line = HandshakeLine(pipe)
    noise = NoiseInitiator(NoiseIdentity.from_seed(seed_of(number), [YAMUX]))
    line.write_behind(noise.first_message)
    await multistream.propose(line, "/noise")
    session, muxer = await noise.run(line, server)
    assert muxer == YAMUX
    return session


def first_noise_message(number: int = 2) -> bytes:
    return NoiseInitiator(NoiseIdentity.from_seed(seed_of(number), [YAMUX])).first_message


@asynccontextmanager
async def open_bare(server: Libp2pNetwork, number: int, *, source: str = "127.0.0.1") -> AsyncIterator[MuxedConnection]:
    """A connection that works and answers nothing: no identify, no gossip, no DHT."""
    upgrader = Upgrader.from_seed(peer_of(number), seed_of(number))
    sock = await open_socket(port_of(server), source)
    pipe = TcpPipe(socket.socket(fileno=sock.detach()), server.addresses()[0])
    connection = await upgrader.outbound(pipe, server.peer_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, MuxStream.release)
        yield connection
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def child(code: str, *arguments: str) -> AsyncIterator[trio.Process]:
    """A Python program of its own, killed at the end."""
    async with trio.open_nursery() as nursery:
        run = partial(trio.run_process, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False)
        process: trio.Process = await nursery.start(run, [sys.executable, "-c", code, *arguments])
        try:
            yield process
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def line_of(stream: trio.abc.ReceiveStream) -> str:
    """Without its end."""
    line = b""
    with trio.fail_after(LINE_PATIENCE_S):
        while not line.endswith(b"\n"):
            piece = await stream.receive_some(1)
            assert piece, line
            line += piece
    return line.decode().strip()


class PausingProxy:
    """A network between two programs on loopback that can go away: while it is paused nothing passes and nothing is
    refused, as when a cable is pulled."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.answers = 0
        """How often the target spoke after the other end had."""
        self._asked = False
        self._flows = trio.Event()
        self._flows.set()

    def pause(self) -> None:
        self._flows = trio.Event()

    def resume(self) -> None:
        self._flows.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        await self._flows.wait()
        far = await trio.open_tcp_stream("127.0.0.1", self.target_port)
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, near, far, nursery.cancel_scope, False)
            nursery.start_soon(self._pass_on, far, near, nursery.cancel_scope, True)

    async def _pass_on(
        self, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope, answers: bool
    ) -> None:
        try:
            while data := await source.receive_some(65536):
                await self._flows.wait()
                self.answers += answers and self._asked
                self._asked = not answers
                await sink.send_all(data)
            await self._flows.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self._flows.wait()
        scope.cancel()
