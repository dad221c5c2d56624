"""Networks that lead nowhere else: two machines and a cable, a boat, a laptop whose VPN takes the default route."""

from __future__ import annotations

import pytest
from driving import Driven, eventually, open_driven
from namespaces import Internet


async def knows(node: Driven, other: Driven) -> bool:
    return await node.link(other.peer_id) is not None


@pytest.mark.parametrize("tunnels", [(), ("10.200.0.1",), ("10.200.0.1", "10.200.0.2")])
async def test_nodes_find_each_other(
    internet: Internet, tunnels: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without bootstrap, over the LAN, whether there is no default route at all, or one that leads elsewhere."""
    machines = internet.island("one", "two")
    for machine, host in zip(machines, tunnels, strict=False):
        internet.tunnel(machine, host)
    async with open_driven(machines[0], 1, mdns=True) as one, open_driven(machines[1], 2, mdns=True, upnp=True) as two:
        await eventually(lambda: knows(one, two))
        await eventually(lambda: knows(two, one))
        link = await two.link(one.peer_id)
        assert link is not None and link["address"].startswith("/ip4/10.77.0.1/")
        assert "/ip4/10.77.0.1/tcp/4001" in link["listens_on"]
    assert "unreachable" not in capfd.readouterr().err


async def test_an_address_that_comes_later_is_told(internet: Internet) -> None:
    """A laptop that gets its cable when the node already runs."""
    one, two = internet.island("one", "two")
    internet.unplug(two)
    async with open_driven(one, 1, mdns=True) as there, open_driven(two, 2) as late:
        assert late.addresses == ["/ip4/127.0.0.1/tcp/4001"]
        internet.plug_in(two)
        await late.call("connect", peer=there.peer_id, addresses=["/ip4/10.77.0.1/tcp/4001"])

        async def is_told() -> bool:
            link = await there.link(late.peer_id)
            return link is not None and "/ip4/10.77.0.2/tcp/4001" in link["listens_on"]

        await eventually(is_told)

        async def has_noticed() -> bool:
            return bool((await late.call("counters")).get("machine_moved"))

        await eventually(has_noticed)


async def test_a_router_is_not_looked_for_where_there_is_no_gateway(
    internet: Internet, capfd: pytest.CaptureFixture[str]
) -> None:
    (machine,) = internet.island("one")
    async with open_driven(machine, 1, upnp=True) as node:

        async def has_looked() -> bool:
            return bool((await node.call("counters")).get("upnp_no_route"))

        await eventually(has_looked)
    assert capfd.readouterr().err == "", "miniupnpc says it on stderr, four times"
