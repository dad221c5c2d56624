"""Server-sent events, as far as token streams use them: the data of each event, bounded.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator


class EventTooLarge(ValueError):
    """An event has more bytes than may be kept."""


class EventReader:
    """Bytes as they come, in; the data of each event that is whole, out."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Raises EventTooLarge."""
        if self._after_return and chunk[:1] == b"\n":
            chunk = chunk[1:]  # the second half of a line's end that two chunks shared
        if chunk:
            self._after_return = chunk.endswith(b"\r")
        pieces = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for piece in pieces[:-1]:
            self._grow(piece)
            event = self._line_ended()
            if event is not None:
                yield event
        self._grow(pieces[-1])

    def _grow(self, piece: bytes) -> None:
        self._line += piece
        if self._size + len(self._line) > self._bytes_max:
            raise EventTooLarge(f"an event has more than {self._bytes_max} bytes")

    def _line_ended(self) -> bytes | None:
        """The event's data when this line was the empty one behind it."""
        line = bytes(self._line)
        self._line.clear()
        if not line:
            data, self._data, self._size = self._data, [], 0
            return b"\n".join(data) if data else None
        field, _, value = line.partition(b":")
        if field == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value) + 1
        return None
