"""A TCP socket as py-libp2p wants to see it, and its upgrade: Noise alone, then yamux alone.

Only these two protocols are offered and accepted (cure 1): the library's default set has /plaintext/2.0.0 in it, with
which whoever knows a public key passes as its owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import ConnectionType, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as Noise

from cocoon_p2p.errors import RemoteProtocolError, TransportError
from cocoon_p2p.ids import PeerId, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.net import multistream
from cocoon_p2p.net.supervisor import describe, foreign_errors
from cocoon_p2p.net.yamux.muxer import MuxedConnection

NOISE = "/noise"
YAMUX = "/yamux/1.0.0"
_SOCKET_READ_BYTES = 256 * 1024
_FINISH_WRITE_S = 2.0
"""How long a cancelled write may take to finish its 64 KiB; then the connection is given up, so that Ctrl-C is quick."""


class SocketConnection(IRawConnection):  # type: ignore[misc]
    """Whole reads, and writes that cancellation cannot cut in two.

    The library reads two bytes, then a body, per Noise message: here both come out of one large buffer. A write that is
    cancelled half-way leaves the cipher's counters apart and so kills all streams of the connection: here it is finished
    first, or the connection is closed.
    """

    def __init__(self, stream: trio.SocketStream, *, is_initiator: bool, address: str) -> None:
        self.is_initiator = is_initiator
        self.address = address
        self._stream = stream
        self._buffer = bytearray()

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes, or fewer at the end of the stream; without `n` whatever is there."""
        wanted = 1 if n is None else n
        while len(self._buffer) < wanted:
            try:
                piece = await self._stream.receive_some(_SOCKET_READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError(str(error), transport="tcp") from error
            if not piece:
                break
            self._buffer += piece
        taken = bytes(self._buffer) if n is None else bytes(self._buffer[:n])
        del self._buffer[: len(taken)]
        return taken

    async def write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[await self._stream.socket.send(rest) :]
        except trio.Cancelled:
            # The bytes carry a number that the cipher has used already: they must go out, whoever gave up waiting.
            with trio.CancelScope(shield=True), trio.move_on_after(_FINISH_WRITE_S):
                rest = await self._send_rest(rest)
            if rest:
                await trio.aclose_forcefully(self._stream)
            raise
        except (OSError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError(describe(error), transport="tcp") from error

    async def _send_rest(self, rest: memoryview) -> memoryview:
        try:
            while rest:
                rest = rest[await self._stream.socket.send(rest) :]
        except (OSError, trio.ClosedResourceError):
            pass  # closed, so there is no counter left to keep
        return rest

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


class _Line:
    """A library connection as multistream wants to read it."""

    def __init__(self, connection: IRawConnection | ISecureConn) -> None:
        self._connection = connection

    async def read_exactly(self, size: int) -> bytes:
        data = bytes(await self._connection.read(size))
        if len(data) != size:
            raise TransportError("the connection was closed in the handshake", outcome_known=True)
        return data

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)


@dataclass(frozen=True, slots=True)
class Upgrader:
    """Makes authenticated, multiplexed connections of sockets, under one identity."""

    peer_id: PeerId
    noise: Noise

    @classmethod
    def from_seed(cls, peer_id: PeerId, seed: bytes) -> Upgrader:
        return cls(peer_id, Noise(create_new_key_pair(seed), noise_privkey=create_new_x25519_key_pair().private_key))

    async def upgrade_outbound(self, stream: trio.SocketStream, address: str, expected: PeerId) -> MuxedConnection:
        """Raises TransportError, also when another peer than `expected` answers."""
        raw = SocketConnection(stream, is_initiator=True, address=address)
        with _handshake():
            await multistream.propose(_Line(raw), NOISE)
            secure = await self.noise.secure_outbound(raw, ID(peer_id_to_bytes(expected)))
            if _remote_peer(secure) != expected:
                raise TransportError("another peer answers there", outcome_known=True, code="WRONG_PEER")
            await multistream.propose(_Line(secure), YAMUX)
            return MuxedConnection(secure, expected, raw)

    async def upgrade_inbound(self, stream: trio.SocketStream, address: str) -> MuxedConnection:
        """Raises TransportError."""
        raw = SocketConnection(stream, is_initiator=False, address=address)
        with _handshake():
            await multistream.accept(_Line(raw), [NOISE])
            secure = await self.noise.secure_inbound(raw)
            peer = _remote_peer(secure)
            if peer == self.peer_id:
                raise TransportError("a connection to ourselves", outcome_known=True)
            await multistream.accept(_Line(secure), [YAMUX])
            return MuxedConnection(secure, peer, raw)


@contextmanager
def _handshake() -> Iterator[None]:
    """Whatever goes wrong is a TransportError, also when the other end speaks something else, HTTP for instance: nobody
    has proven an identity yet, so there is no peer whose fault it could be."""
    try:
        with foreign_errors("handshake", outcome_known=True, code="HANDSHAKE"):
            yield
    except RemoteProtocolError as error:
        raise TransportError(f"handshake: {error.message}", outcome_known=True, code="HANDSHAKE") from error


def _remote_peer(secure: ISecureConn) -> PeerId:
    """Raises ValueError for an identity of another kind than Ed25519, which this network does not use."""
    return peer_id_from_bytes(secure.get_remote_peer().to_bytes())
