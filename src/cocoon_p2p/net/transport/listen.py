"""Listening: one port for libp2p over plain TCP, for WebSockets and for data sockets, told apart by their first bytes."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Literal

import trio

from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.limits import LISTEN_BACKLOG, SHED_LOG_INTERVAL_S, SHED_PAUSE_S
from cocoon_p2p.net.addresses import Address
from cocoon_p2p.net.transport.pipe import TcpPipe, socket_failure

logger = logging.getLogger("cocoon_p2p.net")

DATA_MAGIC = b"\x00CCD"
"""What a data socket begins with (data/1)."""
_HTTP = b"GET "

Incoming = Literal["libp2p", "websocket", "data"]

_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_OVER = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})


class Listener:
    """A listening socket. Owns it."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        self.address = address_of(host, port)
        """Where it really listens: with the port that the system chose for port 0."""
        self._socket = sock
        self._spare = _open_spare()
        self._warned_at = float("-inf")

    async def accept(self) -> TcpPipe:
        """The next connection. Raises TransportError when the listener is closed, OSError when the system has no
        descriptor or no memory for it; any other trouble is that of one connection, and the next one is waited for."""
        while True:
            try:
                sock, peer = self._socket.accept()
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self._socket)
                except (trio.ClosedResourceError, ValueError) as error:
                    raise _closed() from error
            except OSError as error:
                if error.errno in _SHORTAGES:
                    raise
                if error.errno in _OVER:
                    raise _closed() from error
                await trio.lowlevel.checkpoint()  # it was gone before we took it (accept(2), "Error handling")
            else:
                pipe = _pipe_of(sock, peer)
                if pipe is not None:
                    return pipe

    async def serve(self, on_pipe: Callable[[TcpPipe], object], on_shortage: Callable[[], object]) -> None:
        """Call `on_pipe`, which must not raise, for each connection, until the listener is closed.

        When the system runs out of descriptors, whoever knocks is turned away at once rather than left to wait, and
        `on_shortage` is called so that the node may give up what it needs least.
        """
        try:
            while True:
                try:
                    on_pipe(await self.accept())
                    await trio.lowlevel.checkpoint()  # the backlog may be long; those accepted want to be served, too
                except OSError as error:
                    self._warn(error)
                    self._turn_one_away()
                    on_shortage()
                    await trio.sleep(SHED_PAUSE_S)
        except TransportError:
            pass  # closed
        finally:
            self.close()

    def close(self) -> None:
        """Idempotent."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        self._close_spare()

    def _turn_one_away(self) -> None:
        """With the descriptor that was kept for this."""
        self._close_spare()
        try:
            sock, _ = self._socket.accept()
            sock.close()
        except OSError:
            pass  # another task had a descriptor closed or opened in between, or nobody knocks any more
        self._spare = _open_spare()

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    def _warn(self, error: OSError) -> None:
        now = trio.current_time()
        if now - self._warned_at >= SHED_LOG_INTERVAL_S:
            self._warned_at = now
            logger.warning("%s: cannot take connections: %s; raise the limit (ulimit -n)", self.address, error.strerror)


async def open_listeners(address: Address) -> list[Listener]:
    """One for each address that the host stands for. Raises ConfigError: in use, not ours to listen on."""
    try:
        # Without SO_REUSEPORT, which py-libp2p sets: with it a second node would share the port in silence.
        opened = await trio.open_tcp_listeners(address.port, host=address.host, backlog=LISTEN_BACKLOG)
    except OSError as error:
        in_use = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"cannot listen on {address}: {'address already in use' if in_use else error.strerror or error}",
            code="ADDRESS_IN_USE" if in_use else None,
            hint="choose another port with --listen or [network] listen; tcp/0 takes any free one" if in_use else None,
        ) from error
    return [Listener(socket.socket(fileno=listener.socket.detach())) for listener in opened]


async def sort_incoming(pipe: TcpPipe) -> Incoming:
    """What a connection that was just accepted begins with; nothing of it is taken. The caller sets the deadline.

    The first byte tells most: multistream begins with 0x13. In a private network a nonce comes first, which is random:
    there the four bytes of another kind come by chance once in two thousand million connections. Raises TransportError.
    """
    begun = await _peek(pipe, 1)
    if begun in (_HTTP[:1], DATA_MAGIC[:1]):
        begun = await _peek(pipe, 4)
    if begun == _HTTP:
        return "websocket"
    return "data" if begun == DATA_MAGIC else "libp2p"


async def _peek(pipe: TcpPipe, size: int) -> bytes:
    """The first bytes that arrive, fewer only when the connection ends with them. SO_RCVLOWAT keeps the task asleep until
    enough are there: a socket with one byte in it counts as readable otherwise, and waiting for more would be spinning."""
    woken = False
    try:
        pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
        while True:
            try:
                begun = pipe.sock.recv(size, socket.MSG_PEEK)
                if len(begun) == size or not begun or woken:
                    break
            except BlockingIOError:
                pass
            await pipe.wait_readable()
            woken = True
        pipe.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
    except OSError as error:
        raise socket_failure(error) from error
    return begun


def address_of(host: str, port: int) -> Address:
    """Of what getsockname() and getpeername() say."""
    host = host.partition("%")[0]
    return Address("ip6" if ":" in host else "ip4", host, port)


def _pipe_of(sock: socket.socket, peer: Any) -> TcpPipe | None:
    """None for a connection that was reset before we took it: macOS then names no peer, and refuses to set TCP_NODELAY with
    EINVAL, which must not pass for the end of the listener."""
    try:
        return TcpPipe(sock, str(address_of(*peer[:2])))
    except (OSError, TypeError):
        sock.close()
        return None


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None


def _closed() -> TransportError:
    return TransportError("not listening any more", outcome_known=True, code="CLOSED")
