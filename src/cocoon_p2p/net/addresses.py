"""Multiaddrs of TCP and WebSocket endpoints and of relayed peers, as text and as bytes. Only what this network dials:

    /ip4/192.0.2.1/tcp/4001                                  TCP
    /dns4/node.example/tcp/4001/ws                           WebSocket
    /ip4/192.0.2.1/tcp/4001/p2p/<relay>/p2p-circuit          through a relay

each, where a peer is named, followed by /p2p/<peer id>. py-multiaddr does more and takes ten times as long; peers send us
thousands of addresses.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache
from typing import Literal

from cocoon_p2p.ids import PEER_ID_BYTES, PeerId, parse_peer_id, peer_id_from_bytes, peer_id_to_bytes
from cocoon_p2p.limits import ADDRESS_CHARS_MAX, OWN_ADDRESSES_MAX
from cocoon_p2p.net.interfaces import own_hosts

HostKind = Literal["ip4", "ip6", "dns", "dns4", "dns6"]
# multiformats/multiaddr protocols.csv
_CODES: dict[HostKind, int] = {"ip4": 4, "ip6": 41, "dns": 53, "dns4": 54, "dns6": 55}
_KINDS = {code: kind for kind, code in _CODES.items()}
_TCP = 6
_P2P = b"\xa5\x03"  # code 421 as varint
_WS = b"\xdd\x03"  # 477
_CIRCUIT = b"\xa2\x02"  # 290
_BYTES_MAX = 512
"""A host name of 253 bytes, a relay and a peer take 350."""
_SCOPE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
"""Of an IPv6 address: the name of an interface, which has 15 characters at most on every system."""
_LABEL_CHARS_MAX = 63  # RFC 1035 §2.3.4
_FAMILIES = {"ip4": socket.AF_INET, "dns4": socket.AF_INET, "ip6": socket.AF_INET6, "dns6": socket.AF_INET6}
_LOOPBACK = {"ip4": "127.0.0.1", "ip6": "::1"}


@dataclass(frozen=True, slots=True)
class Address:
    """`/<kind>/<host>/tcp/<port>[/ws][/p2p/<relay>/p2p-circuit]`, and the peer id behind /p2p/ where there is one."""

    kind: HostKind
    host: str
    port: int
    peer: PeerId | None = None
    websocket: bool = False
    relay: PeerId | None = None
    """The relay that stands at host and port, when the peer is reached through it."""

    def __str__(self) -> str:
        """Without the peer's own /p2p/."""
        through = f"/p2p/{self.relay}/p2p-circuit" if self.relay is not None else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{'/ws' if self.websocket else ''}{through}"

    @property
    def family(self) -> socket.AddressFamily:
        return _FAMILIES.get(self.kind, socket.AF_UNSPEC)

    @property
    def is_wildcard(self) -> bool:
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_unspecified

    @property
    def is_loopback(self) -> bool:
        return self.kind in ("ip4", "ip6") and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_public(self) -> bool:
        """Whether the wide internet routes to it; names are taken to be."""
        return self.kind not in ("ip4", "ip6") or ipaddress.ip_address(self.host).is_global

    @property
    def endpoint(self) -> Address:
        """Where the first socket goes: without peer and relay."""
        return replace(self, peer=None, relay=None)


@lru_cache(maxsize=4096)  # the DHT says the same addresses over and over
def parse_address(text: str) -> Address:
    """Raises ValueError for anything but
    /ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/ws][/p2p/<relay>/p2p-circuit][/p2p/<peer id>]."""
    parts = text.strip().split("/")
    if len(text) > ADDRESS_CHARS_MAX or len(parts) < 5 or parts[0] or parts[3] != "tcp":
        raise ValueError(f"{text[:ADDRESS_CHARS_MAX]!r} is no TCP address; one looks like /ip4/192.0.2.1/tcp/4001")
    kind = _kind_of(parts[1], text)
    port = int(parts[4]) if parts[4].isascii() and parts[4].isdigit() and len(parts[4]) <= 5 else -1
    if not 0 <= port <= 65535:
        raise ValueError(f"{parts[4]!r} in {text!r} is no port")
    rest = parts[5:]
    websocket = rest[:1] == ["ws"]
    rest = rest[1:] if websocket else rest
    relay = None
    if rest[2:3] == ["p2p-circuit"] and rest[0] == "p2p":
        relay = parse_peer_id(rest[1])
        rest = rest[3:]
    peer = None
    if rest:
        if rest[0] != "p2p" or len(rest) != 2:
            raise ValueError(f"{text!r} goes on with /{rest[0]}/, which this node does not dial")
        peer = parse_peer_id(rest[1])
    return Address(kind, _checked_host(kind, parts[2]), port, peer, websocket, relay)


@lru_cache(maxsize=4096)
def address_to_bytes(address: Address) -> bytes:
    """The binary multiaddr, without the peer's own /p2p/."""
    if address.kind in ("ip4", "ip6"):
        host = ipaddress.ip_address(address.host).packed
    else:
        name = address.host.encode()
        host = bytes([len(name)]) + name
    raw = bytes([_CODES[address.kind]]) + host + bytes([_TCP]) + address.port.to_bytes(2)
    if address.websocket:
        raw += _WS
    if address.relay is not None:
        raw += _P2P + bytes([PEER_ID_BYTES]) + peer_id_to_bytes(address.relay) + _CIRCUIT
    return raw


def address_from_bytes(raw: bytes) -> Address | None:
    """None for anything that this network does not dial, or that is no multiaddr. A /p2p/ at the end is left out."""
    return _address_of(raw) if len(raw) <= _BYTES_MAX else None


