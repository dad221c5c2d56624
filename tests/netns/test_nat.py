"""Nodes behind real NATs and firewalls (the Linux kernel's): who reaches whom, and how."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio
from driving import Driven, eventually, open_driven
from namespaces import Internet, Machine


@dataclass
class Town:
    """A public relay, and nodes that know it."""

    internet: Internet
    relay: Driven
    nursery: trio.Nursery
    options: dict[str, str]

    async def node(self, machine: Machine, number: int) -> Driven:
        opened = partial(open_driven, machine, number, bootstrap=self.relay.bootstrap, **self.options)
        driven: Driven = await self.nursery.start(_keep_open, opened)
        return driven

    async def reserved(self, machine: Machine, number: int) -> tuple[Driven, list[str]]:
        """A node that cannot be reached, with its addresses at the relay."""
        node = await self.node(machine, number)
        await eventually(lambda: _has_relay(node))
        return node, await circuits_of(node)


async def _keep_open(
    opened: Callable[[], AbstractAsyncContextManager[Driven]], task_status: trio.TaskStatus[Driven]
) -> None:
    async with opened() as driven:
        task_status.started(driven)
        await trio.sleep_forever()


@pytest.fixture
async def town(internet: Internet, nursery: trio.Nursery) -> AsyncIterator[Town]:
    async with _town(internet, nursery) as town:
        yield town


@pytest.fixture
async def private_town(internet: Internet, nursery: trio.Nursery) -> AsyncIterator[Town]:
    """All of them in a private network."""
    async with _town(internet, nursery, network_key="2a" * 32) as town:
        yield town


@asynccontextmanager
async def _town(internet: Internet, nursery: trio.Nursery, **options: str) -> AsyncIterator[Town]:
    async with open_driven(internet.machine("relay"), 1, relay_server="on", **options) as relay:
        yield Town(internet, relay, nursery, options)


async def _has_relay(node: Driven) -> bool:
    return bool((await node.call("reachability"))["relays"])


async def circuits_of(node: Driven) -> list[str]:
    return [text for text in (await node.call("reachability"))["addresses"] if text.endswith("/p2p-circuit")]


async def is_direct(node: Driven, other: Driven) -> bool:
    link = await node.link(other.peer_id)
    return link is not None and not link["relayed"]


async def test_a_public_client_reaches_a_provider_behind_a_nat(town: Town) -> None:
    """Through the relay; the provider then dials the client, which can be reached."""
    router = town.internet.router("router", "cone")
    provider, circuits = await town.reserved(town.internet.behind(router, "provider"), 2)
    client = await town.node(town.internet.machine("client"), 3)
    await client.call("connect", peer=provider.peer_id, addresses=[f"/ip4/{router.host}/tcp/4001"])
    assert (await client.call("counters"))["peer_found"] == 1, "nobody listens there; the relay leads to it"
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=100_000)
    await eventually(lambda: is_direct(client, provider))
    link = await client.link(provider.peer_id)
    assert link is not None and link["direction"] == "inbound"
    assert await client.call("echo", stream=stream, size=100_000), "what was begun through the relay goes on"
    assert (await provider.call("reachability"))["state"] == "relayed"


async def test_two_cone_nats_are_punched_through(town: Town) -> None:
    provider, circuits = await town.reserved(
        town.internet.behind(town.internet.router("router1", "cone"), "provider"), 2
    )
    client = await town.node(town.internet.behind(town.internet.router("router2", "cone"), "client"), 3)
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=100_000)
    await eventually(lambda: is_direct(client, provider))
    await eventually(lambda: is_direct(provider, client))
    assert (await provider.call("counters"))["hole_punched"] == 1
    await client.call("close", stream=stream)
    stream = await client.call("open", peer=provider.peer_id)
    carried = (await town.relay.call("counters")).get("relay_bytes", 0)
    assert await client.call("echo", stream=stream, size=1_000_000)
    await eventually(lambda: _no_circuits(town.relay))
    assert (await town.relay.call("counters"))["relay_bytes"] - carried < 1_000_000, "it went the direct way"
    assert await client.call("echo", stream=stream, size=1000), "and outlives the relayed connection"


async def test_a_private_network_is_punched_through_to(private_town: Town) -> None:
    """Its encryption goes round the circuit and round the punched connection, too."""
    town = private_town
    provider, circuits = await town.reserved(
        town.internet.behind(town.internet.router("router1", "cone"), "provider"), 2
    )
    client = await town.node(town.internet.behind(town.internet.router("router2", "cone"), "client"), 3)
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=100_000)
    await eventually(lambda: is_direct(client, provider))
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=100_000)


async def _no_circuits(relay: Driven) -> bool:
    counters = await relay.call("counters")
    ended = sum(count for name, count in counters.items() if name.startswith("relay_circuit_"))
    return bool(counters.get("relay_circuits")) and ended == counters["relay_circuits"]


async def test_a_symmetric_nat_stays_relayed(town: Town) -> None:
    provider, circuits = await town.reserved(
        town.internet.behind(town.internet.router("router1", "symmetric"), "provider"), 2
    )
    client = await town.node(town.internet.behind(town.internet.router("router2", "symmetric"), "client"), 3)
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    stream = await client.call("open", peer=provider.peer_id)
    await eventually(lambda: _gave_up(provider))
    assert not await is_direct(client, provider)
    assert await client.call("echo", stream=stream, size=1_000_000)


async def _gave_up(node: Driven) -> bool:
    return bool((await node.call("counters")).get("hole_punch_gave_up"))


async def test_two_firewalls_without_nat(town: Town) -> None:
    provider, circuits = await town.reserved(town.internet.machine("provider", firewall=True), 2)
    client = await town.node(town.internet.machine("client", firewall=True), 3)
    await client.call("connect", peer=provider.peer_id, addresses=provider.addresses)
    assert (await client.call("counters"))["peer_found"] == 1
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    await eventually(lambda: is_direct(client, provider))
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=100_000)


async def test_the_router_goes_down_and_comes_back(town: Town) -> None:
    """Its peers are given up, the relay's place is free, and everything is there again afterwards."""
    router = town.internet.router("router", "cone")
    provider, circuits = await town.reserved(town.internet.behind(router, "provider"), 2)
    town.internet.cut(router)
    await eventually(lambda: _is_alone(provider))
    assert (await provider.call("reachability"))["state"] != "relayed"
    town.internet.mend(router)
    await eventually(lambda: _has_relay(provider))
    client = await town.node(town.internet.machine("client"), 3)
    await client.call("connect", peer=provider.peer_id, addresses=circuits)
    stream = await client.call("open", peer=provider.peer_id)
    assert await client.call("echo", stream=stream, size=1000)


async def _is_alone(node: Driven) -> bool:
    return await node.call("peers") == []
