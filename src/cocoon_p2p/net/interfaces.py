"""The IP addresses of this machine, of every network that it is in.

The way to the wide internet (the route that the system would take) tells one of them only, and none in an office without
internet; under a VPN it tells that of the VPN, which the machines of the same LAN know nothing of.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import ifaddr

from cocoon_p2p.limits import OWN_HOSTS_REMEMBERED_S

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_FAR = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))
_CONTAINERS = ("docker", "br-", "veth", "virbr", "lxcbr", "lxdbr", "podman", "cni", "vmnet")
"""Names of the bridges that container engines and hypervisors make: networks within this machine."""


@dataclass(frozen=True, slots=True)
class OwnHost:
    """One address of this machine."""

    host: str
    is_loopback: bool = False
    is_inside: bool = False
    """Of a network that lies within this machine, for its containers or virtual machines."""


def own_hosts() -> tuple[OwnHost, ...]:
    """Those that others may use: first the ones that packets to the wide network leave from, then those of the other
    networks, then those for containers, then loopback. Not older than OWN_HOSTS_REMEMBERED_S; never empty."""
    return _here.get()


class _Remembered:
    def __init__(self, read: Callable[[], tuple[OwnHost, ...]], now: Callable[[], float]) -> None:
        self._read = read
        self._now = now
        self._hosts: tuple[OwnHost, ...] = ()
        self._read_at = float("-inf")

    def get(self) -> tuple[OwnHost, ...]:
        now = self._now()
        if now - self._read_at >= OWN_HOSTS_REMEMBERED_S:
            self._hosts, self._read_at = self._read(), now
        return self._hosts


def ordered(found: Iterable[tuple[str, str]], leaving: Sequence[str]) -> tuple[OwnHost, ...]:
    """Of (interface, address) pairs; `leaving` are the addresses that packets to the wide network leave from."""
    ranks: dict[OwnHost, int] = {}
    for name, text in found:
        address = ipaddress.ip_address(text.partition("%")[0])
        if address.is_unspecified or address.is_multicast or (address.version == 6 and address.is_link_local):
            continue  # fe80::… is an address only together with the interface, which every machine names for itself
        is_inside = name.startswith(_CONTAINERS) and str(address) not in leaving
        host = OwnHost(str(address), address.is_loopback, is_inside)
        ranks.setdefault(host, _rank(address, host, leaving))
    return tuple(sorted(ranks, key=lambda host: ranks[host]))


def _rank(address: Address, host: OwnHost, leaving: Sequence[str]) -> int:
    if host.is_loopback:
        return 4
    if host.host in leaving:
        return 0
    return 3 if host.is_inside else 2 if address.is_link_local else 1


def _read() -> tuple[OwnHost, ...]:
    leaving = [host for family, far in _FAR if (host := _leaving_for(family, far)) is not None]
    try:
        found = [
            (adapter.name, str(ip.ip if ip.is_IPv4 else ip.ip[0]))
            for adapter in ifaddr.get_adapters()
            for ip in adapter.ips
        ]
    except OSError:  # the system does not say
        found = []
    hosts = ordered([*found, *(("", host) for host in leaving)], leaving)
    return hosts or (OwnHost("127.0.0.1", True),)


def _leaving_for(family: socket.AddressFamily, far: str) -> str | None:
    """Sends nothing. None where no route leads there."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far, 9))  # a datagram socket only looks up its route
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


_here = _Remembered(_read, time.monotonic)