@lru_cache(maxsize=4096)  # remembers what was asked, too: only what is short comes here
def _address_of(raw: bytes) -> Address | None:
    kind = _KINDS.get(raw[0]) if raw else None
    if kind is None:
        return None
    if kind in ("ip4", "ip6"):
        start, size = 1, 4 if kind == "ip4" else 16
    else:
        start, size = 2, raw[1] if len(raw) > 1 else 0
    end = start + size
    host, rest = raw[start:end], raw[end + 3 :]
    if len(raw) < end + 3 or raw[end] != _TCP:
        return None
    websocket = rest.startswith(_WS)
    rest = rest[len(_WS) :] if websocket else rest
    try:
        relay = _leading_relay(rest)
        if relay is None and rest and not _is_peer(rest):
            return None
        name = str(ipaddress.ip_address(host)) if kind in ("ip4", "ip6") else host.decode("ascii")
        return Address(kind, _checked_host(kind, name), int.from_bytes(raw[end + 1 : end + 3]), None, websocket, relay)
    except ValueError:
        return None


def _is_peer(rest: bytes) -> bool:
    """Whether this is /p2p/<peer> and nothing behind it: a relay of another key type is followed by /p2p-circuit."""
    return rest.startswith(_P2P) and rest[len(_P2P) : len(_P2P) + 1] == bytes([(len(rest) - len(_P2P) - 1) & 0xFF])


def _leading_relay(rest: bytes) -> PeerId | None:
    """The peer of a leading /p2p/<peer>/p2p-circuit. Raises ValueError for one that is no Ed25519 peer."""
    start = len(_P2P) + 1
    circuit = rest[start + PEER_ID_BYTES :]
    if not rest.startswith(_P2P + bytes([PEER_ID_BYTES])) or not circuit.startswith(_CIRCUIT):
        return None
    if circuit[len(_CIRCUIT) :] and not circuit[len(_CIRCUIT) :].startswith(_P2P):
        raise ValueError("something other than a peer behind /p2p-circuit")
    return peer_id_from_bytes(rest[start : start + PEER_ID_BYTES])


def parse_dialable(texts: Iterable[str]) -> list[Address]:
    """Those of `texts` that can be dialled, each once, in order."""
    addresses = []
    for text in texts:
        try:
            address = parse_address(text)
        except ValueError:
            continue
        if address.port and not address.is_wildcard and address not in addresses:
            addresses.append(address)
    return addresses


class Reach(IntEnum):
    """From where an address can be dialled; the wider, the greater."""

    MACHINE = 0
    LOCAL_NETWORK = 1
    INTERNET = 2


@lru_cache(maxsize=4096)
def reach_of(address: Address) -> Reach:
    if address.is_loopback:
        return Reach.MACHINE
    return Reach.INTERNET if address.is_public else Reach.LOCAL_NETWORK


def dialable_hearsay(told: Sequence[str], seen_at: Iterable[str]) -> tuple[str, ...]:
    """Of addresses that come from hearsay those that may be dialled: from the internet nothing in our own network or
    machine, from our network nothing in our machine. `seen_at`: where the peers are that we know, whoever of them passed it
    on; with none of them only what the internet routes to. What is no address stays, for the dialler to say so."""
    least = min(map(reach_of, parse_dialable(seen_at)), default=Reach.INTERNET)
    return tuple(text for text in told if all(reach_of(each) >= least for each in parse_dialable([text])))


def resolve_wildcards(addresses: Sequence[Address]) -> tuple[str, ...]:
    """What to tell others: 0.0.0.0 and :: replaced by this machine's own addresses, of those at most OWN_ADDRESSES_MAX, the
    likeliest first; loopback last."""
    resolved: dict[Address, int] = {}
    for address in addresses:
        if not address.is_wildcard:
            resolved.setdefault(address, -1)
            continue
        of_kind = [own.host for own in own_hosts() if (":" in own.host) == (address.kind == "ip6")]
        for place, host in enumerate(of_kind or [_LOOPBACK[address.kind]]):
            resolved.setdefault(replace(address, host=host), place)
    ours = sorted(resolved, key=lambda address: resolved[address])
    away = [address for address in ours if not address.is_loopback]
    given = sum(resolved[address] < 0 for address in away)
    return tuple(map(str, [*away[: max(given, OWN_ADDRESSES_MAX)], *(each for each in ours if each.is_loopback)]))


def _kind_of(word: str, text: str) -> HostKind:
    for kind in _CODES:
        if kind == word:
            return kind
    raise ValueError(f"{text!r} begins with /{word}/; this node dials ip4, ip6, dns, dns4 and dns6")


def _checked_host(kind: HostKind, host: str) -> str:
    if kind == "ip4":
        return str(ipaddress.IPv4Address(host))
    if kind == "ip6":
        return _checked_ip6(ipaddress.IPv6Address(host))
    if not (0 < len(host) <= 253 and host.isascii() and host.isprintable() and not set(host) & set("/ :")):
        raise ValueError(f"{host!r} is no host name")
    if not all(0 < len(label) <= _LABEL_CHARS_MAX for label in host.removesuffix(".").split(".")):
        raise ValueError(f"{host!r} is no host name")  # Python's resolver raises UnicodeError for it
    return host


def _checked_ip6(address: ipaddress.IPv6Address) -> str:
    """Strangers name interfaces, too, and the text goes on to the terminal and into system calls. What is an IPv4 address in
    the clothes of IPv6 would pass for a public or a private one where it is loopback."""
    if address.ipv4_mapped is not None:
        raise ValueError(f"{address.ipv4_mapped} is written as an IPv6 address")
    if address.scope_id is not None and not _SCOPE.fullmatch(address.scope_id):
        raise ValueError(f"{address.scope_id!r} is no interface")
    return str(address)
