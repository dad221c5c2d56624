"""Several connections with one peer: which one is used, and what goes on when one of them ends."""

from __future__ import annotations

import pytest
import trio
from gossip_attackers import accept
from net_nodes import open_node, polled

from cocoon_p2p.ids import PeerId
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.gossip import neighbour as neighbour_module
from cocoon_p2p.net.gossip.messages import MESHSUB
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.port import PeerConnected
from cocoon_p2p.net.switch.links import Link
from cocoon_p2p.net.yamux.stream import Carrier, MuxStream
from cocoon_p2p.testing.net_contract import ECHO, TOPIC, echo


async def second_link(one: Libp2pNetwork, two: Libp2pNetwork) -> Link:
    """Made by `one`; both ends know who the other is."""
    link = await one._switch.dial_direct(two.peer_id, [parse_address(address) for address in two.addresses()])
    await polled(lambda: all(each.identified.is_set() for each in links(one, two) + links(two, one)))
    assert len(links(one, two)) == len(links(two, one)) == 2
    return link


def links(one: Libp2pNetwork, two: Libp2pNetwork) -> list[Link]:
    return one._switch.links_of(two.peer_id)


def used(one: Libp2pNetwork, two: Libp2pNetwork) -> Link:
    link = one._switch.link(two.peer_id)
    assert link is not None
    return link


def gossip_connections(sender: Libp2pNetwork) -> list[Carrier]:
    """Those over which it opens its stream of gossip from now on, the newest last."""
    opened: list[Carrier] = []
    open_raw = sender._streams.open_raw

    async def noted(peer: PeerId, *protocols: str, link: Link | None = None) -> MuxStream:
        stream = await open_raw(peer, *protocols, link=link)
        if protocols == MESHSUB:
            opened.append(stream.connection)
        return stream

    sender._streams.open_raw = noted  # type: ignore[method-assign]
    return opened


def gossip_streams(sender: Libp2pNetwork, receiver: Libp2pNetwork) -> int:
    return len(receiver._gossip._neighbour(sender.peer_id)._inbound)


@pytest.mark.parametrize("who", ["publisher", "subscriber"])
@pytest.mark.parametrize("which", ["used", "other"])
async def test_gossip_goes_on_when_one_of_two_connections_ends(who: str, which: str) -> None:
    """Whoever ends it, and whichever: what is published at that very moment arrives."""
    async with (
        open_node(1) as one,
        open_node(2) as two,
        one.subscribe(TOPIC, accept),
        two.subscribe(TOPIC, accept) as heard,
    ):
        await one.connect(two.peer_id, two.addresses())
        await polled(lambda: bool(one._gossip._topics[TOPIC].mesh.peers and two._gossip._topics[TOPIC].mesh.peers))
        for number in range(3):
            await second_link(one, two)
            ending = one if who == "publisher" else two
            other = two if ending is one else one
            at = used(ending, other)
            (spare,) = (link for link in links(ending, other) if link is not at)
            await (at if which == "used" else spare).connection.abort()
            texts = [b"%d %d" % (number, each) for each in range(5)]
            for text in texts:
                await one.publish(TOPIC, text)
            assert sorted([(await anext(heard))[1] for _ in texts]) == texts
            await polled(lambda: len(links(one, two)) == len(links(two, one)) == 1)
            assert not one.counters().get("gossip_out_dropped")


async def test_what_was_lost_with_a_connection_is_told_again() -> None:
    """A message that went out on a connection that took it to nobody: IHAVE on the other one tells of it at once."""
    async with (
        open_node(1) as one,
        open_node(2) as two,
        one.subscribe(TOPIC, accept),
        two.subscribe(TOPIC, accept) as heard,
    ):
        opened = gossip_connections(one)
        await one.connect(two.peer_id, two.addresses())
        await polled(lambda: bool(one._gossip._topics[TOPIC].mesh.peers and two._gossip._topics[TOPIC].mesh.peers))
        await second_link(one, two)
        at = used(one, two)
        await polled(lambda: opened[-1] is at.connection)

        async def lose(*parts: object) -> None:
            await trio.lowlevel.checkpoint()

        at.connection.send = lose  # type: ignore[assignment]
        await one.publish(TOPIC, b"lost on its way")
        outbox = one._gossip._neighbours[two.peer_id].outbox
        await polled(lambda: not len(outbox))
        one._gossip._heartbeat = lambda: None  # type: ignore[method-assign]  # which would tell of it, too
        await at.connection.abort()
        assert (await anext(heard))[1] == b"lost on its way"


async def test_a_better_connection_takes_over_and_the_old_stream_is_heard_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_module, "GOSSIP_OVERLAP_S", 0.2)
    async with (
        open_node(1) as one,
        open_node(2) as two,
        one.subscribe(TOPIC, accept),
        two.subscribe(TOPIC, accept) as heard,
    ):
        await one.connect(two.peer_id, two.addresses())
        await polled(lambda: bool(one._gossip._topics[TOPIC].mesh.peers and two._gossip._topics[TOPIC].mesh.peers))
        for number in range(20):
            await one.publish(TOPIC, b"%02d" % number)
            if number == 10:
                await second_link(one, two)
        assert sorted([(await anext(heard))[1] for _ in range(20)]) == [b"%02d" % number for number in range(20)]
        await polled(lambda: gossip_streams(one, two) == gossip_streams(two, one) == 1)
        dropped = ("gossip_out_dropped", "gossip_rpc_invalid", "gossip_out_failed")
        assert not any(node.counters().get(name) for node in (one, two) for name in dropped)


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
async def test_a_dial_back_is_nobodys_connection(first: int, second: int) -> None:
    """AutoNAT's: at the end that dials it never shows, and at the other no stream goes over it, whichever of the two would
    be preferred for good."""
    async with open_node(first) as asker, open_node(second) as asked, asked.events() as events:
        asker.set_handler(ECHO, echo)
        await asker.connect(asked.peer_id, asked.addresses())
        assert await anext(events) == PeerConnected(asker.peer_id)
        await polled(used(asker, asked).identified.is_set)
        settled, seen = used(asker, asked), []

        async def look(link: Link) -> None:
            seen.append((link, used(asker, asked), len(links(asked, asker))))

        asker._switch.on_link.append(look)
        for _ in range(10):
            await asked._switch.try_dial(asker.peer_id, parse_address(asker.addresses()[0]))
            stream = await asker._streams.open_raw(asked.peer_id, "/ipfs/ping/1.0.0")
            assert stream.connection is settled.connection
            stream.close_soon()
        await polled(lambda: len(seen) == 10)
        for link, best, links_of_asked in seen:
            assert link is not settled
            assert best is settled
            assert links_of_asked == 1
        await polled(lambda: links(asker, asked) == [settled])
        with trio.move_on_after(0.05):
            assert await anext(events) is None, "nothing has happened to the asked node's peers"
