"""All of a network starts at the same moment, half of it behind NATs: how soon those are reached, and in what way."""

from __future__ import annotations

import pytest
import trio
from driving import Driven, eventually, open_driven
from namespaces import Internet, Machine
from test_nat_reachability import route_everywhere

from cocoon_p2p.errors import TransportError

SLOW_DIAL_BACK = {"AUTONAT_DIAL_BACK_TIMEOUT_S": 20.0, "AUTONAT_ANSWER_TIMEOUT_S": 20.0}
"""What is dropped by a router is waited for; here so long that no test lives to see it."""


def public(internet: Internet, name: str, host: str) -> tuple[Machine, str]:
    machine = internet.machine(name)
    route_everywhere(machine, own=host)
    return machine, f"/ip4/{host}/tcp/4001"


def hidden(internet: Internet, name: str) -> Machine:
    router = internet.router(f"r{name}", "symmetric")
    route_everywhere(router)
    return internet.behind(router, name)


async def test_a_provider_behind_a_nat_is_reached_before_it_knows_that_it_is(internet: Internet) -> None:
    """It takes a relay as soon as there is one, and does not wait for peers that dial it back in vain. Who knows only its
    private addresses finds it all the same."""
    one, one_at = public(internet, "public1", "45.90.7.1")
    two, two_at = public(internet, "public2", "45.90.8.1")
    options = {"relay_server": "auto", "dht_mode": "auto", "limits": SLOW_DIAL_BACK}
    async with open_driven(one, 1, **options) as first:
        entry = [f"{one_at}/p2p/{first.peer_id}"]
        async with (
            open_driven(two, 2, bootstrap=entry, **options) as second,
            open_driven(hidden(internet, "h1"), 3, bootstrap=entry, **options) as client,
            open_driven(hidden(internet, "h2"), 4, bootstrap=entry, **options) as provider,
        ):
            for node in (client, provider):
                await node.call("connect", peer=second.peer_id, addresses=[two_at])
            private = [f"/ip4/{provider_host(provider)}/tcp/4001"]
            with trio.fail_after(10.0):
                stream, tries = await opened(client, provider, private)
            assert await client.call("echo", stream=stream, size=10_000)
            assert (await provider.call("reachability"))["state"] == "unknown"
            link = await client.link(provider.peer_id)
            assert link is not None and link["relayed"]
            assert tries >= 1


def provider_host(node: Driven) -> str:
    return node.addresses[0].split("/")[2]


async def opened(client: Driven, provider: Driven, addresses: list[str]) -> tuple[int, int]:
    """A stream, tried again and again as an impatient person would; how often. Every failure says what to do."""
    tries = 0
    while True:
        tries += 1
        try:
            await client.call("connect", peer=provider.peer_id, addresses=addresses)
            return await client.call("open", peer=provider.peer_id), tries
        except TransportError as error:
            assert error.hint is not None and error.hint.endswith("ask again in a few seconds")
            await trio.sleep(0.2)


async def test_its_relay_is_told_at_once(internet: Internet) -> None:
    """By identify/push: whoever asks the public node learns of it."""
    one, one_at = public(internet, "public1", "45.90.7.1")
    async with open_driven(one, 1, relay_server="on") as relay:
        entry = [f"{one_at}/p2p/{relay.peer_id}"]
        async with open_driven(hidden(internet, "h1"), 2, bootstrap=entry, limits=SLOW_DIAL_BACK) as provider:

            async def is_told() -> bool:
                link = await relay.link(provider.peer_id)
                return link is not None and f"{one_at}/p2p/{relay.peer_id}/p2p-circuit" in link["listens_on"]

            await eventually(is_told)
            assert (await provider.call("reachability"))["state"] == "unknown"


@pytest.mark.parametrize("networks", ["same", "other"])
async def test_a_hint_is_given_where_waiting_helps(internet: Internet, networks: str) -> None:
    """Not to a neighbour: for him the node is simply down."""
    here = internet.router("here", "cone")
    route_everywhere(here)
    client = internet.behind(here, "client")
    target = internet.behind(here, "target").host if networks == "same" else "10.99.0.1"
    async with open_driven(client, 1) as node, open_driven(internet.machine("other"), 2) as other:
        with pytest.raises(TransportError) as caught:
            await node.call(
                "connect", peer=other.peer_id, addresses=[f"/ip4/{target}/tcp/4001", "/ip4/127.0.0.1/tcp/4001"]
            )
        assert (caught.value.hint is None) == (networks == "same")
