"""Dialling: from an address of TCP or WebSocket to a pipe."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import LOOK_UPS_MAX, RESOLVED_ADDRESSES_MAX
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.supervisor import describe
from cocoon_p2p.net.transport.pipe import Pipe, TcpPipe
from cocoon_p2p.net.transport.websocket import connect_websocket

_look_ups: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("look_ups")
Target = tuple[int, Any]
"""Address family and what connect() takes."""


async def dial(address: Address) -> Pipe:
    """A pipe to what listens at `address`, which names no relay. A name's addresses are all tried at once, without a head
    start for any; the first to answer wins. Raises TransportError; the caller sets the deadline."""
    assert address.relay is None, "relays are dialled by net/reach"
    pipe = await dial_tcp(address)
    if not address.websocket:
        return pipe
    upgraded = None
    try:
        upgraded = await connect_websocket(pipe, str(address), f"{_bracketed(address.host)}:{address.port}")
    finally:
        if upgraded is None:
            pipe.abort()
    return upgraded


async def dial_tcp(address: Address) -> TcpPipe:
    """The TCP connection alone. Raises TransportError."""
    try:
        targets = await _resolve(address)
    except OSError as error:
        raise _unreachable(f"{address.host}: {describe(error)}") from error
    if len(targets) == 1:
        try:
            return TcpPipe(await _connect(targets[0]), str(address))
        except OSError as error:
            raise _unreachable(describe(error)) from error
    return TcpPipe(await _race(targets), str(address))


async def _resolve(address: Address) -> list[Target]:
    """Raises OSError. A name server may take half a minute, and strangers choose names and server: these threads are not
    those that the rest of the program waits for."""
    if address.kind in ("ip4", "ip6"):
        return [(address.family, (address.host, address.port))]
    look_up = partial(socket.getaddrinfo, address.host, address.port, address.family, socket.SOCK_STREAM)
    found = await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=_look_up_places())
    targets: dict[Target, None] = dict.fromkeys((int(family), target) for family, _, _, _, target in found)
    return list(targets)[:RESOLVED_ADDRESSES_MAX]


def _look_up_places() -> trio.CapacityLimiter:
    """Of this run of trio, as trio's own."""
    try:
        return _look_ups.get()
    except LookupError:
        places = trio.CapacityLimiter(LOOK_UPS_MAX)
        _look_ups.set(places)
        return places


async def _race(targets: list[Target]) -> socket.socket:
    won: list[socket.socket] = []
    failures: list[str] = []

    async def attempt(target: Target) -> None:
        try:
            sock = await _connect(target)
        except OSError as error:
            failures.append(f"{target[1][0]}: {describe(error)}")
            return
        if won:
            sock.close()
        else:
            won.append(sock)
            nursery.cancel_scope.cancel()

    finished = False
    try:
        async with trio.open_nursery() as nursery:
            for target in targets:
                nursery.start_soon(attempt, target)
        finished = True
    finally:
        if won and not finished:  # cancelled from outside at the moment of success
            won.pop().close()
    if not won:
        raise _unreachable("; ".join(failures))
    return won[0]


async def _connect(target: Target) -> socket.socket:
    """Raises OSError."""
    family, address = target
    sock = socket.socket(family, socket.SOCK_STREAM)
    connected = False
    try:
        sock.setblocking(False)
        try:
            sock.connect(address)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None
        connected = True
    finally:
        if not connected:
            sock.close()
    return sock


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _unreachable(text: str) -> TransportError:
    return TransportError(text, outcome_known=True, code="UNREACHABLE")
