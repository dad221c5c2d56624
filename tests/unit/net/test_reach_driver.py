"""How a node finds out whether it can be reached: real nodes on loopback."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from net_nodes import open_node, polled

from cocoon_p2p.errors import TransportError
from cocoon_p2p.ids import PeerId
from cocoon_p2p.limits import AUTONAT_DOUBT_ROUNDS
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.identify import identify
from cocoon_p2p.net.reach import probing
from cocoon_p2p.net.reach.probing import Reach
from cocoon_p2p.net.switch.origins import origin_of_host


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses are for large networks."""
    for name in ("AUTONAT_GATHER_S", "AUTONAT_ROUND_INTERVAL_S", "AUTONAT_RETRY_S"):
        monkeypatch.setattr(probing, name, 0.05)
    for name in ("IDENTIFY_PUSH_GATHER_S", "IDENTIFY_PUSH_INTERVAL_S"):
        monkeypatch.setattr(identify, name, 0.02)


async def test_right_after_start_nobody_has_told() -> None:
    async with open_node(1) as network:
        state = network.reachability()
        assert (state.state, state.reason) == ("unknown", "this node listens on this machine only")
        assert state.addresses == network.addresses()


async def test_a_node_that_only_dials() -> None:
    async with open_node(1) as server, open_node(2, listen=()) as client:
        await client.connect(server.peer_id, server.addresses())
        state = client.reachability()
        assert (state.state, state.reason) == ("private", "this node listens on no address; it only dials")
        await polled(lambda: server.reachability().state == "reachable")


async def test_on_one_machine_two_nodes_tell_each_other() -> None:
    """One because it was dialled, the other because it was dialled back."""
    async with open_node(1) as one, open_node(2) as two:
        await two.connect(one.peer_id, one.addresses())
        for node in (one, two):
            await polled(lambda node=node: node.reachability().state == "reachable")  # type: ignore[misc]
            state = node.reachability()
            assert state.reason == f"1 peer on this machine dialled us at {node.addresses()[0]}"
            assert state.advice == ""
            assert state.addresses == node.addresses()
        assert two.reachability().observed == ("127.0.0.1",)
        assert one.reachability().observed == ("127.0.0.1",)
        await two.disconnect(one.peer_id)
        await polled(lambda: one.reachability().observed == two.reachability().observed == ())


