"""Pipes and sessions in pairs, for the tests of transport/, noise/ and switch/upgrade.py."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.noise.agreement import HandshakeLine, NoiseInitiator, respond
from cocoon_p2p.net.noise.handshake import TransportKeys
from cocoon_p2p.net.noise.identity import NoiseIdentity
from cocoon_p2p.net.noise.session import NoiseSession
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.transport.pipe import Pipe, TcpPipe, Transport

YAMUX = "/yamux/1.0.0"
ALICE = NoiseIdentity.from_seed(b"a" * 32, [YAMUX])
BOB = NoiseIdentity.from_seed(b"b" * 32, [YAMUX])
NOBODY = PeerId("12D3KooWNobody")
KEYS = TransportKeys(b"1" * 32, b"2" * 32, b"")
KEYS_BACK = TransportKeys(b"2" * 32, b"1" * 32, b"")


_opened: list[TcpPipe] = []


@pytest.fixture(autouse=True)
def pipes_are_closed() -> Iterator[None]:
    """For the modules that import it: what tcp_pipes() and sessions() opened is closed after each test."""
    yield
    while _opened:
        _opened.pop().sock.close()


def tcp_pipes(*, buffer_bytes: int | None = None) -> tuple[TcpPipe, TcpPipe]:
    """Two ends of one connection on loopback; `buffer_bytes` keeps the system's buffers small."""
    with socket.socket() as listener:
        if buffer_bytes is not None:
            _shrink(listener, buffer_bytes)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.socket()
        if buffer_bytes is not None:
            _shrink(near, buffer_bytes)
        near.connect(listener.getsockname())
        far, _ = listener.accept()
        port = listener.getsockname()[1]
    pipes = TcpPipe(near, f"/ip4/127.0.0.1/tcp/{port}"), TcpPipe(far, "/ip4/127.0.0.1/tcp/1")
    _opened.extend(pipes)
    return pipes


def _shrink(sock: socket.socket, buffer_bytes: int) -> None:
    """An accepted socket inherits these."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)


class ScriptedPipe:
    """Receives given pieces and then the end; keeps what is sent. `finishes_sends` as a TcpPipe."""

    transport: Transport = "tcp"
    relayed = False
    finishes_sends = True

    def __init__(self, pieces: Iterable[Bytes] = (), *, takes_now: int = 1 << 30) -> None:
        self.address = "/ip4/192.0.2.1/tcp/1"
        self.sent = bytearray()
        self.aborted = False
        self.takes_now = takes_now
        self._pieces = [bytes(piece) for piece in pieces if len(piece)]

    async def receive_into(self, buffer: memoryview) -> int:
        await trio.lowlevel.checkpoint()
        if self.aborted:
            raise TransportError("closed", outcome_known=False)
        if not self._pieces:
            return 0
        piece = self._pieces.pop(0)
        size = min(len(piece), len(buffer))
        buffer[:size] = piece[:size]
        if piece[size:]:
            self._pieces.insert(0, piece[size:])
        return size

    def send_now(self, data: Bytes) -> int:
        taken = bytes(data)[: self.takes_now]
        self.sent += taken
        return len(taken)

    async def send_all(self, data: Bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.sent += data

    def abort(self) -> None:
        self.aborted = True


def chunks(data: bytes, sizes: Iterable[int]) -> list[bytes]:
    """`data` cut into pieces of these sizes, the rest in one."""
    pieces, start = [], 0
    for size in sizes:
        pieces.append(data[start : start + size])
        start += size
    return [*pieces, data[start:]]


def session(pipe: Pipe, keys: TransportKeys = KEYS, *, received: bytes = b"") -> NoiseSession:
    return NoiseSession(pipe, NOBODY, keys, is_initiator=True, received=received)


def sessions(*, buffer_bytes: int | None = None) -> tuple[NoiseSession, NoiseSession]:
    """Over loopback, without a handshake."""
    near, far = tcp_pipes(buffer_bytes=buffer_bytes)
    return session(near, KEYS), session(far, KEYS_BACK)


async def sealed(*messages: bytes) -> bytes:
    """What the other end of `session()` sends, each message by a call of its own."""
    pipe = ScriptedPipe()
    sender = session(pipe, KEYS_BACK)
    for message in messages:
        await sender.send(message)
    return bytes(pipe.sent)


async def receive_all(receiver: NoiseSession) -> bytes:
    """Until the end of the stream."""
    data = bytearray()
    while view := await receiver.receive():
        data += view
    return bytes(data)


async def receive_exactly(receiver: NoiseSession, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        view = await receiver.receive()
        assert view, "the session ended early"
        data += view
    assert len(data) == size
    return bytes(data)


async def read_exactly(pipe: Pipe, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        room = memoryview(bytearray(size - len(data)))
        count = await pipe.receive_into(room)
        assert count, "the pipe ended early"
        data += room[:count]
    return bytes(data)


async def handshake(near: Pipe, far: Pipe, expected: PeerId | None = BOB.peer) -> tuple[NoiseSession, NoiseSession]:
    """ALICE dials BOB."""
    ends: dict[str, NoiseSession] = {}

    async def listen() -> None:
        ends["far"], muxer = await respond(HandshakeLine(far), BOB)
        assert muxer == YAMUX

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        initiator = NoiseInitiator(ALICE)
        line = HandshakeLine(near)
        await line.write(initiator.first_message)
        ends["near"], muxer = await initiator.run(line, expected)
        assert muxer == YAMUX
    return ends["near"], ends["far"]


def x25519(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([number]) * 32)
