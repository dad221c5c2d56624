"""Peers that are not where they said: they are looked for once, and dialled where others say."""

from __future__ import annotations

import pytest
import trio
from net_nodes import open_node, peer_of, polled
from test_relay import hold_relays

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import SEEKS_BURST
from cocoon_p2p.net.libp2p import Libp2pNetwork
from cocoon_p2p.net.reach import seeking

NOWHERE = "/ip4/127.0.0.1/tcp/1"


async def meet(node: Libp2pNetwork, other: Libp2pNetwork) -> None:
    """Connect, and hear what it speaks."""
    await node.connect(other.peer_id, other.addresses())
    link = node._switch.link(other.peer_id)
    assert link is not None
    await link.identified.wait()


async def test_others_know_where_it_is_now() -> None:
    async with open_node(1) as friend, open_node(2) as moved, open_node(3) as seeker:
        await moved.connect(friend.peer_id, friend.addresses())
        await meet(seeker, friend)
        await polled(lambda: bool(friend._switch.book.get(moved.peer_id)))
        await seeker.connect(moved.peer_id, [NOWHERE])
        assert (seeker.counters()["peer_sought"], seeker.counters()["peer_found"]) == (1, 1)


async def test_a_relay_that_both_know_leads_there() -> None:
    """Also when nobody else knows that: the relay has not told, nor the peer."""
    async with open_node(1, dht_server=False) as relay, open_node(2, listen=[]) as hidden, open_node(3) as seeker:
        relay._relay_server.set_enabled(True)
        hold_relays(hidden)
        await hidden.connect(relay.peer_id, relay.addresses())
        await polled(lambda: hidden._relay_client.relays() == (relay.peer_id,))
        await meet(seeker, relay)
        await seeker.connect(hidden.peer_id, [NOWHERE])
        (through,) = [peer.address for peer in seeker.peers() if peer.peer == hidden.peer_id]
        assert through == f"{relay.addresses()[0]}/p2p/{relay.peer_id}/p2p-circuit"


async def test_who_is_nowhere_stays_away() -> None:
    """The error is that of the addresses that were known, and the relays are asked no more often than they may."""
    async with open_node(1) as relay, open_node(3) as seeker:
        relay._relay_server.set_enabled(True)
        await meet(seeker, relay)
        for number in range(2 * SEEKS_BURST):
            with pytest.raises(TransportError, match=rf"{NOWHERE}: Connection refused$"):
                await seeker.connect(peer_of(100 + number), [NOWHERE])
        assert SEEKS_BURST <= seeker.counters()["peer_sought"] <= SEEKS_BURST + 8
        assert "peer_found" not in seeker.counters()
        with pytest.raises(TransportError, match=r"no address of .* is known"):
            await seeker.connect(peer_of(99), [])


async def test_who_is_alone_asks_nobody() -> None:
    async with open_node(3) as seeker:
        with pytest.raises(TransportError, match="Connection refused"):
            await seeker.connect(peer_of(1), [NOWHERE])
        assert "peer_sought" not in seeker.counters()


async def test_a_question_that_takes_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_nothing(peer: PeerId) -> bool:
        await trio.sleep_forever()
        return False

    monkeypatch.setattr(seeking, "SEEK_TIMEOUT_S", 0.05)
    async with open_node(1) as silent, open_node(3) as seeker:
        monkeypatch.setattr(silent._dht._server, "_take_turn", say_nothing)
        await meet(seeker, silent)
        with pytest.raises(TransportError, match="Connection refused"), trio.fail_after(2.0):
            await seeker.connect(peer_of(9), [NOWHERE])
