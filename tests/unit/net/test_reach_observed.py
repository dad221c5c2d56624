"""Where others see us: what is believed of what peers say."""

from __future__ import annotations

from cocoon_p2p.limits import OBSERVATION_LIFETIME_S, OBSERVATIONS_MAX
from cocoon_p2p.net.addresses import parse_address
from cocoon_p2p.net.reach.observed import ObservedAddresses
from cocoon_p2p.net.switch.origins import Origin, origin_of_host

HERE = parse_address("/ip4/5.6.7.8/tcp/4001")


def at(host: str) -> Origin:
    return origin_of_host(host)


def test_one_observer_on_the_internet_is_not_believed() -> None:
    observed = ObservedAddresses()
    assert observed.add(at("9.9.9.9"), HERE, None, 0.0)
    assert observed.add(at("9.9.9.10"), HERE, None, 0.0)  # the same /24
    assert observed.hosts(1.0) == observed.addresses(1.0) == ()
    assert observed.add(at("1.1.1.1"), HERE, None, 0.0)
    assert observed.hosts(1.0) == ("5.6.7.8",)
    assert observed.addresses(1.0) == (HERE,)


def test_a_subnet_of_ipv6_is_a_56() -> None:
    observed = ObservedAddresses()
    seen = parse_address("/ip6/2a00:1450:1::1/tcp/4001")
    observed.add(at("2606:4700:0:0::1"), seen, None, 0.0)
    observed.add(at("2606:4700:0:ff::1"), seen, None, 0.0)
    assert observed.hosts(1.0) == ()
    observed.add(at("2606:4700:0:100::1"), seen, None, 0.0)
    assert observed.hosts(1.0) == ("2a00:1450:1::1",)


def test_on_a_lan_one_observer_will_do() -> None:
    observed = ObservedAddresses()
    seen = parse_address("/ip4/192.168.1.5/tcp/4001")
    assert observed.add(at("192.168.1.7"), seen, None, 0.0)
    assert observed.addresses(1.0) == (seen,)


def test_claims_that_cannot_be_true() -> None:
    observed = ObservedAddresses()
    assert not observed.add(at("9.9.9.9"), parse_address("/ip4/192.168.1.5/tcp/4001"), None, 0.0)
    assert not observed.add(at("192.168.1.7"), HERE, None, 0.0)
    assert not observed.add(at("127.0.0.1"), HERE, None, 0.0)
    assert not observed.add(at("9.9.9.9"), parse_address("/ip4/5.6.7.8/tcp/0"), None, 0.0)
    assert not observed.add(at("9.9.9.9"), parse_address("/dns4/victim.example/tcp/80"), None, 0.0)
    relayed = f"/ip4/5.6.7.8/tcp/1/p2p/{'12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'}/p2p-circuit"
    assert not observed.add(at("9.9.9.9"), parse_address(relayed), None, 0.0)
    assert len(observed) == 0


def test_the_newest_claim_of_an_origin_counts() -> None:
    observed = ObservedAddresses()
    moved = parse_address("/ip4/5.6.7.99/tcp/4001")
    for host in ("9.9.9.9", "1.1.1.1"):
        observed.add(at(host), HERE, None, 0.0)
        observed.add(at(host), moved, None, 1.0)
    assert observed.hosts(2.0) == ("5.6.7.99",)


def test_claims_expire_and_are_bounded() -> None:
    observed = ObservedAddresses()
    for number in range(OBSERVATIONS_MAX + 50):
        observed.add(at(f"9.{number // 200}.{number % 200}.1"), HERE, None, float(number))
    assert len(observed) == OBSERVATIONS_MAX
    assert observed.hosts(400.0) == ("5.6.7.8",)
    assert observed.hosts(OBSERVATION_LIFETIME_S + 1000.0) == ()
    assert len(observed) == 0


def test_an_outgoing_connection_tells_the_host_and_not_the_port() -> None:
    observed = ObservedAddresses()
    for number, host in enumerate(("9.9.9.9", "1.1.1.1")):
        observed.add(at(host), parse_address(f"/ip4/5.6.7.8/tcp/{50_000 + number}"), 41_000 + number, 0.0)
    assert observed.hosts(1.0) == ("5.6.7.8",)
    assert observed.addresses(1.0) == ()


def mapping(*claims: tuple[str, int, int]) -> str:
    observed = ObservedAddresses()
    for host, seen, local in claims:
        observed.add(at(host), parse_address(f"/ip4/5.6.7.8/tcp/{seen}"), local, 0.0)
    return observed.mapping(1.0)


def test_what_the_router_does_with_ports() -> None:
    assert mapping() == "unknown"
    assert mapping(("9.9.9.9", 50_000, 41_000)) == "unknown"
    assert mapping(("9.9.9.9", 50_000, 41_000), ("1.1.1.1", 50_000, 41_000)) == "endpoint-independent"
    assert mapping(("9.9.9.9", 50_000, 41_000), ("1.1.1.1", 50_001, 41_000)) == "endpoint-dependent"
    assert mapping(("9.9.9.9", 50_000, 41_000), ("1.1.1.1", 50_001, 41_001)) == "unknown"
    assert mapping(("9.9.9.9", 41_000, 41_000), ("1.1.1.1", 41_001, 41_001)) == "endpoint-independent"
    assert mapping(("9.9.9.9", 50_000, 41_000), ("9.9.9.8", 50_001, 41_000)) == "unknown"  # one subnet
