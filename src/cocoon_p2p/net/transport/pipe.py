"""A pipe of bytes to another machine, before any encryption, and the commonest one: a TCP connection.

The socket is driven without trio.SocketStream: that one passes through the scheduler at every call, which at small calls
costs more than the system call itself. Here the system call is tried first and the task waits only when the system has
nothing; so that a busy pipe does not starve the other tasks, it lets them run every UNYIELDED_BYTES_MAX bytes or
UNYIELDED_CALLS_MAX calls.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Literal, Protocol

import trio

from cocoon_p2p.errors import TransportError
from cocoon_p2p.limits import CLOSE_LINGER_S, SEND_FINISH_TIMEOUT_S
from cocoon_p2p.net.port import Bytes
from cocoon_p2p.net.supervisor import describe

Transport = Literal["tcp", "websocket"]

LINGER_NOT = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
"""SO_LINGER: closing resets, and throws away what was not sent."""
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
UNYIELDED_BYTES_MAX = 1024 * 1024
"""What one task moves before the others run: 0.5 ms with its encryption, at 2 GB/s."""
UNYIELDED_CALLS_MAX = 32
"""Small calls take about 5 µs each; 32 of them are three turns of the scheduler."""


class Pipe(Protocol):
    """An ordered pipe of bytes to another machine. One reader and one writer at a time. Errors are TransportErrors.

    A pipe may have an attribute `finishes_sends = True` (see `finishes_sends`), which spares connections.
    """

    @property
    def address(self) -> str:
        """The other end as a multiaddr, without its own /p2p/."""

    @property
    def transport(self) -> Transport: ...

    @property
    def relayed(self) -> bool: ...

    async def receive_into(self, buffer: memoryview) -> int:
        """1 to len(buffer) bytes; 0 at the end of the stream. A cancelled one has taken nothing."""

    def send_now(self, data: Bytes) -> int:
        """How many bytes the system took without waiting; 0: none now, or pipes of this kind cannot. After less than
        all, the next send goes on with the rest of the same data: a cipher or a frame below may have counted them."""

    async def send_all(self, data: Bytes) -> None:
        """A cancelled one leaves the pipe unusable, so the caller aborts it, unless it `finishes_sends`."""

    def abort(self) -> None:
        """Close at once; readers and writers wake up with a TransportError. What the system has taken before still goes
        out, if the peer takes it soon. Idempotent."""


def finishes_sends(pipe: Pipe) -> bool:
    """Whether a cancelled send_all of this pipe still sends what it began, within SEND_FINISH_TIMEOUT_S, or else aborts
    the pipe itself. What is encrypted carries a number, so that half a message would be the end of the connection: of
    such a pipe a cancelled send costs nothing but its own stream."""
    return bool(getattr(pipe, "finishes_sends", False))


class TcpPipe:
    """A connected TCP socket. Owns it."""

    transport: Transport = "tcp"
    relayed = False
    finishes_sends = True

    def __init__(self, sock: socket.socket, address: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = address
        self._socket = sock
        self._unyielded_bytes = 0
        self._unyielded_calls = 0
        self._is_full = False
        """The last send found no room for all."""

    def __repr__(self) -> str:
        return f"<TcpPipe {self.address}>"

    @property
    def sock(self) -> socket.socket:
        """For those that look at the first bytes, or ask for its addresses."""
        return self._socket

    @property
    def is_closed(self) -> bool:
        return self._socket.fileno() < 0

    def detach(self) -> socket.socket:
        """The non-blocking socket, now the caller's; this pipe is closed. Nobody may be reading or writing."""
        return socket.socket(fileno=self._socket.detach())

    async def receive_into(self, buffer: memoryview) -> int:
        await self._let_others_run()  # before: what is taken from the system must be returned
        while True:
            try:
                size = self._socket.recv_into(buffer)
            except BlockingIOError:
                await self.wait_readable()
            except OSError as error:
                raise socket_failure(error) from error
            else:
                self._count(size)
                return size

    def send_now(self, data: Bytes) -> int:
        try:
            size = self._socket.send(data)
        except BlockingIOError:
            self._is_full = True
            return 0
        except OSError as error:
            raise socket_failure(error) from error
        self._is_full = size < len(data)
        self._count(size)
        return size

    async def send_all(self, data: Bytes) -> None:
        await self._let_others_run()
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = await self._send_some(rest)
        except trio.Cancelled:
            with trio.CancelScope(shield=True), trio.move_on_after(SEND_FINISH_TIMEOUT_S) as scope:
                await self._finish(rest)
            if scope.cancelled_caught:
                self.abort()
            raise

    async def _finish(self, rest: memoryview) -> None:
        try:
            while rest:
                rest = await self._send_some(rest)
        except TransportError:
            pass  # the cancellation is what the caller hears of; its next send fails, and what came before can be read

    async def _send_some(self, rest: memoryview) -> memoryview:
        """Without a wait that could be cancelled after bytes have gone out."""
        taken = self.send_now(rest)
        if not taken:
            try:
                await trio.lowlevel.wait_writable(self._socket)
            except (trio.ClosedResourceError, OSError, ValueError) as error:
                raise socket_failure(error) from error
            self._yielded()
        return rest[taken:]

    def abort(self) -> None:
        if not self.is_closed:
            self._bound_what_lingers()
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    def _bound_what_lingers(self) -> None:
        """The system sends what it holds after we have closed, to a peer that never reads for minutes, with megabytes of
        kernel memory. Here it has CLOSE_LINGER_S (on Linux); and a peer that left our last send standing gets a reset now."""
        try:
            if self._is_full:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            elif _USER_TIMEOUT is not None:
                self._socket.setsockopt(socket.IPPROTO_TCP, _USER_TIMEOUT, int(CLOSE_LINGER_S * 1000))
        except OSError:
            pass  # it is over already

    async def wait_readable(self) -> None:
        """Until there is something to receive, be it the end of the stream."""
        try:
            await trio.lowlevel.wait_readable(self._socket)
        except (trio.ClosedResourceError, OSError, ValueError) as error:  # ValueError: closed before we waited
            raise socket_failure(error) from error
        self._yielded()

    async def _let_others_run(self) -> None:
        if self._unyielded_bytes >= UNYIELDED_BYTES_MAX or self._unyielded_calls >= UNYIELDED_CALLS_MAX:
            self._yielded()
            await trio.lowlevel.checkpoint()

    def _count(self, size: int) -> None:
        self._unyielded_bytes += size
        self._unyielded_calls += 1

    def _yielded(self) -> None:
        self._unyielded_bytes = self._unyielded_calls = 0


def socket_failure(error: Exception) -> TransportError:
    """What an OSError, or trio's complaint about a closed socket, means to those who use the pipe."""
    closed = isinstance(error, trio.ClosedResourceError | ValueError)
    closed = closed or (isinstance(error, OSError) and error.errno == errno.EBADF)
    text = "the connection is closed" if closed else describe(error)
    return TransportError(text, outcome_known=False, code="DISCONNECTED")
