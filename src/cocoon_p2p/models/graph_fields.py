"""The protobuf messages of an ONNX file (onnx.proto3), read without a parser that a stranger's bytes could hurt, and without copying
a weight: what is not looked at costs nothing, however large.

Stricter than protobuf: a field that is not known, of another type, or singular and yet there twice, is refused. So what is read here
is all that any parser can read.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap

Data = mmap | bytes
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class NotReadable(ValueError):
    """The bytes are no ONNX file that is let through; the message says why."""


class Message:
    """What fields a message may have. `fields`: number to wire types; those of `repeated` may come more than once."""

    def __init__(self, name: str, single: dict[int, int], repeated: dict[int, tuple[int, ...]]) -> None:
        self.name = name
        self.wires: dict[int, tuple[int, ...]] = {number: (wire,) for number, wire in single.items()} | repeated
        self.single = frozenset(single)


_TEXTS, _PACKED_VARINT, _PACKED_32, _PACKED_64 = (BYTES,), (VARINT, BYTES), (FIXED32, BYTES), (FIXED64, BYTES)

MODEL = Message(
    "the model",
    {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES},
    {8: _TEXTS, 14: _TEXTS, 20: _TEXTS, 25: _TEXTS, 26: _TEXTS},
)
OPERATOR_SET = Message("an operator set", {1: BYTES, 2: VARINT}, {})
GRAPH = Message(
    "a graph", {2: BYTES, 10: BYTES}, dict.fromkeys((1, 5, 11, 12, 13, 14, 15, 16), _TEXTS),
)  # fmt: skip
NODE = Message("a node", {3: BYTES, 4: BYTES, 6: BYTES, 7: BYTES, 8: BYTES}, dict.fromkeys((1, 2, 5, 9, 10), _TEXTS))
ATTRIBUTE = Message(
    "an attribute",
    {
        1: BYTES,
        2: FIXED32,
        3: VARINT,
        4: BYTES,
        5: BYTES,
        6: BYTES,
        13: BYTES,
        14: BYTES,
        20: VARINT,
        21: BYTES,
        22: BYTES,
    },
    {7: _PACKED_32, 8: _PACKED_VARINT, 9: _TEXTS, 10: _TEXTS, 11: _TEXTS, 15: _TEXTS, 23: _TEXTS},
)
TENSOR = Message(
    "a tensor",
    {2: VARINT, 3: BYTES, 8: BYTES, 9: BYTES, 12: BYTES, 14: VARINT},
    {
        1: _PACKED_VARINT, 4: _PACKED_32, 5: _PACKED_VARINT, 6: _TEXTS, 7: _PACKED_VARINT, 10: _PACKED_64, 11: _PACKED_VARINT,
        13: _TEXTS, 16: _TEXTS,
    },
)  # fmt: skip
ENTRY = Message("an entry", {1: BYTES, 2: BYTES}, {})
FUNCTION = Message(
    "a function", {1: BYTES, 8: BYTES, 10: BYTES, 13: BYTES}, dict.fromkeys((4, 5, 6, 7, 9, 11, 12, 14), _TEXTS),
)  # fmt: skip


class Reader:
    """`fields_max`: fields that are read in all before NotReadable is raised."""

    def __init__(self, data: Data, fields_max: int) -> None:
        self.data = data
        self._left = fields_max

    def fields(self, message: Message, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The fields of the message at data[start:end]: (number, a, b), for a varint a is its value (unsigned), for others
        data[a:b] its bytes; b is 0 for a varint only. Raises NotReadable."""
        data, wires, single = self.data, message.wires, message.single
        seen = 0
        while start < end:
            self._left -= 1
            if self._left < 0:
                raise NotReadable("it has more parts than are read")
            tag = data[start]
            start += 1
            if tag >= 0x80:
                tag, start = self.varint(start - 1, end)
            number, wire = tag >> 3, tag & 7
            if wire not in wires.get(number, ()):
                raise NotReadable(f"{message.name} has a part that is not known here (field {number}, type {wire})")
            if number in single:
                if seen >> number & 1:
                    raise NotReadable(f"{message.name} has a part twice (field {number})")
                seen |= 1 << number
            if wire == VARINT:
                value, start = self.varint(start, end)
                yield number, value, 0
                continue
            if wire == BYTES:
                size, start = self.varint(start, end)
            else:
                size = 4 if wire == FIXED32 else 8
            if size > end - start:
                raise NotReadable(f"{message.name} ends beyond its end")
            yield number, start, start + size
            start += size

    def varint(self, start: int, end: int) -> tuple[int, int]:
        """The unsigned 64-bit number at `start`, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            if start >= end:
                break
            byte = self.data[start]
            start += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, start
        raise NotReadable("a number has no end")

    def varints(self, start: int, end: int, most: int) -> list[int]:
        """Packed numbers, signed, at most `most` of them."""
        values = []
        while start < end:
            value, start = self.varint(start, end)
            values.append(signed(value))
            if len(values) > most:
                raise NotReadable(f"a list has more than {most} entries")
        return values

    def text(self, start: int, end: int, bytes_max: int) -> str:
        if end - start > bytes_max:
            raise NotReadable(f"a name has more than {bytes_max} bytes")
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError as error:
            raise NotReadable("a name is not text") from error


def signed(value: int) -> int:
    """A protobuf int64 as it is meant."""
    return value - (1 << 64) if value >> 63 else value
