"""Which addresses count as one subnet."""

from __future__ import annotations

import pytest

from cocoon_p2p.policy.subnets import is_public_subnet, subnet_of


@pytest.mark.parametrize(
    ("addresses", "subnet", "public"),
    [
        (["/ip4/8.8.8.8/tcp/4001"], "8.8.8.0/24", True),
        (["/ip4/192.168.1.7/tcp/4001", "/ip4/8.8.8.9/tcp/1/ws", "/ip4/9.9.9.9/tcp/1"], "8.8.8.0/24", True),
        (["/ip6/2606:4700:1:2:3::4/tcp/4001"], "2606:4700:1::/48", True),
        (["/ip4/127.0.0.1/tcp/4001"], "/ip4/127.0.0.1/tcp/4001", False),
        (["/ip4/10.0.0.7/tcp/4001", "/ip4/127.0.0.1/tcp/4001"], "/ip4/10.0.0.7/tcp/4001", False),
        (["/ip6/fe80::1%eth0/tcp/4001"], "/ip6/fe80::1%eth0/tcp/4001", False),
        (["/dns4/node.example/tcp/4001"], "/dns4/node.example/tcp/4001", False),
        (["/memory/3"], "/memory/3", False),
        (["nonsense", "/ip4/999.1.1.1/tcp/1", "/ip4/8.8.8.8"], "8.8.8.0/24", True),
        (["/ip4/999.1.1.1/tcp/1"], "/ip4/999.1.1.1/tcp/1", False),
        ([], "", False),
    ],
)
def test_the_prefix_of_the_first_public_address_or_the_whole_first_one(
    addresses: list[str], subnet: str, public: bool
) -> None:
    assert subnet_of(addresses) == subnet
    assert is_public_subnet(subnet_of(addresses)) == public


def test_behind_a_relay_it_is_not_the_relays() -> None:
    relayed = "/ip4/8.8.8.8/tcp/4001/p2p/12D3KooW/p2p-circuit"
    assert subnet_of([relayed]) == relayed
    assert subnet_of([relayed, "/ip4/9.9.9.9/tcp/1"]) == "9.9.9.0/24"
