"""Reading a request's body into one buffer, never more than a bound."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from cocoon_p2p.errors import CocoonError, ConfigError

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(CocoonError):
    """The client hung up before its request was whole; there is nobody to answer."""

    default_code = "CLIENT_GONE"


async def read_body(receive: Receive, headers: Mapping[str, str], bytes_max: int) -> memoryview:
    """The whole body of an ASGI request. With a Content-Length it is written once, into a buffer of that size.
    Raises ConfigError (code TOO_LARGE) above `bytes_max`, ClientGone."""
    announced = headers.get("content-length")
    if announced is not None:  # the HTTP parser has checked that these are digits
        return await _read_sized(receive, _bounded(int(announced), bytes_max))
    body = bytearray()
    async for piece in _Pieces(receive):
        _bounded(len(body) + len(piece), bytes_max)
        body += piece
    return memoryview(body)


async def _read_sized(receive: Receive, size: int) -> memoryview:
    body, position = memoryview(bytearray(size)), 0
    async for piece in _Pieces(receive):
        body[position : position + len(piece)] = piece
        position += len(piece)
    return body[:position]


def _bounded(size: int, bytes_max: int) -> int:
    if size > bytes_max:
        raise ConfigError(f"the body has {size} bytes or more; at most {bytes_max} are taken here", code="TOO_LARGE")
    return size


class _Pieces:
    """The body's pieces, one after the other."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> bytes:
        if not self._more:
            raise StopAsyncIteration
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client hung up")
        self._more = bool(message.get("more_body"))
        body: bytes = message.get("body", b"")
        return body
