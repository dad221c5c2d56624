"""Listening and dialling on loopback: what arrives is told apart, and running out of descriptors harms nobody for long."""

from __future__ import annotations

import gc
import logging
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
import trio.testing

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.net.addresses import Address, parse_address
from cocoon_p2p.net.transport.dial import dial, dial_tcp
from cocoon_p2p.net.transport.listen import DATA_MAGIC, Listener, open_listeners, sort_incoming
from cocoon_p2p.net.transport.pipe import TcpPipe

PATIENCE_S = 10.0
ANYWHERE = parse_address("/ip4/127.0.0.1/tcp/0")


@asynccontextmanager
async def listening(address: Address = ANYWHERE) -> AsyncIterator[Listener]:
    (listener,) = await open_listeners(address)
    try:
        yield listener
    finally:
        listener.close()


@asynccontextmanager
async def connected(listener: Listener) -> AsyncIterator[tuple[TcpPipe, TcpPipe]]:
    """The dialling end and the other."""
    near = await dial_tcp(listener.address)
    far = await listener.accept()
    try:
        yield near, far
    finally:
        near.abort()
        far.abort()


async def test_a_connection_both_ways_and_its_addresses() -> None:
    with trio.fail_after(PATIENCE_S):
        async with listening() as listener, connected(listener) as (near, far):
            assert listener.address.port
            assert near.address == str(listener.address)
            host, port = near.sock.getsockname()
            assert far.address == f"/ip4/{host}/tcp/{port}"
            await near.send_all(b"hello")
            room = memoryview(bytearray(10))
            assert bytes(room[: await far.receive_into(room)]) == b"hello"


async def test_ip6() -> None:
    with trio.fail_after(PATIENCE_S):
        async with listening(parse_address("/ip6/::1/tcp/0")) as listener, connected(listener) as (near, far):
            assert near.address.startswith("/ip6/::1/tcp/")
            assert far.address.startswith("/ip6/::1/tcp/")


async def test_a_port_in_use_is_a_config_error() -> None:
    async with listening() as listener:
        with pytest.raises(ConfigError, match="address already in use") as caught:
            await open_listeners(listener.address)
        assert caught.value.code == "ADDRESS_IN_USE"
        assert caught.value.hint is not None and "--listen" in caught.value.hint


async def test_an_address_of_another_machine_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen on /ip4/192"):
        await open_listeners(parse_address("/ip4/192.0.2.1/tcp/4001"))


async def test_closing_ends_accepting() -> None:
    async with listening() as listener:

        async def accept() -> None:
            with pytest.raises(TransportError):
                await listener.accept()

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                listener.close()
        with pytest.raises(TransportError):
            await listener.accept()
        with pytest.raises(TransportError, match="refused"):
            await dial(listener.address)


# --- what arrives ----------------------------------------------------------------------------------------------------

BEGINNINGS = {
    b"\x13/multistream/1.0.0\n": "libp2p",
    b"\x13": "libp2p",
    b"GET / HTTP/1.1\r\n": "websocket",
    b"GET ": "websocket",
    b"GEX ": "libp2p",
    DATA_MAGIC: "data",
    DATA_MAGIC + b"token": "data",
    b"\x00CCX": "libp2p",
    b"\xff\xfe": "libp2p",
}


@pytest.mark.parametrize(("beginning", "kind"), BEGINNINGS.items())
async def test_the_first_bytes_tell_what_it_is_and_stay(beginning: bytes, kind: str) -> None:
    with trio.fail_after(PATIENCE_S):
        async with listening() as listener, connected(listener) as (near, far):
            await near.send_all(beginning)
            assert await sort_incoming(far) == kind
            room = memoryview(bytearray(100))
            assert bytes(room[: await far.receive_into(room)]) == beginning


@pytest.mark.parametrize(("beginning", "kind"), [(b"GET ", "websocket"), (DATA_MAGIC, "data")])
async def test_bytes_that_come_one_by_one_are_waited_for_asleep(beginning: bytes, kind: str) -> None:
    found = []

    async def sort(pipe: TcpPipe) -> None:
        found.append(await sort_incoming(pipe))

    with trio.fail_after(PATIENCE_S):
        async with listening() as listener, connected(listener) as (near, far):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sort, far)
                for i in range(len(beginning)):
                    await trio.testing.wait_all_tasks_blocked()  # returns only if nobody spins
                    assert not found
                    await near.send_all(beginning[i : i + 1])
            assert found == [kind]
            await near.send_all(b"x")
            room = memoryview(bytearray(len(beginning)))
            assert await far.receive_into(room) == len(beginning)
            with trio.fail_after(PATIENCE_S):  # one byte wakes the reader again
                assert await far.receive_into(room) == 1


@pytest.mark.parametrize("beginning", [b"", b"G", b"GE", b"\x00CC"])
async def test_a_connection_that_ends_early_is_sorted_at_once(beginning: bytes) -> None:
    with trio.fail_after(PATIENCE_S):
        async with listening() as listener, connected(listener) as (near, far):
            await near.send_all(beginning)
            near.abort()
            assert await sort_incoming(far) == "libp2p"


