"""Connections, identify, ping and streams with peers of another make, whoever dials."""

from __future__ import annotations

import random

import pytest
import trio
from foreign import OpenForeign
from interop_nodes import dial_each_other, echoed_by_them, echoed_by_us, identified_link, open_node, ping, trouble

from cocoon_p2p.errors import EndOfStream, TransportError
from cocoon_p2p.limits import FRAME_BYTES_MAX
from cocoon_p2p.net.dht.messages import KAD
from cocoon_p2p.net.gossip.messages import MESHSUB
from cocoon_p2p.net.identify.identify import IDENTIFY, IDENTIFY_PUSH, PING
from cocoon_p2p.net.port import PeerDisconnected
from cocoon_p2p.net.reach.autonat import AUTONAT
from cocoon_p2p.testing.net_contract import ECHO, echo

AGENTS = {"py": "py-libp2p/", "js": "js-libp2p/", "go": "p2pd/"}
ALL = list(AGENTS)
_random = random.Random(20)
SIZES = [1, 65_515, 65_519, 65_520, FRAME_BYTES_MAX, *(_random.randrange(1, FRAME_BYTES_MAX) for _ in range(4))]
"""Round the sizes of a Noise message, the longest frame, and whatever: together beyond every window."""


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_identify_and_ping(open_foreign: OpenForeign, implementation: str, we_dial: bool) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        network.set_handler(ECHO, echo)
        await dial_each_other(network, foreign, we_dial=we_dial)
        link = await identified_link(network, foreign.peer_id)
        (there,) = network.peers()
        assert there.peer == foreign.peer_id
        assert there.direction == ("outbound" if we_dial else "inbound")
        assert there.agent.startswith(AGENTS[implementation])
        assert {IDENTIFY, PING, ECHO, *MESHSUB} <= link.protocols
        assert set(foreign.addresses) <= set(map(str, network._switch.book.get(foreign.peer_id)))
        await ping(network, foreign.peer_id)
        if implementation != "go":  # its daemon has no such commands
            about_us = await foreign.call("identify", peer=network.peer_id)
            assert about_us["agent"] == "interop/1"
            assert {IDENTIFY, IDENTIFY_PUSH, PING, AUTONAT, ECHO, KAD, *MESHSUB} <= set(about_us["protocols"])
            assert about_us["addresses"] == list(network.addresses())
            assert about_us["observed"] == there.address
            assert len(await foreign.call("ping", peer=network.peer_id)) == 3


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_streams_of_both(open_foreign: OpenForeign, we_dial: bool) -> None:
    """Three of theirs to our echo and three of ours to theirs, all at once, over one connection."""
    async with open_node(1) as network, open_foreign() as foreign:
        network.set_handler(ECHO, echo)
        await dial_each_other(network, foreign, we_dial=we_dial)

        async with trio.open_nursery() as nursery:
            for part in (SIZES, SIZES[::-1], SIZES[4:]):
                nursery.start_soon(echoed_by_us, network, foreign, part)
                nursery.start_soon(echoed_by_them, network, foreign, part)
        assert len(network.peers()) == 1
        assert trouble(network) == {}


@pytest.mark.parametrize("implementation", ALL)
async def test_a_protocol_that_they_do_not_speak(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_foreign() as foreign:
        await network.connect(foreign.peer_id, foreign.addresses)
        with pytest.raises(TransportError) as caught:
            await network.open_stream(foreign.peer_id, "/test/unknown/1")
        assert caught.value.code == "UNKNOWN_PROTOCOL"
        await ping(network, foreign.peer_id)


@pytest.mark.parametrize("implementation", ALL)
async def test_another_identity_than_expected(open_foreign: OpenForeign) -> None:
    async with open_node(1) as network, open_node(2) as absent, open_foreign() as foreign:
        with pytest.raises(TransportError):
            await network.connect(absent.peer_id, foreign.addresses)


@pytest.mark.parametrize("implementation", ALL)
async def test_their_end_is_noticed(open_foreign: OpenForeign) -> None:
    """A stream that they leave open is cut off, and the peer is gone."""
    async with open_node(1) as network, network.events() as events:
        async with open_foreign() as foreign:
            await network.connect(foreign.peer_id, foreign.addresses)
            stream = await network.open_stream(foreign.peer_id, ECHO)
            await stream.send(b"are you there?")
            assert await stream.receive() == b"are you there?"
        with pytest.raises(TransportError) as caught:
            await stream.receive()
        assert not isinstance(caught.value, EndOfStream)
        while await anext(events) != PeerDisconnected(foreign.peer_id):
            pass
        assert network.peers() == ()
