"""Asking the home router to forward our port: UPnP's Internet Gateway Device, through miniupnpc.

The library blocks, so it runs in a thread, and whatever takes too long is given up; nothing waits for it. A mapping has a
lease, which is renewed, and is removed when the node stops. What the router says is tested by AutoNAT like everything else.
"""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import (
    UPNP_CALL_TIMEOUT_S,
    UPNP_DISCOVERY_TIMEOUT_S,
    UPNP_LEASE_S,
    UPNP_PORTS_TRIED_MAX,
    UPNP_REMOVAL_TIMEOUT_S,
    UPNP_RETRY_S,
)
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.supervisor import Counters, call_guarded, foreign_errors

logger = logging.getLogger("cocoon_p2p.net")
Result = TypeVar("Result")
_DESCRIPTION = "cocoon_p2p"
_ANSWER_MS = 1000
"""How long a router may take to answer: SSDP's least MX. miniupnpc asks for four kinds of routers in turn, until one answers."""
_FREE_PORTS = range(20_000, 60_000)
_SSDP = ("239.255.255.250", 1900)


class Gateway(Protocol):
    """A router, as far as it is needed here. Every method blocks, and raises whatever it likes."""

    def find(self) -> None:
        """Look for the router; anything raised means that there is none."""

    def external_host(self) -> str: ...

    def forward(self, external_port: int, port: int, lease_s: int) -> None: ...

    def remove(self, external_port: int) -> None: ...


class MiniupnpcGateway:
    """The router that answers on the network that `multicast_host` (an IP address of ours; "": the system's choice) is in."""

    def __init__(self, multicast_host: str = "") -> None:
        import miniupnpc  # a C extension that most nodes do without

        self._upnp: Any = miniupnpc.UPnP(multicastif=multicast_host or None, discoverdelay=_ANSWER_MS)
        self._goes_by_default = not multicast_host

    def find(self) -> None:
        """Raises TransportError (code NO_ROUTE) where the question could not even be sent."""
        if self._goes_by_default:
            _require_route()  # miniupnpc writes its failure to stderr, four times
        self._upnp.discover()
        self._upnp.selectigd()

    def external_host(self) -> str:
        return str(self._upnp.externalipaddress())

    def forward(self, external_port: int, port: int, lease_s: int) -> None:
        self._upnp.addportmapping(external_port, "TCP", self._upnp.lanaddr, port, _DESCRIPTION, "", lease_s)

    def remove(self, external_port: int) -> None:
        self._upnp.deleteportmapping(external_port, "TCP")


@dataclass(frozen=True, slots=True)
class _Mapping:
    external: Address
    port: int
    """Ours."""


