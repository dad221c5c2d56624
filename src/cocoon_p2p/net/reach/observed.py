"""Where others see this node: what peers tell by identify of the address that our connections come from. Pure.

One peer can say anything, so a claim counts once an origin (origins.py: a /24, a /56), and is believed when
OBSERVERS_MIN origins make it. On a LAN or on one machine all are of one origin; there one peer is enough, and what it says
concerns that LAN alone. go-libp2p's ObservedAddrManager works like this.

Whether hole punching can work depends on the router in front of us: it must show one port of ours as one port to everybody
(RFC 4787, endpoint-independent mapping). Told by the ports under which several origins see connections from one port of
ours, and where there are none, by the router's keeping our port numbers, which comes to the same.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from cocoon_p2p.limits import OBSERVATION_LIFETIME_S, OBSERVATIONS_MAX, OBSERVERS_MIN
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.switch.origins import Origin, origin_of_host

Mapping = Literal["unknown", "endpoint-independent", "endpoint-dependent"]
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Key:
    observer: Origin
    family: str
    local_port: int | None


@dataclass(frozen=True, slots=True)
class _Claim:
    seen: Address
    at: float


class ObservedAddresses:
    """The claims of the last OBSERVATION_LIFETIME_S seconds. A newer one of the same origin takes the older one's place."""

    def __init__(self) -> None:
        self._claims: OrderedDict[_Key, _Claim] = OrderedDict()

    def __len__(self) -> int:
        return len(self._claims)

    def add(self, observer: Origin, seen: Address, local_port: int | None, now: float) -> bool:
        """`observer` is where the peer is that sees us at `seen`. `local_port` is the one that we dialled it from; None:
        it dialled us, and saw the address that it dialled. False for a claim that cannot be true."""
        if seen.relay is not None or seen.kind not in ("ip4", "ip6") or seen.is_wildcard or not seen.port:
            return False
        if origin_of_host(seen.host).kind != observer.kind:
            return False  # whoever is on our LAN sees us there, and nobody on the internet sees a private address
        key = _Key(observer, seen.kind, local_port)
        self._claims[key] = _Claim(seen.endpoint, now)
        self._claims.move_to_end(key)
        if len(self._claims) > OBSERVATIONS_MAX:
            self._claims.popitem(last=False)
        return True

    def clear(self) -> None:
        """Nobody sees us any more; who does next may see us elsewhere."""
        self._claims.clear()

    def hosts(self, now: float) -> tuple[str, ...]:
        """Believed IP addresses, the one with the most observers first."""
        newest: dict[tuple[Origin, str], _Claim] = {}
        for key, claim in self._current(now):
            newest[key.observer, key.family] = claim  # one vote an origin: the claims are in the order of their coming
        return _believed((claim.seen.host, observer) for (observer, _), claim in newest.items())

    def addresses(self, now: float) -> tuple[Address, ...]:
        """Believed addresses at which others dialled us."""
        return _believed((claim.seen, key.observer) for key, claim in self._current(now) if key.local_port is None)

    def mapping(self, now: float) -> Mapping:
        """What the router in front of us does with ports, as seen from public addresses."""
        seen_ports: dict[int, dict[Origin, int]] = {}
        for key, claim in self._current(now):
            if key.local_port and key.observer.kind == "public":
                seen_ports.setdefault(key.local_port, {})[key.observer] = claim.seen.port
        shared = [set(ports.values()) for ports in seen_ports.values() if len(ports) >= OBSERVERS_MIN]
        if shared:
            return "endpoint-independent" if all(len(ports) == 1 for ports in shared) else "endpoint-dependent"
        kept = {origin for local, ports in seen_ports.items() for origin, port in ports.items() if port == local}
        return "endpoint-independent" if len(kept) >= OBSERVERS_MIN else "unknown"

    def _current(self, now: float) -> list[tuple[_Key, _Claim]]:
        for key in [key for key, claim in self._claims.items() if now - claim.at >= OBSERVATION_LIFETIME_S]:
            del self._claims[key]
        return list(self._claims.items())


def _believed(claims: Iterable[tuple[Value, Origin]]) -> tuple[Value, ...]:
    observers: dict[Value, set[Origin]] = {}
    for value, observer in claims:
        observers.setdefault(value, set()).add(observer)
    count = Counter({value: len(origins) for value, origins in observers.items()})
    return tuple(
        value
        for value, observed_by in count.most_common()
        if observed_by >= OBSERVERS_MIN or any(origin.kind != "public" for origin in observers[value])
    )
