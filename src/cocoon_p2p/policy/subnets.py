"""Which peers likely stand on one machine, or belong to one owner: by the network prefix of what they say of their address.

A rented machine gets an IPv4 address of its own and a whole IPv6 /64 to /48 for nothing; what one stranger can buy in numbers
is therefore counted by prefix (Kademlia tables do the same, see limits.DHT_TABLE_SUBNET_MAX).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

IP4_PREFIX_BITS = 24
IP6_PREFIX_BITS = 48


def subnet_of(addresses: Sequence[str]) -> str:
    """The IPv4 /24 or IPv6 /48 of the first public address ("192.0.2.0/24"), not counting those of relays. Where there is
    none, the first address whole and with its port, so that the nodes of one machine or one office count as different; ""
    without any address."""
    for text in addresses:
        prefix = _public_prefix(text)
        if prefix is not None:
            return prefix
    return addresses[0] if addresses else ""


def is_public_subnet(subnet: str) -> bool:
    """Whether this is the prefix of a public address, as `subnet_of` gives it."""
    return bool(subnet) and not subnet.startswith("/") and "/" in subnet


@lru_cache(maxsize=4096)  # the same addresses come with every announcement
def _public_prefix(text: str) -> str | None:
    """None for what is not public, or not given as an IP address: a name says nothing of where it is."""
    parts = text.split("/", 3)
    if len(parts) < 3 or parts[0] or parts[1] not in ("ip4", "ip6") or "/p2p-circuit" in text:
        return None
    try:
        address = ipaddress.ip_address(parts[2].partition("%")[0])
    except ValueError:
        return None
    if not address.is_global:
        return None
    bits = IP4_PREFIX_BITS if address.version == 4 else IP6_PREFIX_BITS
    return str(ipaddress.ip_network((address, bits), strict=False))
