"""From a pipe to a multiplexed connection: with whom it may be made, and with whom not."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing
from secure_pairs import BOB, ScriptedPipe, pipes_are_closed, read_exactly, tcp_pipes

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.net import multistream
from cocoon_p2p.net.multistream import encode_prefixed
from cocoon_p2p.net.noise.identity import NoiseIdentity
from cocoon_p2p.net.switch.upgrade import YAMUX, Upgrader
from cocoon_p2p.net.transport.pipe import Pipe, TcpPipe
from cocoon_p2p.net.transport.private import NONCE_BYTES
from cocoon_p2p.net.transport.websocket import accept_websocket, connect_websocket
from cocoon_p2p.net.yamux.connection import MuxedConnection
from cocoon_p2p.net.yamux.stream import MuxStream

__all__ = ["pipes_are_closed"]

PATIENCE_S = 10.0
KEY = bytes(range(32))


def upgrader(seed: bytes, *, network_key: bytes | None = None, muxers: tuple[str, ...] = (YAMUX,)) -> Upgrader:
    identity = NoiseIdentity.from_seed(seed, muxers)
    return Upgrader(identity.peer, identity, network_key)


async def upgraded(
    dialer: Upgrader, listener: Upgrader, near: Pipe, far: Pipe
) -> tuple[MuxedConnection, MuxedConnection]:
    ends: list[MuxedConnection] = []

    async def listen() -> None:
        ends.append(await listener.inbound(far))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        connection = await dialer.outbound(near, listener.peer_id)
    return connection, ends[0]


async def assert_carries(near: MuxedConnection, far: MuxedConnection) -> None:
    """A stream from each end, there and back."""

    def echo(nursery: trio.Nursery, stream: MuxStream) -> None:
        async def serve() -> None:
            await stream.write(await stream.read_exactly(5))

        nursery.start_soon(serve)

    async with trio.open_nursery() as nursery:
        for connection in (near, far):
            nursery.start_soon(connection.run, partial(echo, nursery))
        for connection in (near, far):
            stream = await connection.open_stream()
            await stream.write(b"hello")
            assert await stream.read_exactly(5) == b"hello"
        nursery.cancel_scope.cancel()


async def websockets(near: TcpPipe, far: TcpPipe) -> tuple[Pipe, Pipe]:
    ends: list[Pipe] = []

    async def accept() -> None:
        ends.append(await accept_websocket(far))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        client = await connect_websocket(near, f"{near.address}/ws", "x")
    return client, ends[0]


@pytest.mark.parametrize("network_key", [None, KEY], ids=["open", "private"])
@pytest.mark.parametrize("over_websocket", [False, True], ids=["tcp", "websocket"])
@pytest.mark.parametrize("muxers", [(YAMUX,), (), ("/mplex/6.7.0", YAMUX), ("/mplex/6.7.0",)])
async def test_two_ends_become_one_connection(
    network_key: bytes | None, over_websocket: bool, muxers: tuple[str, ...]
) -> None:
    """Also with ends that offer no muxer within Noise, or others too: then multistream decides as it always did."""
    other = upgrader(b"o" * 32, network_key=network_key, muxers=muxers)
    ours = upgrader(b"u" * 32, network_key=network_key)
    with trio.fail_after(PATIENCE_S):
        for dialer, listener in ((ours, other), (other, ours)):
            near, far = tcp_pipes()
            pipes: tuple[Pipe, Pipe] = await websockets(near, far) if over_websocket else (near, far)
            connections = await upgraded(dialer, listener, *pipes)
            assert [connection.peer for connection in connections] == [listener.peer_id, dialer.peer_id]
            assert [connection.is_outbound for connection in connections] == [True, False]
            assert connections[0].transport == ("websocket" if over_websocket else "tcp")
            assert connections[0].address == near.address + ("/ws" if over_websocket else "")
            await assert_carries(*connections)


class CountingPipe:
    """Counts how often the dialling end has to wait for the other."""

    def __init__(self, below: TcpPipe) -> None:
        self.below = below
        self.turns = 0
        self._sent = False

    def __getattr__(self, name: str) -> object:
        return getattr(self.below, name)

    def send_now(self, data: bytes) -> int:
        self._sent = True
        return self.below.send_now(data)

    async def receive_into(self, buffer: memoryview) -> int:
        self.turns += self._sent
        self._sent = False
        return await self.below.receive_into(buffer)


async def test_one_round_trip_is_enough() -> None:
    near, far = tcp_pipes()
    counting = CountingPipe(near)
    with trio.fail_after(PATIENCE_S):
        await upgraded(upgrader(b"a" * 32), upgrader(b"b" * 32), counting, far)  # type: ignore[arg-type]
    assert counting.turns == 1


# --- with whom not ---------------------------------------------------------------------------------------------------


async def refused(operation: Callable[[], Awaitable[object]], code: str, text: str, pipe: Pipe) -> None:
    with pytest.raises(TransportError, match=text) as caught:
        await operation()
    assert caught.value.code == code
    assert caught.value.outcome_known
    assert isinstance(pipe, ScriptedPipe | TcpPipe)
    assert pipe.aborted if isinstance(pipe, ScriptedPipe) else pipe.is_closed


async def test_another_peer_than_expected() -> None:
    near, far = tcp_pipes()
    dialer, listener = upgrader(b"a" * 32), upgrader(b"b" * 32)

    async def listen() -> None:
        await refused(partial(listener.inbound, far), "CUT_OFF", "closed in the handshake", far)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await refused(partial(dialer.outbound, near, dialer.peer_id), "WRONG_PEER", "another peer", near)
    # The listener never learned who dialled: the initiator's identity is in the third message, which was not sent.


async def test_ourselves() -> None:
    near, far = tcp_pipes()
    ours = upgrader(b"a" * 32)

    async def dial() -> None:
        connection = await ours.outbound(near, ours.peer_id)
        await connection.abort()

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            with pytest.raises(TransportError, match="ourselves"):
                await ours.inbound(far)
    assert far.is_closed


@pytest.mark.parametrize(
    "protocol", ["/plaintext/2.0.0", "/plaintext/1.0.0", "/secio/1.0.0", "/tls/1.0.0", "/noise/ix"]
)
async def test_nothing_but_noise_is_accepted(protocol: str) -> None:
    line = encode_prefixed(multistream.HEADER) + encode_prefixed(protocol.encode() + b"\n")
    pipe = ScriptedPipe([line])
    await refused(partial(upgrader(b"a" * 32).inbound, pipe), "CUT_OFF", "closed", pipe)
    assert pipe.sent == encode_prefixed(multistream.HEADER) + encode_prefixed(b"na\n")


async def test_nothing_but_noise_and_yamux_is_offered() -> None:
    pipe = ScriptedPipe([encode_prefixed(multistream.HEADER), encode_prefixed(b"na\n")])
    await refused(partial(upgrader(b"a" * 32).outbound, pipe, BOB.peer), "UNKNOWN_PROTOCOL", "/noise", pipe)
    proposal = encode_prefixed(multistream.HEADER) + encode_prefixed(b"/noise\n")
    assert pipe.sent[: len(proposal)] == proposal
    assert len(pipe.sent) == len(proposal) + 2 + 32  # and the first message: an ephemeral key
    assert Upgrader.from_seed(BOB.peer, b"b" * 32).identity.muxers == (YAMUX,)


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"\xff" * 20,
        b"\x13/multistream/2.0.0\n",
        b"\x13/multi",
        b"",
    ],
)
@pytest.mark.parametrize("dialling", [True, False])
async def test_something_else_altogether(garbage: bytes, dialling: bool) -> None:
    pipe = ScriptedPipe([garbage])
    ours = upgrader(b"a" * 32)
    operation: Callable[[], Awaitable[object]] = (
        partial(ours.outbound, pipe, BOB.peer) if dialling else partial(ours.inbound, pipe)
    )
    with pytest.raises(TransportError) as caught:
        await operation()
    assert caught.value.code in ("HANDSHAKE", "CUT_OFF")
    assert pipe.aborted


async def test_a_listener_says_nothing_to_who_does_not_speak_multistream() -> None:
    pipe = ScriptedPipe([b"GET / HTTP/1.1\r\n\r\n"])
    with pytest.raises(TransportError):
        await upgrader(b"a" * 32).inbound(pipe)
    assert not pipe.sent


async def test_a_huge_noise_message_is_not_waited_for() -> None:
    pipe = ScriptedPipe([encode_prefixed(multistream.HEADER), encode_prefixed(b"/noise\n"), b"\xff\xff"])
    await refused(partial(upgrader(b"a" * 32).inbound, pipe), "HANDSHAKE", "65535 bytes", pipe)


async def test_a_cancelled_handshake_closes_the_pipe() -> None:
    near, far = tcp_pipes()
    ours = upgrader(b"a" * 32)
    with trio.move_on_after(0.01):
        await ours.outbound(near, BOB.peer)
    assert near.is_closed
    near, far = tcp_pipes()
    with trio.move_on_after(0.01):
        await ours.inbound(far)
    assert far.is_closed


class BentPipe:
    """Passes bytes on up to a position; the byte there is cut off, with all that follow, or bent."""

    def __init__(self, below: TcpPipe, position: int, *, cut: bool) -> None:
        self.below = below
        self.left = position
        self.cut = cut
        self.received = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.below, name)

    async def receive_into(self, buffer: memoryview) -> int:
        if self.cut and not self.left:
            return 0
        size = await self.below.receive_into(buffer)
        self.received += size
        if self.cut:
            size = min(size, self.left)
        elif 0 <= self.left < size:
            buffer[self.left] ^= 0x40
        self.left -= size
        return size


@pytest.mark.parametrize("who", ["dialer", "listener"])
@pytest.mark.parametrize("cut", [True, False], ids=["cut off", "bent"])
async def test_a_handshake_cut_off_or_bent_at_any_byte_fails_at_that_end(who: str, cut: bool) -> None:
    """Nothing hangs and nothing but TransportError comes out. A bent length makes an end wait for bytes that don't come,
    until its caller's deadline."""
    dialer, listener = upgrader(b"a" * 32), upgrader(b"b" * 32)
    outcomes = []
    near, far = tcp_pipes()
    whole = BentPipe(near if who == "dialer" else far, 1 << 20, cut=False)
    ends = (whole, far) if who == "dialer" else (near, whole)
    await upgraded(dialer, listener, *ends)

    async def attempt(operation: Callable[[], Awaitable[MuxedConnection]], bent: bool) -> None:
        outcome = "late"
        with trio.move_on_after(PATIENCE_S if cut else 0.05):
            try:
                await operation()
                outcome = "connected"
            except TransportError:
                outcome = "failed"
        if bent:
            outcomes.append(outcome)

    with trio.fail_after(60):
        for position in range(0, whole.received, 1 if cut else 3):
            near, far = tcp_pipes()
            bent = BentPipe(near if who == "dialer" else far, position, cut=cut)
            async with trio.open_nursery() as nursery:
                pipe: Pipe = bent if who == "dialer" else near  # type: ignore[assignment]
                nursery.start_soon(attempt, partial(dialer.outbound, pipe, listener.peer_id), who == "dialer")
                pipe = bent if who == "listener" else far  # type: ignore[assignment]
                nursery.start_soon(attempt, partial(listener.inbound, pipe), who == "listener")
            near.abort()
            far.abort()
    assert "connected" not in outcomes
    if cut:
        assert "late" not in outcomes


