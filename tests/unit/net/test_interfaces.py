"""Which of a machine's addresses others are told, and in which order."""

from __future__ import annotations

import pytest

from cocoon_p2p.limits import OWN_ADDRESSES_MAX, OWN_HOSTS_REMEMBERED_S
from cocoon_p2p.net import addresses, interfaces
from cocoon_p2p.net.addresses import parse_address, resolve_wildcards
from cocoon_p2p.net.interfaces import OwnHost, ordered, own_hosts
from cocoon_p2p.net.switch import dialling

LAPTOP = [
    ("lo", "127.0.0.1"), ("lo", "::1"), ("docker0", "172.17.0.1"), ("eth0", "169.254.7.7"), ("eth0", "192.168.1.5"),
    ("eth0", "fe80::1%eth0"), ("eth0", "fd00:1::5"), ("eth0", "2a00:1::5"), ("tun0", "10.8.0.2"),
]  # fmt: skip


def test_the_likeliest_come_first_and_loopback_last() -> None:
    found = ordered(LAPTOP, leaving=["10.8.0.2", "2a00:1::5"])  # a VPN takes the default route
    assert [own.host for own in found] == [
        "2a00:1::5", "10.8.0.2", "192.168.1.5", "fd00:1::5", "169.254.7.7", "172.17.0.1", "127.0.0.1", "::1",
    ]  # fmt: skip
    assert [own.host for own in found if own.is_loopback] == ["127.0.0.1", "::1"]
    assert [own.host for own in found if own.is_inside] == ["172.17.0.1"]


def test_without_a_default_route_the_lan_is_there_all_the_same() -> None:
    found = ordered([("lo", "127.0.0.1"), ("eth0", "10.77.0.1")], leaving=[])
    assert [own.host for own in found] == ["10.77.0.1", "127.0.0.1"]


def test_a_bridge_that_leads_out_is_no_network_of_containers() -> None:
    (host,) = ordered([("br-lan", "192.168.1.1")], leaving=["192.168.1.1"])
    assert not host.is_inside


def test_what_is_no_address_for_others_is_left_out() -> None:
    assert ordered([("eth0", "fe80::1"), ("eth0", "0.0.0.0"), ("eth0", "ff02::1")], leaving=[]) == ()


def test_this_machine_says_something() -> None:
    assert any(own.is_loopback for own in own_hosts())


def test_a_system_that_does_not_say_leaves_the_default_route(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("not here")

    monkeypatch.setattr(interfaces.ifaddr, "get_adapters", fail)
    monkeypatch.setattr(interfaces, "_leaving_for", lambda family, far: None if ":" in far else "192.168.1.5")
    assert interfaces._read() == (OwnHost("192.168.1.5"),)
    monkeypatch.setattr(interfaces, "_leaving_for", lambda family, far: None)
    assert interfaces._read() == (OwnHost("127.0.0.1", is_loopback=True),)


def test_the_system_is_asked_once_a_second() -> None:
    asked, now = 0, 5.0

    def read() -> tuple[OwnHost, ...]:
        nonlocal asked
        asked += 1
        return (OwnHost(f"10.0.0.{asked}"),)

    remembered = interfaces._Remembered(read, lambda: now)
    assert {remembered.get() for _ in range(10)} == {(OwnHost("10.0.0.1"),)}
    now += OWN_HOSTS_REMEMBERED_S
    assert remembered.get() == (OwnHost("10.0.0.2"),)
    assert asked == 2


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    def there() -> tuple[OwnHost, ...]:
        return ordered(LAPTOP, leaving=["10.8.0.2"])

    monkeypatch.setattr(addresses, "own_hosts", there)
    monkeypatch.setattr(dialling, "own_hosts", there)


def test_a_wildcard_stands_for_all_of_its_kind(laptop: None) -> None:
    assert resolve_wildcards([parse_address("/ip4/0.0.0.0/tcp/7")]) == (
        "/ip4/10.8.0.2/tcp/7",
        "/ip4/192.168.1.5/tcp/7",
        "/ip4/169.254.7.7/tcp/7",
        "/ip4/172.17.0.1/tcp/7",
        "/ip4/127.0.0.1/tcp/7",
    )
    assert resolve_wildcards([parse_address("/ip6/::/tcp/7")]) == (
        "/ip6/fd00:1::5/tcp/7",
        "/ip6/2a00:1::5/tcp/7",
        "/ip6/::1/tcp/7",
    )


def test_of_several_wildcards_each_keeps_its_best(laptop: None) -> None:
    texts = ["/ip4/0.0.0.0/tcp/7", "/ip4/0.0.0.0/tcp/8/ws", "/ip6/::/tcp/7", "/ip6/::/tcp/8/ws", "/ip4/127.0.0.1/tcp/9"]
    found = resolve_wildcards([parse_address(text) for text in texts])
    away = [text for text in found if not parse_address(text).is_loopback]
    assert len(away) == OWN_ADDRESSES_MAX
    assert away[:4] == [
        "/ip4/10.8.0.2/tcp/7",
        "/ip4/10.8.0.2/tcp/8/ws",
        "/ip6/fd00:1::5/tcp/7",
        "/ip6/fd00:1::5/tcp/8/ws",
    ]
    assert "/ip4/127.0.0.1/tcp/9" in found[OWN_ADDRESSES_MAX:]


def test_what_the_operator_names_is_never_cut(laptop: None) -> None:
    texts = [f"/ip4/192.168.1.5/tcp/{port}" for port in range(1, OWN_ADDRESSES_MAX + 5)]
    assert resolve_wildcards([parse_address(text) for text in texts]) == tuple(texts)


def test_containers_are_not_where_this_machine_is(laptop: None) -> None:
    """They come and go, and every other machine with containers has the same addresses."""
    assert dialling.own_hosts_now() >= {"10.8.0.2", "192.168.1.5", "127.0.0.1"}
    assert "172.17.0.1" not in dialling.own_hosts_now()
