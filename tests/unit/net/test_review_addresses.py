"""Addresses that strangers write, and what a shortage of descriptors must not end."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio
import trio.testing
from net_nodes import PATIENCE_S, open_node, peer_of

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import LOOK_UPS_MAX, SWITCH_ROUND_S
from cocoon_p2p.net import address_book, addresses
from cocoon_p2p.net.address_book import AddressBook
from cocoon_p2p.net.addresses import address_from_bytes, address_to_bytes, parse_address, parse_dialable
from cocoon_p2p.net.dht.dht import Dht
from cocoon_p2p.net.dht.messages import read_message, send_message
from cocoon_p2p.net.pb.kad_pb2 import Message
from cocoon_p2p.net.switch.dialling import own_hosts_now
from cocoon_p2p.net.transport.dial import dial
from cocoon_p2p.net.yamux.stream import MuxStream
from cocoon_p2p.testing.net_contract import KEY

UNRESOLVABLE = ["a..b", ".", "x" * 64 + ".example", "a." + "x" * 64]


@pytest.mark.parametrize("host", UNRESOLVABLE)
def test_names_that_python_does_not_even_ask_for(host: str) -> None:
    """socket.getaddrinfo raises UnicodeError for them, which is no OSError."""
    with pytest.raises(UnicodeError):
        socket.getaddrinfo(host, 1)
    with pytest.raises(ValueError, match="host name"):
        parse_address(f"/dns4/{host}/tcp/1")
    assert address_from_bytes(b"\x36" + bytes([len(host)]) + host.encode() + b"\x06\x00\x01") is None


@pytest.mark.parametrize(
    "host", ["fe80::1%\x00", "fe80::1%\x1b[31m", "fe80::1%a b", "fe80::1%" + "x" * 16, "fe80::1%ü"]
)
def test_interfaces_that_are_none(host: str) -> None:
    with pytest.raises(ValueError, match="interface"):
        parse_address(f"/ip6/{host}/tcp/1")


def test_an_interface_stays() -> None:
    assert parse_address("/ip6/fe80::1%eth0.1/tcp/1").host == "fe80::1%eth0.1"


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "0.0.0.0"])
def test_ipv4_in_the_clothes_of_ipv6(host: str) -> None:
    """::ffff:127.0.0.1 leads to loopback, and Python does not call it so."""
    with pytest.raises(ValueError, match="IPv6"):
        parse_address(f"/ip6/::ffff:{host}/tcp/1")
    mapped = socket.inet_pton(socket.AF_INET6, f"::ffff:{host}")
    assert address_from_bytes(b"\x29" + mapped + b"\x06\x00\x01") is None


def test_what_is_too_long_for_an_address_is_not_remembered() -> None:
    """The cache of read addresses holds what it was asked: 4096 times what a message of the DHT may hold were 400 MB."""
    before = addresses._address_of.cache_info().currsize
    for number in range(50):
        assert address_from_bytes(b"\x04" + number.to_bytes(4) + bytes(60_000)) is None
    assert addresses._address_of.cache_info().currsize == before


async def test_a_lookup_survives_an_address_that_nobody_can_dial() -> None:
    """The error came out of the dial, the lookup, and the call of whoever asked."""
    async with open_node(1) as victim, open_node(2) as liar:

        async def lie(stream: MuxStream) -> None:
            while True:
                answer = Message(type=(await read_message(stream)).type)
                for number, host in enumerate(UNRESOLVABLE):
                    entry = answer.closerPeers.add(id=bytes.fromhex("002408011220") + bytes([number] * 32))
                    entry.addrs.append(b"\x36" + bytes([len(host)]) + host.encode() + b"\x06\x00\x01")
                await send_message(stream, answer)

        liar._streams.set_internal("/cocoon/kad/1.0.0", lie)
        await victim.connect(liar.peer_id, liar.addresses())
        assert await victim.dht_get(KEY) is None
        with pytest.raises(TransportError, match="not an address"):
            await victim.connect(peer_of(7), ["/dns4/a..b/tcp/1\x1b[31m"])


async def test_what_an_error_says_of_an_address_is_printable() -> None:
    async with open_node(1) as node:
        with pytest.raises(TransportError) as caught:
            await node.connect(peer_of(7), ["/ip6/fe80::1%\x1b[2J/tcp/1\n"])
        assert caught.value.message.isprintable()


async def test_slow_name_servers_hold_up_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for a name server are not those in which databases reach the disk."""
    answered = threading.Event()
    asked = 0

    def slow(*_: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        answered.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        with trio.fail_after(PATIENCE_S):
            for number in range(3 * LOOK_UPS_MAX):
                with trio.move_on_after(0.001):
                    await dial(parse_address(f"/dns4/slow{number}.example/tcp/1"))
            assert asked <= LOOK_UPS_MAX
            assert await trio.to_thread.run_sync(lambda: "through") == "through"
    finally:
        answered.set()


def test_strangers_do_not_make_us_forget_where_we_reached_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_book, "ADDRESS_BOOK_PEERS_MAX", 20)
    book = AddressBook()
    for number in range(10):
        book.add(peer_of(number), ["/ip4/192.0.2.1/tcp/1"])
        book.confirm(peer_of(number), "/ip4/192.0.2.2/tcp/2")
    for number in range(100, 200):
        book.add(peer_of(number), ["/ip4/192.0.2.3/tcp/3"])
    assert all(book.worked(peer_of(number)) for number in range(10))
    assert len(book) == 20
    for number in range(200, 230):
        book.confirm(peer_of(number), "/ip4/192.0.2.4/tcp/4")
    assert len(book) == 20
    assert not book.get(peer_of(9)) and not book.get(peer_of(199)) and book.worked(peer_of(229))


# --- out of descriptors ----------------------------------------------------------------------------------------------


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, hard))
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


def test_own_addresses_stay_what_they_were_when_no_descriptor_is_left() -> None:
    before = own_hosts_now()
    with no_descriptor_left():
        assert own_hosts_now() == before


async def test_a_node_outlives_its_rounds_without_descriptors(autojump_clock: trio.testing.MockClock) -> None:
    """The round that looks for this machine's addresses opens a socket: its failure ended the node."""
    async with open_node(1) as node:
        await trio.sleep(SWITCH_ROUND_S / 2)
        with no_descriptor_left():
            await trio.sleep(2 * SWITCH_ROUND_S)
        assert node.counters().get("machine_moved", 0) == 0


# --- rounds that fail -------------------------------------------------------------------------------------------------


async def test_maintenance_of_the_dht_that_fails_is_not_tried_without_a_pause(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    failures = 0

    async def fail(dht: Dht) -> None:
        nonlocal failures
        failures += 1
        dht._refresh_at = 0.0  # still due
        raise ValueError("a fault of ours")

    monkeypatch.setattr(Dht, "_work", fail)
    async with open_node(1) as node:
        node._dht._refresh_at = 0.0
        node._dht._wake.set()
        await trio.sleep(10.0)
        assert 2 <= failures <= 12


def test_addresses_that_are_told_survive_their_way() -> None:
    assert [address_from_bytes(address_to_bytes(each)) for each in parse_dialable(["/dns4/node.example./tcp/1"])] == [
        parse_address("/dns4/node.example./tcp/1")
    ]