async def test_who_cannot_be_dialled_is_private_and_takes_a_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a router: dialling back fails. The relay is the peer that dialling back was asked of."""

    async def closed(peer: PeerId, target: Address) -> None:
        raise TransportError("the router drops it", outcome_known=True)

    async with open_node(1) as relay, open_node(2) as node:
        monkeypatch.setattr(relay._switch, "try_dial", closed)
        relay._relay_server.set_enabled(True)
        await node.connect(relay.peer_id, relay.addresses())
        await polled(lambda: node.reachability().state == "relayed")
        state = node.reachability()
        assert state.relays == (relay.peer_id,)
        assert state.reason == (
            f"1 peer on this machine could not dial us at {node.addresses()[0]}; "
            f"relay {relay.peer_id} takes connections for us"
        )
        assert state.advice.startswith("let TCP port ")
        (through,) = [text for text in state.addresses if "/p2p-circuit" in text]
        assert through == f"{relay.addresses()[0]}/p2p/{relay.peer_id}/p2p-circuit"
        await polled(lambda: through in map(str, relay._switch.book.get(node.peer_id)))  # by identify/push


async def test_records_and_circuits_are_served_by_who_can_be_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, list[bool]] = {"dht": [], "relay": []}
    async with open_node(1) as peer, open_node(2) as network:
        watched = Reach(
            network._switch,
            network._streams,
            network._identification,
            set_dht_server=served["dht"].append,
            set_relay_server=served["relay"].append,
        )
        watched.refresh()
        assert served == {"dht": [True], "relay": [False]}  # nobody has told: records yes, circuits no
        await network.connect(peer.peer_id, peer.addresses())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.run)
            await polled(lambda: served == {"dht": [True], "relay": [False, True]})
            nursery.cancel_scope.cancel()


class Router:
    """What a PortMapper tells."""

    def __init__(self) -> None:
        self.on_change: Callable[[], object] = lambda: None
        self.mapped: tuple[Address, ...] = ()
        self.outcome = ""


@pytest.mark.parametrize("cause", ["moved", "alone", "observed", "mapped"])
async def test_what_may_have_changed_is_asked_again_soon(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next turn, in a quarter of an hour: the machine has moved, or was alone for a moment, or is seen from
    elsewhere too, or its router forwards another port."""
    async with open_node(1) as peer, open_node(2) as node:
        assert node._reach is not None
        reach, router = node._reach, Router()
        reach._router, router.on_change = router, reach._look_at_router
        await node.connect(peer.peer_id, peer.addresses())
        await polled(lambda: reach.status().state == "reachable")
        await polled(lambda: not reach._rounds_in_doubt)

        async def closed(peer: PeerId, target: Address) -> None:
            raise TransportError("the router drops it now", outcome_known=True)

        monkeypatch.setattr(peer._switch, "try_dial", closed)
        with trio.move_on_after(0.3):
            await polled(lambda: reach.status().state != "reachable")
        assert reach.status().state == "reachable", "nothing tells it yet"
        if cause == "moved":
            node._switch._note_move()
        elif cause == "alone":
            await node.disconnect(peer.peer_id)
            await polled(lambda: not peer.peers())
            await node.connect(peer.peer_id, peer.addresses())
        elif cause == "observed":
            link = next(link for link in node._switch.links_of(peer.peer_id) if link.connection.is_outbound)
            elsewhere = replace(link, origin=origin_of_host("192.168.1.1"))
            for host in ("192.168.1.7", "192.168.1.8"):
                reach._take_observed(elsewhere, parse_address(f"/ip4/{host}/tcp/5000"))
            reach._take_observed(link, parse_address("/ip4/127.0.0.1/tcp/5000"))
        else:
            router.mapped = (parse_address("/ip4/45.1.2.3/tcp/4601"),)
            router.on_change()
        await polled(lambda: reach.status().state == "private")


async def test_who_is_dialled_although_nobody_could_is_asked_again_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_node(1) as peer, open_node(2) as node, open_node(3, listen=()) as stranger:
        dial, asked, is_closed = peer._switch.try_dial, 0, True

        async def try_dial(who: PeerId, target: Address) -> None:
            nonlocal asked
            asked += 1
            if is_closed:
                raise TransportError("the router drops it", outcome_known=True)
            await dial(who, target)

        monkeypatch.setattr(peer._switch, "try_dial", try_dial)
        await node.connect(peer.peer_id, peer.addresses())
        await polled(lambda: node.reachability().state == "private")
        is_closed, before = False, asked
        await stranger.connect(node.peer_id, node.addresses())
        await polled(lambda: node.reachability().state == "reachable")
        assert asked > before
        assert node._reach is not None
        await polled(lambda: not node._reach._rounds_in_doubt)
        assert asked - before <= 2 * AUTONAT_DOUBT_ROUNDS + 1


async def test_an_address_that_changed_is_tested_anew() -> None:
    async with open_node(1) as peer, open_node(2) as node:
        await node.connect(peer.peer_id, peer.addresses())
        await polled(lambda: node.reachability().state == "reachable")
        link = next(link for link in node._switch.links_of(peer.peer_id) if link.connection.is_outbound)
        assert node._reach is not None
        node._reach._take_observed(link, parse_address("/ip4/127.0.0.2/tcp/5000"))  # what identify/push would bring
        assert node.reachability().state == "unknown"
        assert node.reachability().observed == ("127.0.0.2",)
        # There nobody dials for it: the peer sees it at 127.0.0.1 still.
        await polled(lambda: peer.counters().get("autonat_refused", 0) > 0)
