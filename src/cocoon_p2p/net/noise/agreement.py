"""The Noise handshake over a pipe: from a pipe to a NoiseSession with a peer that has proven who it is."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import HANDSHAKE_MESSAGE_BYTES_MAX
from cocoon_p2p.net.noise.handshake import HandshakeError, XXHandshake
from cocoon_p2p.net.noise.identity import NoiseIdentity, agreed_muxer, check_payload
from cocoon_p2p.net.noise.session import NoiseSession
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.transport.pipe import Pipe

_READ_BYTES = 4 * 1024


class HandshakeLine:
    """A pipe as handshakes use it: exact reads, and writes that go out together when there is nothing more to read.

    What is read beyond the handshake is kept for the session.
    """

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.has_received = False
        """Whether the other end has sent anything yet."""
        self._received = bytearray()
        self._room = memoryview(bytearray(_READ_BYTES))
        self._to_send = bytearray()
        self._behind = b""

    async def read_exactly(self, size: int) -> bytes:
        """Raises TransportError(code="CUT_OFF") when the pipe ends before."""
        while len(self._received) < size:
            await self.flush()
            count = await self.pipe.receive_into(self._room)
            if not count:
                raise TransportError("the connection was closed in the handshake", outcome_known=True, code="CUT_OFF")
            self.has_received = True
            self._received += self._room[:count]
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def write(self, data: Bytes) -> None:
        self._to_send += data

    def write_behind(self, data: bytes) -> None:
        """Send `data` together with what is written next, behind it."""
        self._behind = data

    async def flush(self) -> None:
        if self._to_send:
            data = bytes(self._to_send) + self._behind
            self._to_send.clear()
            self._behind = b""
            taken = self.pipe.send_now(data)
            if taken < len(data):
                await self.pipe.send_all(memoryview(data)[taken:])

    def take_rest(self) -> bytes:
        """What was read and not asked for."""
        rest = bytes(self._received)
        self._received.clear()
        return rest

    async def read_message(self) -> bytes:
        """One Noise message without its length. Raises HandshakeError for one that is too long."""
        size = int.from_bytes(await self.read_exactly(2))
        if size > HANDSHAKE_MESSAGE_BYTES_MAX:
            raise HandshakeError(f"a handshake message of {size} bytes")
        return await self.read_exactly(size)

    async def write_message(self, message: bytes) -> None:
        await self.write(framed(message))


class NoiseInitiator:
    """The dialling end. `first_message` may be sent before anything has come back."""

    def __init__(self, identity: NoiseIdentity) -> None:
        self._identity = identity
        self._handshake = XXHandshake(initiator=True, static=identity.static, ephemeral=X25519PrivateKey.generate())
        self.first_message = framed(self._handshake.write())

    async def run(self, line: HandshakeLine, expected: PeerId | None) -> tuple[NoiseSession, str | None]:
        """After the first message: the session, and the muxer that both ends chose in passing, if any.

        Raises HandshakeError, and TransportError(code="WRONG_PEER") before we have said who we are.
        """
        payload = self._handshake.read(await line.read_message())
        remote = check_payload(payload, self._handshake.remote_static)
        if expected is not None and remote.peer != expected:
            raise TransportError("another peer answers there", outcome_known=True, code="WRONG_PEER")
        await line.write_message(self._handshake.write(self._identity.payload))
        await line.flush()
        session = NoiseSession(
            line.pipe, remote.peer, self._handshake.keys(), is_initiator=True, received=line.take_rest()
        )
        return session, agreed_muxer(self._identity.muxers, remote.muxers)


async def respond(line: HandshakeLine, identity: NoiseIdentity) -> tuple[NoiseSession, str | None]:
    """The listening end: the session, and the muxer that both ends chose in passing, if any. Raises HandshakeError."""
    handshake = XXHandshake(initiator=False, static=identity.static, ephemeral=X25519PrivateKey.generate())
    handshake.read(await line.read_message())
    await line.write_message(handshake.write(identity.payload))
    payload = handshake.read(await line.read_message())
    remote = check_payload(payload, handshake.remote_static)
    session = NoiseSession(line.pipe, remote.peer, handshake.keys(), is_initiator=False, received=line.take_rest())
    return session, agreed_muxer(remote.muxers, identity.muxers)


def framed(message: bytes) -> bytes:
    """A Noise message behind its length."""
    return len(message).to_bytes(2) + message


class SessionLine:
    """A session as multistream uses it, for ends that do not choose the muxer in passing."""

    def __init__(self, session: NoiseSession) -> None:
        self._session = session

    async def read_exactly(self, size: int) -> bytes:
        """Raises TransportError(code="CUT_OFF") when the session ends before."""
        data = bytearray()
        while len(data) < size:
            view = await self._session.receive()
            if not view:
                raise TransportError("the connection was closed in the handshake", outcome_known=True, code="CUT_OFF")
            missing = size - len(data)
            data += view[:missing]
            self._session.put_back(view[missing:])
        return bytes(data)

    async def write(self, data: Bytes) -> None:
        await self._session.send(data)
