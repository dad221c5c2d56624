"""How a node finds out whether the internet can dial it: real routers (the Linux kernel's), and go-libp2p's AutoNAT."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from driving import Driven, eventually, open_driven
from namespaces import Internet, Machine, run

sys.path.append(str(Path(__file__).parents[1] / "interop"))


@dataclass
class Provider:
    """A public node in a subnet of its own: on the internet a subnet has one voice."""

    node: Driven
    address: str

    @property
    def entry(self) -> str:
        return f"{self.address}/p2p/{self.node.peer_id}"


def route_everywhere(machine: Machine, *, own: str = "") -> None:
    """All of 45.90.0.0/16 is one bridge; `own` is an address of its own for this machine."""
    if own:
        run(*machine.enter("ip", "addr", "add", f"{own}/32", "dev", "wan"))
    source = ("src", own) if own else ()
    run(*machine.enter("ip", "route", "add", "45.90.0.0/16", "dev", "wan", *source))


@asynccontextmanager
async def providers(internet: Internet, **options: Any) -> AsyncIterator[tuple[Provider, Provider]]:
    """Two public nodes, in two subnets."""
    hosts = ("45.90.7.1", "45.90.8.1")
    machines = [internet.machine(f"public{number}") for number in range(2)]
    for machine, host in zip(machines, hosts, strict=True):
        route_everywhere(machine, own=host)
    async with open_driven(machines[0], 1, **options) as one, open_driven(machines[1], 2, **options) as two:
        found = [Provider(node, f"/ip4/{host}/tcp/4001") for node, host in zip((one, two), hosts, strict=True)]
        yield found[0], found[1]


async def state_of(node: Driven) -> str:
    state: str = (await node.call("reachability"))["state"]
    return state


async def is_in(node: Driven, state: str) -> bool:
    return await state_of(node) == state


async def test_a_public_machine_is_reachable(internet: Internet) -> None:
    async with providers(internet) as (one, two):
        machine = internet.machine("another")
        route_everywhere(machine)
        async with open_driven(machine, 3, bootstrap=[one.entry, two.entry]) as node:
            await eventually(lambda: is_in(node, "reachable"))
            found = await node.call("reachability")
            at = f"/ip4/{machine.host}/tcp/4001"
            assert found["reason"] == f"2 peers on the internet dialled us at {at}"
            assert found["advice"] == ""
            assert at in found["addresses"]


async def test_behind_a_router_it_is_private_and_says_what_to_do(internet: Internet) -> None:
    router = internet.router("home", "cone")
    route_everywhere(router)
    async with providers(internet) as (one, two):
        machine = internet.behind(router, "laptop")
        async with open_driven(machine, 3, bootstrap=[one.entry, two.entry], upnp=True) as node:
            await eventually(lambda: is_in(node, "private"))
            found = await node.call("reachability")
            assert found["reason"] == (
                f"2 peers on the internet could not dial us at /ip4/{router.host}/tcp/4001, "
                "and no relay takes connections for us"
            )
            assert found["advice"].startswith("forward TCP port 4001 to this machine in the router, or turn on UPnP")
            assert found["observed"] == [router.host]


async def test_a_forwarded_port_is_found_and_told(internet: Internet) -> None:
    """Nobody configured the address: peers see it, and it is tried."""
    router = internet.router("home", "cone")
    route_everywhere(router)
    machine = internet.behind(router, "server")
    run(
        *router.enter("nft", "-f", "-"),
        given=f"""
            table ip forwarding {{
                chain prerouting {{
                    type nat hook prerouting priority dstnat;
                    iifname "wan" tcp dport 4001 dnat to {machine.host}:4001
                }}
            }}
            insert rule ip firewall forward ct status dnat accept
        """,
    )
    async with providers(internet) as (one, two), open_driven(machine, 3, bootstrap=[one.entry, two.entry]) as node:
        await eventually(lambda: is_in(node, "reachable"))
        at = f"/ip4/{router.host}/tcp/4001"
        assert at in (await node.call("reachability"))["addresses"]

        async def is_told() -> bool:
            link = await one.node.link(node.peer_id)
            return link is not None and at in link["listens_on"]

        await eventually(is_told)


async def test_a_relay_is_taken_when_the_peers_could_not_dial(internet: Internet) -> None:
    router = internet.router("home", "symmetric")
    route_everywhere(router)
    async with providers(internet, relay_server="on") as (one, two):
        machine = internet.behind(router, "laptop")
        async with open_driven(machine, 3, bootstrap=[one.entry, two.entry]) as node:
            await eventually(lambda: is_in(node, "relayed"))
            found = await node.call("reachability")
            assert set(found["relays"]) <= {one.node.peer_id, two.node.peer_id}
            assert "could not dial us" in found["reason"]
            assert any("/p2p-circuit" in address for address in found["addresses"])


async def test_go_dials_us_back(internet: Internet) -> None:
    """go-libp2p dials nothing private for anybody, so this needs public addresses."""
    import go_daemon
    import makes

    try:
        hivemind = makes.wheel("go", "go-libp2p") / "hivemind"
    except makes.Unavailable as error:
        pytest.skip(f"NOT TESTED: AutoNAT with go-libp2p: {error}")
    (hivemind / "hivemind_cli" / "p2pd").chmod(0o755)
    theirs, ours = internet.machine("go"), internet.machine("us")
    options = {"hostAddrs": f"/ip4/{theirs.host}/tcp/4001", "autonat": 1, "forceReachabilityPublic": 1}
    async with (
        open_driven(ours, 1) as node,
        go_daemon.open_go_daemon(hivemind, enter=theirs.enter(), **options) as go,
    ):
        await node.call("connect", peer=go.peer_id, addresses=go.addresses)
        await eventually(lambda: is_in(node, "reachable"))
        at = f"/ip4/{ours.host}/tcp/4001"
        assert (await node.call("reachability"))["reason"] == f"1 peer on the internet dialled us at {at}"
