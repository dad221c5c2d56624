"""Our Noise against py-libp2p's, in both directions: handshake and what follows."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from libp2p.abc import ConnectionType, IRawConnection, ISecureConn
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport
from secure_pairs import ALICE, BOB, pipes_are_closed, receive_exactly, tcp_pipes

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import peer_id_to_bytes
from cocoon_p2p.net.noise.agreement import HandshakeLine, NoiseInitiator, respond
from cocoon_p2p.net.noise.session import NoiseSession
from cocoon_p2p.net.transport.pipe import TcpPipe

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0
SEED = b"l" * 32
SIZES = [1, 65519, 65520, 300_000]


class LibraryConnection(IRawConnection):  # type: ignore[misc]
    def __init__(self, pipe: TcpPipe, *, is_initiator: bool) -> None:
        self.is_initiator = is_initiator
        self.pipe = pipe

    async def read(self, n: int | None = None) -> bytes:
        assert n is not None
        room = memoryview(bytearray(n))
        return bytes(room[: await self.pipe.receive_into(room)])

    async def write(self, data: bytes) -> None:
        await self.pipe.send_all(data)

    async def close(self) -> None:
        self.pipe.abort()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Any]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


def library(seed: bytes = SEED) -> Transport:
    return Transport(create_new_key_pair(seed), noise_privkey=create_new_x25519_key_pair().private_key)


async def library_exactly(theirs: ISecureConn, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = await theirs.read(size - len(data))
        assert piece
        data += piece
    return bytes(data)


async def exchange(ours: NoiseSession, theirs: ISecureConn) -> None:
    for size in SIZES:
        data = bytes(i % 251 for i in range(size))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send, data)
            assert await library_exactly(theirs, size) == data
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.write, data)
            assert await receive_exactly(ours, size) == data


async def test_we_dial_the_library() -> None:
    near, far = tcp_pipes()
    noise = library()
    theirs: list[ISecureConn] = []

    async def listen() -> None:
        theirs.append(await noise.secure_inbound(LibraryConnection(far, is_initiator=False)))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            initiator = NoiseInitiator(ALICE)
            line = HandshakeLine(near)
            await line.write(initiator.first_message)
            ours, muxer = await initiator.run(line, None)
        assert muxer is None  # the library offers none
        assert peer_id_to_bytes(ours.peer) == noise.local_peer.to_bytes()
        assert theirs[0].get_remote_peer().to_bytes() == peer_id_to_bytes(ALICE.peer)
        await exchange(ours, theirs[0])


async def test_the_library_dials_us() -> None:
    near, far = tcp_pipes()
    noise = library()
    ours: list[NoiseSession] = []

    async def listen() -> None:
        session, muxer = await respond(HandshakeLine(far), BOB)
        assert muxer is None
        ours.append(session)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            theirs = await noise.secure_outbound(
                LibraryConnection(near, is_initiator=True), ID(peer_id_to_bytes(BOB.peer))
            )
        assert peer_id_to_bytes(ours[0].peer) == noise.local_peer.to_bytes()
        await exchange(ours[0], theirs)


async def test_another_library_peer_than_expected_is_refused() -> None:
    near, far = tcp_pipes()

    async def listen() -> None:
        with pytest.raises(Exception):  # noqa: B017  (whatever the library makes of a cut handshake)
            await library().secure_inbound(LibraryConnection(far, is_initiator=False))

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            initiator = NoiseInitiator(ALICE)
            line = HandshakeLine(near)
            await line.write(initiator.first_message)
            with pytest.raises(TransportError) as caught:
                await initiator.run(line, BOB.peer)
            assert caught.value.code == "WRONG_PEER"
            near.abort()
