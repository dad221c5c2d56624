"""The leanest HTTP client that will do: one keep-alive connection, POST with a body of known length, an answer likewise."""

from __future__ import annotations

import trio

_HEAD_END = b"\r\n\r\n"


class Connection:
    def __init__(self, stream: trio.SocketStream, path: str = "/", content_type: str = "application/octet-stream"):
        self._stream = stream
        self._head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ncontent-length: "
        self._buffer = bytearray()

    async def post(self, body: bytes) -> bytes:
        """Raises ValueError for an answer other than 200."""
        await self._stream.send_all(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
        while (end := self._buffer.find(_HEAD_END)) < 0:
            await self._receive()
        status, *fields = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        if status.split()[1] != "200":
            raise ValueError(f"the HTTP server answered {status}")
        headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        start = end + len(_HEAD_END)
        size = int(headers["content-length"])
        while len(self._buffer) < start + size:
            await self._receive()
        answer = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return answer

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def _receive(self) -> None:
        piece = await self._stream.receive_some(65536)
        if not piece:
            raise EOFError("the HTTP server closed the connection")
        self._buffer += piece
