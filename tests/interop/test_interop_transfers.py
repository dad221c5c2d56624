"""Streams at their bounds with peers of another make: large transfers, many at once, half-closed ones, and resets."""

from __future__ import annotations

import hashlib
import os

import pytest
import trio
from foreign import OpenForeign
from interop_nodes import dial_each_other, echoed_by_them, echoed_by_us, open_node, ping, polled, trouble

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.limits import FRAME_BYTES_MAX, STREAMS_PER_PEER_MAX
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import Stream
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import ECHO, echo

DIGEST = "/test/digest/1"
"""Bytes to the end of one direction, and their SHA-256 back."""
CUT = "/test/cut/1"
"""Resets as soon as something has come."""
ALL = ["py", "js", "go"]
HALF_CLOSING = ["py", "js"]
"""Go's daemon ends both directions when its client ends one."""
MANY = 100
"""Streams of either side at once."""
LARGE = {"py": 16 << 20, "js": 64 << 20, "go": 64 << 20}
"""py-libp2p moves about 50 MB a second, with both ends at work."""


async def digest(stream: MuxStream) -> None:
    taken = hashlib.sha256()
    while piece := await stream.read(1 << 20):
        taken.update(piece)
    await stream.write(taken.digest())


async def cut(stream: MuxStream) -> None:
    await stream.read(1)
    await stream.reset()


def serve(network: Libp2pNetwork) -> None:
    network.set_handler(ECHO, echo)
    network._streams.set_internal(DIGEST, digest)
    network._streams.set_internal(CUT, cut)


@pytest.mark.parametrize("implementation", ALL)
async def test_a_large_transfer_there_and_back(open_foreign: OpenForeign, implementation: str) -> None:
    frames = [FRAME_BYTES_MAX] * (LARGE[implementation] // FRAME_BYTES_MAX)
    async with open_node(1) as network, open_foreign() as foreign:
        serve(network)
        await dial_each_other(network, foreign, we_dial=True)
        await echoed_by_them(network, foreign, frames)
        await echoed_by_us(network, foreign, frames)
        assert trouble(network) == {}


@pytest.mark.parametrize("implementation", HALF_CLOSING)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_an_answer_after_the_end_of_a_large_question(
    open_foreign: OpenForeign, implementation: str, we_dial: bool
) -> None:
    size = LARGE[implementation]
    async with open_node(1) as network, open_foreign() as foreign:
        serve(network)
        await dial_each_other(network, foreign, we_dial=we_dial)
        assert await foreign.call("digest", peer=network.peer_id, size=size)
        sent = os.urandom(size)
        stream = await network._streams.open_raw(foreign.peer_id, DIGEST)
        await stream.write(sent)
        stream.close_write()
        assert await stream.read_exactly(32) == hashlib.sha256(sent).digest()
        assert await stream.read(1) == b""
        await stream.close()
        await polled(lambda: streams_open(network) == 0)


@pytest.mark.parametrize("implementation", ALL)
async def test_many_streams_at_once(open_foreign: OpenForeign) -> None:
    assert MANY < STREAMS_PER_PEER_MAX
    async with open_node(1) as network, open_foreign() as foreign:
        serve(network)
        await dial_each_other(network, foreign, we_dial=True)
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                sizes = [1, number + 1, 10_000]
                nursery.start_soon(echoed_by_us, network, foreign, sizes)
                nursery.start_soon(echoed_by_them, network, foreign, sizes)
        assert trouble(network) == {}


@pytest.mark.parametrize("implementation", ALL)
async def test_they_reset_in_the_middle(open_foreign: OpenForeign) -> None:
    """A stream of theirs within a frame, and one of ours that they serve. The connection and other streams stay."""
    failures: list[TransportError] = []

    async def receive(stream: Stream) -> None:
        try:
            await stream.receive()
        except TransportError as error:
            failures.append(error)
            raise

    async with open_node(1) as network, open_foreign() as foreign:
        network.set_handler(ECHO, receive)
        await dial_each_other(network, foreign, we_dial=False)
        other = await network.open_stream(foreign.peer_id, ECHO)
        await foreign.call("abort", peer=network.peer_id)
        await polled(lambda: bool(failures))
        assert not isinstance(failures[0], EndOfStream)
        if "go" not in foreign.version:  # which would need a listener more
            stream = await network._streams.open_raw(foreign.peer_id, CUT)
            await stream.write(bytes(1000))
            with pytest.raises(TransportError) as caught:
                await stream.read(1)
            assert caught.value.code == "CUT_OFF"
        await other.send(b"still there?")
        assert await other.receive() == b"still there?"
        await other.aclose()


@pytest.mark.parametrize("implementation", ALL)
async def test_we_reset_in_the_middle(open_foreign: OpenForeign, implementation: str) -> None:
    # py-libp2p may forget the stream before its reader wakes; go's daemon closes its socket in either case.
    seen = {"py": ("StreamReset", "the end"), "js": ("StreamResetError",), "go": ("the end",)}
    async with open_node(1) as network, open_foreign() as foreign:
        serve(network)
        await dial_each_other(network, foreign, we_dial=True)
        assert await foreign.call("cut", peer=network.peer_id) in seen[implementation]
        stream = await network.open_stream(foreign.peer_id, ECHO)
        await stream.send(bytes(100_000))
        await stream.reset()
        await ping(network, foreign.peer_id)
        await echoed_by_us(network, foreign, [1000])


def streams_open(network: Libp2pNetwork) -> int:
    (link,) = network._switch.links()
    return link.application_streams