class PortMapper:
    """Keeps the listening ports forwarded. `run` it in a task."""

    def __init__(
        self,
        listening: Callable[[], Sequence[Address]],
        counters: Counters,
        *,
        make_gateway: Callable[[], Gateway] = MiniupnpcGateway,
    ) -> None:
        """`listening` gives the addresses to forward to, wildcards resolved."""
        self.on_change: Callable[[], object] = _nothing
        """Called, guarded, when `mapped` or `outcome` has changed."""
        self._listening = listening
        self._counters = counters
        self._make_gateway = make_gateway
        self._mappings: dict[int, _Mapping] = {}
        self._outcome = "looking for a router"
        self._one_at_a_time = trio.CapacityLimiter(1)

    @property
    def mapped(self) -> tuple[Address, ...]:
        """Addresses of the router that lead to us, when the internet can dial them."""
        return tuple(mapping.external for mapping in self._mappings.values() if mapping.external.is_public)

    @property
    def outcome(self) -> str:
        """What became of it, as half a sentence."""
        return self._outcome

    async def run(self) -> None:
        """Map, renew, look again for a router that was not there. Runs as long as the node; on its end the mappings are
        removed, within UPNP_REMOVAL_TIMEOUT_S."""
        gateway: Gateway | None = None
        try:
            while True:
                try:
                    gateway = gateway or await self._found_gateway()
                    await self._map_all(gateway)
                    pause = UPNP_LEASE_S / 2
                except TransportError as error:
                    self._counters["upnp_failed"] += 1
                    gateway = None
                    self._report({}, f"UPnP: {error.message}")
                    pause = UPNP_RETRY_S
                await trio.sleep(pause)
        finally:
            if gateway is not None:
                await self._remove_all(gateway)

    async def _found_gateway(self) -> Gateway:
        """Raises TransportError."""

        def find() -> Gateway:
            gateway = self._make_gateway()
            gateway.find()
            return gateway

        try:
            return await self._in_thread("looking for a router", find, timeout_s=UPNP_DISCOVERY_TIMEOUT_S)
        except TransportError as error:
            if error.code == "NO_ROUTE":
                self._counters["upnp_no_route"] += 1
                raise
            logger.debug("UPnP: %s", error)  # miniupnpc calls it "Success"
            raise TransportError("no router answers", outcome_known=True) from error

    async def _map_all(self, gateway: Gateway) -> None:
        """Raises TransportError."""
        host = await self._in_thread("the router does not say its address", gateway.external_host)
        try:
            outside = Address("ip6" if ":" in host else "ip4", host, 1)
            is_public = outside.is_public
        except ValueError as error:
            raise TransportError("the router does not say its address", outcome_known=True) from error
        mappings = {}
        for address in self._listening():
            if address.kind == outside.kind and not address.is_loopback and address.port not in mappings:
                external_port = await self._forward(gateway, address.port)
                external = replace(outside, port=external_port, websocket=address.websocket)
                mappings[address.port] = _Mapping(external, address.port)
        ports = " and ".join(str(mapping.external.port) for mapping in mappings.values())
        outcome = f"UPnP: the router forwards port {ports}"
        if not mappings:
            outcome = "UPnP: there is nothing to forward: the node listens on no address of the router's network"
        elif not is_public:
            outcome += f", but has itself the private address {host}: there is another router in front of it"
        self._report(mappings, outcome)

    async def _forward(self, gateway: Gateway, port: int) -> int:
        """The router's port: ours if it is free, the one from last time, or any. Raises TransportError."""
        known = self._mappings.get(port)
        wanted = [known.external.port if known else port, port, *random.sample(_FREE_PORTS, UPNP_PORTS_TRIED_MAX)]
        failure: TransportError | None = None
        for external_port in dict.fromkeys(wanted):
            for lease_s in (UPNP_LEASE_S, 0):  # some routers take none but permanent ones
                try:
                    forward = partial(gateway.forward, external_port, port, lease_s)
                    await self._in_thread("the router refuses to forward a port", forward)
                except TransportError as error:
                    failure = error
                    if error.code == "TIMEOUT":
                        raise
                else:
                    return external_port
        assert failure is not None
        raise failure

    async def _remove_all(self, gateway: Gateway) -> None:
        def remove(external_port: int) -> None:
            call_guarded("upnp_removal", partial(gateway.remove, external_port), None, self._counters)

        with trio.CancelScope(shield=True), trio.move_on_after(UPNP_REMOVAL_TIMEOUT_S):
            for mapping in list(self._mappings.values()):
                await trio.to_thread.run_sync(remove, mapping.external.port, abandon_on_cancel=True)
        self._mappings.clear()

    async def _in_thread(
        self, what: str, function: Callable[[], Result], *, timeout_s: float = UPNP_CALL_TIMEOUT_S
    ) -> Result:
        """Raises TransportError: whatever `function` raises, or code TIMEOUT; the thread is then left to itself."""
        with trio.move_on_after(timeout_s), foreign_errors(what, outcome_known=True):
            return await trio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._one_at_a_time)
        raise TransportError(f"{what}: timed out", outcome_known=True, code="TIMEOUT")

    def _report(self, mappings: dict[int, _Mapping], outcome: str) -> None:
        if (mappings, outcome) != (self._mappings, self._outcome):
            logger.info("%s", outcome)
            self._mappings, self._outcome = mappings, outcome
            call_guarded("upnp_change", self.on_change, None, self._counters)


def _require_route() -> None:
    """Raises TransportError where multicast leads nowhere: a machine without a gateway. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_SSDP)
        except OSError as error:
            message = "there is no router: this machine's network has no gateway"
            raise TransportError(message, outcome_known=True, code="NO_ROUTE") from error


def _nothing() -> None:
    pass
