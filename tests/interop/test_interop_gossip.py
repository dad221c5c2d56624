"""Gossip with peers of another make: StrictSign, meshes, and messages that one side hands on for the other."""

from __future__ import annotations

import pytest
from foreign import Foreign, OpenForeign
from interop_nodes import dial_each_other, open_node, polled, trouble

from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import GOSSIP_MESSAGE_BYTES_MAX
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.testing.net_contract import TOPIC

ALL = ["py", "js", "go"]
TEXTS = ["first", "", "zwölf", "x" * GOSSIP_MESSAGE_BYTES_MAX, "last"]


def accept(_: PeerId, __: bytes) -> bool:
    return True


async def meshed(network: Libp2pNetwork, foreign: Foreign) -> None:
    """Each has the other in the topic's mesh (the daemon of go shows its subscribers only)."""
    await polled(lambda: foreign.peer_id in network._gossip._topics[TOPIC].mesh)
    await foreign.call("wait_mesh", topic=TOPIC, peer=network.peer_id)


@pytest.mark.parametrize("implementation", ALL)
@pytest.mark.parametrize("we_dial", [True, False], ids=["we dial", "they dial"])
async def test_both_hear_each_other(open_foreign: OpenForeign, we_dial: bool) -> None:
    async with open_node(1) as network, open_foreign() as foreign, network.subscribe(TOPIC, accept) as heard:
        await foreign.call("subscribe", topic=TOPIC)
        await dial_each_other(network, foreign, we_dial=we_dial)
        await meshed(network, foreign)
        for text in TEXTS:
            await network.publish(TOPIC, text.encode())
            assert await foreign.call("receive", topic=TOPIC) == [network.peer_id, text]
            await foreign.call("publish", topic=TOPIC, data=text)
            assert await anext(heard) == (foreign.peer_id, text.encode())
        assert trouble(network) == {}


@pytest.mark.parametrize("implementation", ALL)
async def test_whoever_subscribes_later_is_heard(open_foreign: OpenForeign) -> None:
    """The subscriptions come after the connection, one after the other, and one of them ends."""
    async with open_node(1) as network, open_foreign() as foreign:
        await network.connect(foreign.peer_id, foreign.addresses)
        await foreign.call("subscribe", topic=TOPIC)
        async with network.subscribe(TOPIC, accept) as heard:
            await meshed(network, foreign)
            await foreign.call("publish", topic=TOPIC, data="one")
            assert await anext(heard) == (foreign.peer_id, b"one")
        await network.publish(TOPIC, b"from outside")  # we no longer hear, and may still speak
        assert await foreign.call("receive", topic=TOPIC) == [network.peer_id, "from outside"]


@pytest.mark.parametrize("implementation", ALL)
async def test_they_hand_on_what_we_signed(open_foreign: OpenForeign) -> None:
    """Two of ours that know only the foreign peer between them."""
    async with (
        open_node(1) as one,
        open_node(2) as two,
        open_foreign() as between,
        one.subscribe(TOPIC, accept) as heard_by_one,
        two.subscribe(TOPIC, accept) as heard_by_two,
    ):
        await between.call("subscribe", topic=TOPIC)
        for network in (one, two):
            await network.connect(between.peer_id, between.addresses)
            await meshed(network, between)
        await one.publish(TOPIC, b"to two")
        assert await anext(heard_by_two) == (one.peer_id, b"to two")
        await two.publish(TOPIC, b"to one")
        assert await anext(heard_by_one) == (two.peer_id, b"to one")


@pytest.mark.parametrize("implementation", ALL)
async def test_we_hand_on_what_they_signed(open_foreign: OpenForeign) -> None:
    """Two of theirs with ours between them."""
    async with (
        open_foreign() as one,
        open_foreign() as two,
        open_node(1) as between,
        between.subscribe(TOPIC, accept),
    ):
        for foreign in (one, two):
            await foreign.call("subscribe", topic=TOPIC)
            await between.connect(foreign.peer_id, foreign.addresses)
            await meshed(between, foreign)
        await one.call("publish", topic=TOPIC, data="to two")
        assert await two.call("receive", topic=TOPIC) == [one.peer_id, "to two"]
        await two.call("publish", topic=TOPIC, data="to one")
        assert await one.call("receive", topic=TOPIC) == [two.peer_id, "to one"]
