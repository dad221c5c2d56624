"""Dialling a peer that dials us at the same moment, from the port that its packets are sent to.

A NAT lets packets in for a port of ours after packets went out from it, as long as it maps one inner port to one outer
port. So we dial from the very port of a connection whose outer address we were told: that of an outgoing connection, to a
relay. Its socket gets SO_REUSEADDR for this, after the fact, which Linux, macOS and the BSDs accept for sockets that do not
listen; the listening socket is left alone (with SO_REUSEPORT on it another program could share its port in silence).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

import trio

from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.transport.coded import CodedPipe
from cocoon_p2p.net.transport.pipe import TcpPipe

Endpoint = tuple[str, int]

_AGAIN_S = 0.1
"""After a refusal: the peer's machine, or its router, answered before its own SYN opened the way."""
_NOT_YET = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EADDRNOTAVAIL,
        errno.EPERM,
    }
)


def tcp_pipe_of(pipe: object) -> TcpPipe | None:
    """The TCP connection that a pipe runs on: itself, or what is below a private network's encryption and WebSocket's
    frames. None for a circuit."""
    while isinstance(pipe, CodedPipe):
        pipe = pipe.below
    return pipe if isinstance(pipe, TcpPipe) else None


def lend_port(pipe: TcpPipe) -> Endpoint:
    """The local end of an outgoing connection, from now on open to other connections. Raises OSError when it is closed."""
    pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    host, port = pipe.sock.getsockname()[:2]
    return host, port


async def dial_until_open(local: Endpoint, targets: Sequence[Address]) -> TcpPipe:
    """The first connection to come about, from `local` to any of `targets`, all tried again and again. Never gives up:
    the caller sets the deadline."""
    won: list[TcpPipe] = []

    async def attempt(target: Address) -> None:
        pipe = await _dial_again_and_again(local, target)
        if won:
            pipe.abort()
        else:
            won.append(pipe)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        for target in targets:
            nursery.start_soon(attempt, target)
    if not won:
        await trio.sleep_forever()  # no target at all
    return won[0]


async def _dial_again_and_again(local: Endpoint, target: Address) -> TcpPipe:
    while True:
        try:
            return TcpPipe(await _dial(local, target), str(target.endpoint))
        except OSError as error:
            if error.errno not in _NOT_YET:
                await trio.sleep_forever()  # the port is taken, or the address of another family: no use to try again
            await trio.sleep(_AGAIN_S)


async def _dial(local: Endpoint, target: Address) -> socket.socket:
    """Raises OSError."""
    sock = trio.socket.socket(target.family, socket.SOCK_STREAM)
    connected = False
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        await sock.bind(local)
        await sock.connect((target.host, target.port))
        connected = True
    finally:
        if not connected:
            sock.close()
    return socket.socket(fileno=sock.detach())
