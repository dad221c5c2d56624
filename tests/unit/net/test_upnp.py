"""Port mappings: miniupnpc against a router of our own, in a network namespace."""

from __future__ import annotations

from collections import Counter

import pytest
import trio
from lonely import run_alone
from net_nodes import polled

from cocoon_p2p.limits import UPNP_LEASE_S
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.reach import upnp
from cocoon_p2p.net.reach.upnp import PortMapper

LISTENING = Address("ip4", "192.168.1.20", 4001)


@pytest.mark.slow
def test_with_a_router() -> None:
    double, plain, taken, permanent = run_alone("upnp")
    assert double["held"] == plain["held"] == [[4001, ["127.0.0.1", 4001, UPNP_LEASE_S]]]
    assert double["mapped"] == []
    assert double["outcome"].endswith("the private address 198.51.100.7: there is another router in front of it")
    assert plain["mapped"] == ["/ip4/9.9.9.9/tcp/4001"]
    assert plain["outcome"] == "UPnP: the router forwards port 4001"
    ((external, (_, port, _)),) = taken["held"]
    assert external != 4001
    assert port == 4001
    assert taken["mapped"] == [f"/ip4/9.9.9.9/tcp/{external}"]
    assert permanent["held"] == [[4001, ["127.0.0.1", 4001, 0]]]
    assert [run["left"] for run in (double, plain, taken, permanent)] == [[], [], [], []]  # removed at the end


@pytest.mark.slow
def test_without_a_router_nothing_waits() -> None:
    found = run_alone("upnp_without_router")
    assert found["outcome"] == "UPnP: no router answers"
    assert found["mapped"] == []
    assert found["returned_s"] < found["took_s"] / 2


class Box:
    """A router that does what it is told, in a thread like the real one."""

    def __init__(self, host: str = "9.9.9.9") -> None:
        self.host = host
        self.calls: list[tuple[object, ...]] = []
        self.fault: Exception | None = None

    def find(self) -> None:
        self._note("find")

    def external_host(self) -> str:
        self._note("external_host")
        return self.host

    def forward(self, external_port: int, port: int, lease_s: int) -> None:
        self._note("forward", external_port, port, lease_s)

    def remove(self, external_port: int) -> None:
        self._note("remove", external_port)

    def _note(self, *call: object) -> None:
        self.calls.append(call)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router's hours in fractions of a second: its thread knows no mock clock."""
    monkeypatch.setattr(upnp, "UPNP_LEASE_S", 0.1)
    monkeypatch.setattr(upnp, "UPNP_RETRY_S", 0.05)


async def test_the_lease_is_renewed_and_the_mapping_removed(quick: None) -> None:
    box = Box()
    mapper = PortMapper(lambda: [LISTENING], Counter(), make_gateway=lambda: box)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await polled(lambda: box.calls.count(("forward", 4001, 4001, 0.1)) == 3)
        nursery.cancel_scope.cancel()
    assert box.calls.count(("find",)) == 1
    assert box.calls[-1] == ("remove", 4001)
    assert mapper.mapped == ()


async def test_a_router_that_fails_is_looked_for_again(quick: None) -> None:
    box, counters = Box(), Counter[str]()
    changes: list[str] = []
    mapper = PortMapper(lambda: [LISTENING], counters, make_gateway=lambda: box)
    mapper.on_change = lambda: changes.append(mapper.outcome)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await polled(lambda: len(changes) == 1)
        assert list(map(str, mapper.mapped)) == ["/ip4/9.9.9.9/tcp/4001"]
        box.fault = OSError("it is being restarted")
        await polled(lambda: len(changes) == 3)
        assert mapper.mapped == ()
        box.fault, box.host = None, "1.1.1.1"
        await polled(lambda: len(changes) == 4)
        assert list(map(str, mapper.mapped)) == ["/ip4/1.1.1.1/tcp/4001"]
        nursery.cancel_scope.cancel()
    assert changes == [
        "UPnP: the router forwards port 4001",
        "UPnP: the router does not say its address: it is being restarted",
        "UPnP: no router answers",
        "UPnP: the router forwards port 4001",
    ]
    assert counters["upnp_failed"] >= 2


@pytest.mark.parametrize("host", ["", "0.0.0.0", "not an address", "<html>"])
async def test_a_router_that_talks_nonsense(host: str) -> None:
    mapper = PortMapper(lambda: [LISTENING], Counter(), make_gateway=lambda: Box(host))
    told = trio.Event()
    mapper.on_change = told.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await told.wait()
        assert mapper.mapped == ()
        nursery.cancel_scope.cancel()


async def test_loopback_is_not_forwarded() -> None:
    box = Box()
    mapper = PortMapper(lambda: [Address("ip4", "127.0.0.1", 4001)], Counter(), make_gateway=lambda: box)
    told = trio.Event()
    mapper.on_change = told.set
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mapper.run)
        await told.wait()
        nursery.cancel_scope.cancel()
    assert not [call for call in box.calls if call[0] == "forward"]
    assert mapper.outcome == "UPnP: there is nothing to forward: the node listens on no address of the router's network"