# --- private networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialers", "listeners"), [(KEY, None), (None, KEY), (KEY, b"\x01" * 32), (b"\x01" * 32, KEY)])
async def test_who_has_not_the_key_gets_nowhere(dialers: bytes | None, listeners: bytes | None) -> None:
    failures: dict[str, TransportError] = {}

    async def attempt(name: str, operation: Callable[[], Awaitable[object]]) -> None:
        try:
            await operation()
        except TransportError as error:
            failures[name] = error

    with trio.fail_after(2.5):  # before any deadline of a handshake: it is seen, not waited for
        for _ in range(5):  # nonces are random
            near, far = tcp_pipes()
            async with trio.open_nursery() as nursery:
                dialer, listener = upgrader(b"a" * 32, network_key=dialers), upgrader(b"b" * 32, network_key=listeners)
                nursery.start_soon(attempt, "dialer", partial(dialer.outbound, near, listener.peer_id))
                nursery.start_soon(attempt, "listener", partial(listener.inbound, far))
            assert set(failures) == {"dialer", "listener"}
            for name, key in (("dialer", dialers), ("listener", listeners)):
                if key is not None:
                    assert "is not in our private network" in failures[name].message
                    assert failures[name].code == "NOT_IN_NETWORK"
                    assert key.hex() not in failures[name].message
            if dialers is None:
                assert "or it is in a private network that this node is not in" in failures["dialer"].message
            failures.clear()


async def test_strangers_get_24_random_bytes_and_nothing_more() -> None:
    for hello in (
        encode_prefixed(multistream.HEADER) + encode_prefixed(b"/noise\n") + bytes(34),
        secrets.token_bytes(200),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".ljust(64, b"x"),
    ):
        pipe = ScriptedPipe([hello])
        with pytest.raises(TransportError):
            await upgrader(b"a" * 32, network_key=KEY).inbound(pipe)
        assert len(pipe.sent) == NONCE_BYTES
        assert pipe.aborted


async def test_a_listener_that_waits_for_our_nonce_gets_it() -> None:
    """js-libp2p says nothing before it has seen the other end's nonce."""
    near, far = tcp_pipes()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            ours = upgrader(b"a" * 32, network_key=KEY)

            async def listen() -> None:
                with pytest.raises(TransportError):
                    await ours.inbound(far)

            nursery.start_soon(listen)
            assert len(await read_exactly(near, NONCE_BYTES)) == NONCE_BYTES
            near.abort()


def test_no_secret_shows() -> None:
    text = repr(Upgrader.from_seed(PeerId("12D3KooW"), b"seed" * 8, KEY))
    assert "seedseed" not in text
    assert KEY.hex() not in text
    assert repr(KEY) not in text
