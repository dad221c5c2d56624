"""Where a connection comes from, as far as limits are concerned: the subnet that one person can be taken to hold.

IPv4 by /24, IPv6 by /56 (what providers give a household at least), loopback by address, and what comes through a relay by
that relay.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from cocoon_p2p.net.addresses import Address, parse_address

OriginKind = Literal["public", "private", "loopback", "relay"]
_IP4_PREFIX = 24
_IP6_PREFIX = 56


@dataclass(frozen=True, slots=True)
class Origin:
    kind: OriginKind
    name: str
    """The subnet, the loopback address, or the relay's id."""

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=4096)
def origin_of_host(host: str) -> Origin:
    """Raises ValueError for what is no IP address."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback:
        return Origin("loopback", str(address))
    prefix = _IP4_PREFIX if address.version == 4 else _IP6_PREFIX
    subnet = ipaddress.ip_network((address, prefix), strict=False)
    return Origin("private" if not address.is_global else "public", str(subnet))


def origin_of(address: str) -> Origin:
    """Of a multiaddr without /p2p/ at its end, as a pipe has it. Raises ValueError for one that is none."""
    return _origin_of_address(parse_address(address))


def _origin_of_address(address: Address) -> Origin:
    if address.relay is not None:
        return Origin("relay", address.relay)
    if address.kind not in ("ip4", "ip6"):
        return Origin("public", address.host)  # a name that we dialled
    return origin_of_host(address.host)