async def test_sorting_ends_with_the_pipe() -> None:
    async with listening() as listener, connected(listener) as (_, far):

        async def sort() -> None:
            with pytest.raises(TransportError):
                await sort_incoming(far)

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sort)
                await trio.testing.wait_all_tasks_blocked()
                far.abort()


# --- out of descriptors ----------------------------------------------------------------------------------------------


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """The process may open so many more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = os.open(os.devnull, os.O_RDONLY)
    os.close(spare)
    resource.setrlimit(resource.RLIMIT_NOFILE, (spare + count, hard))
    held = []
    try:
        while True:  # holes below the highest one
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for descriptor in held[-count:]:
            os.close(descriptor)
        del held[-count:]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)


async def test_without_descriptors_it_sheds_says_so_and_lives(caplog: pytest.LogCaptureFixture) -> None:
    served: list[TcpPipe] = []
    shortages = 0
    four_turned_away, three_served = trio.Event(), trio.Event()

    def serve(pipe: TcpPipe) -> None:
        served.append(pipe)
        if len(served) == 3:
            three_served.set()

    def shed() -> None:
        nonlocal shortages
        shortages += 1
        if shortages == 4:
            four_turned_away.set()

    with trio.fail_after(PATIENCE_S), caplog.at_level(logging.WARNING, "cocoon_p2p.net"):
        async with listening() as listener, trio.open_nursery() as nursery:
            clients = [socket.socket() for _ in range(6)]
            nursery.start_soon(listener.serve, serve, shed)
            await trio.testing.wait_all_tasks_blocked()
            with descriptors_left(2):
                for client in clients:
                    client.connect(("127.0.0.1", listener.address.port))
                for client in clients:
                    client.setblocking(False)
                await four_turned_away.wait()
            assert len(served) == 2
            turned_away = 0
            for client in clients:
                await trio.lowlevel.checkpoint()
                try:
                    turned_away += client.recv(1) == b""
                except BlockingIOError:
                    pass
                except ConnectionResetError:
                    turned_away += 1
            assert turned_away == 4, "those that find no place are told so"
            messages = [record.message for record in caplog.records if "cannot take connections" in record.message]
            assert len(messages) == 1, "once in a while, not for each"
            near = await dial_tcp(listener.address)
            await three_served.wait()
            for pipe in (near, *served):
                pipe.abort()
            for client in clients:
                client.close()
            nursery.cancel_scope.cancel()


# --- dialling --------------------------------------------------------------------------------------------------------


async def test_nobody_listens_there() -> None:
    async with listening() as listener:
        address = listener.address
    with trio.fail_after(PATIENCE_S), pytest.raises(TransportError, match="refused") as caught:
        await dial(address)
    assert caught.value.code == "UNREACHABLE"
    assert caught.value.outcome_known


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names under .test are resolved without asking anybody."""
    look_up = socket.getaddrinfo
    hosts = {"both.test": ["::1", "127.0.0.1"], "nowhere.test": []}

    def answer(host: Any, *how: Any, **named: Any) -> list[Any]:
        found = [entry for each in hosts.get(host, [host]) for entry in look_up(each, *how, **named)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.fixture
def standing_clock() -> trio.testing.MockClock:
    """Time goes on when nothing has happened for five seconds: however busy the machine, who waits for it is found out."""
    return trio.testing.MockClock(autojump_threshold=5.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.usefixtures("names")
async def test_all_addresses_of_a_name_are_tried_at_once(host: str, standing_clock: trio.testing.MockClock) -> None:
    """Only one of the two answers."""
    async with listening(parse_address(f"/{'ip6' if ':' in host else 'ip4'}/{host}/tcp/0")) as listener:
        with trio.fail_after(0.2):  # less than any head start
            pipe = await dial_tcp(parse_address(f"/dns/both.test/tcp/{listener.address.port}"))
        assert pipe.address == f"/dns/both.test/tcp/{listener.address.port}"
        assert pipe.sock.getpeername()[0] == host
        pipe.abort()


@pytest.mark.usefixtures("names")
async def test_a_name_that_is_unknown() -> None:
    with trio.fail_after(PATIENCE_S), pytest.raises(TransportError, match="Name or service not known"):
        await dial(parse_address("/dns4/nowhere.test/tcp/4001"))


@pytest.mark.usefixtures("names")
async def test_the_failures_of_all_addresses_are_told() -> None:
    async with listening() as listener:
        port = listener.address.port
    with trio.fail_after(PATIENCE_S), pytest.raises(TransportError) as caught:
        await dial(parse_address(f"/dns/both.test/tcp/{port}"))
    assert {part.partition(": ")[0] for part in caught.value.message.split("; ")} == {"::1", "127.0.0.1"}


async def test_a_cancelled_dial_leaves_no_socket() -> None:
    """An unclosed socket is a warning, and warnings are errors here."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await dial(parse_address("/ip4/127.0.0.1/tcp/9"))
    gc.collect()
