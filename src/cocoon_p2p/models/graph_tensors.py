"""Weights and constants of a model from a stranger: no larger than their bytes, and their bytes where its manifest says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from cocoon_p2p.limits import GRAPH_NAME_BYTES_MAX, PAYLOAD_RANK_MAX
from cocoon_p2p.models.graph_fields import ENTRY, TENSOR, Reader, signed

_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 8: 0, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Of an element, by onnx.TensorProto.DataType; 0 for texts."""
_INT64 = 7
_SMALLEST_BITS = 2
_EXTERNAL = 1
_DIGITS_MAX = 18
_USES_MAX = 4
"""How often over the bytes of a model's files may be weights: tied weights use some twice."""


class TensorRefused(ValueError):
    def __init__(self, message: str, *, external: bool = False) -> None:
        super().__init__(message)
        self.external = external
        """Whether it is about data in another file."""


class ExternalFiles:
    """Files that weights may be in: those of the manifest, by path, with their bytes."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._taken = 0
        self._used: set[str] = set()

    @property
    def used(self) -> frozenset[str]:
        return frozenset(self._used)

    def take(self, entries: Mapping[str, str], wanted: int) -> None:
        """A tensor of `wanted` bytes is said to be there (onnx.proto, external_data). Raises TensorRefused."""
        unknown = sorted(set(entries) - {"location", "offset", "length", "checksum"})
        if unknown:
            raise _external(f"its data comes with {unknown[0][:40]!r}, which is not known here")
        location = entries.get("location", "")
        size = self._sizes.get(location)
        if size is None:
            raise _external(f"its data would come from {location[:80]!r}, which is none of its files")
        offset, length = _number(entries, "offset", 0), _number(entries, "length", wanted)
        if length < wanted or offset + length > size:
            raise _external(f"a weight of {wanted} bytes would lie beyond the end of {location!r}")
        self._taken += wanted
        if self._taken > _USES_MAX * sum(self._sizes.values()):
            raise _external("its weights are many times larger than its files")
        self._used.add(location)


class UncheckedFiles(ExternalFiles):
    """For a model whose manifest is still to be made: whatever file a weight is in, somebody else looks for it."""

    def __init__(self) -> None:
        super().__init__({})

    def take(self, entries: Mapping[str, str], wanted: int) -> None:
        return


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    elements: int
    shape_values: tuple[int, ...] | None
    """What stands in it, for a few int64 such as a shape is made of."""

    def as_shape(self) -> int | None:
        """Elements of a tensor with this shape."""
        return None if self.shape_values is None else prod(max(value, 1) for value in self.shape_values)


def read_tensor(reader: Reader, start: int, end: int, files: ExternalFiles) -> Tensor:
    """Raises TensorRefused, NotReadable."""
    name, kind, location = "", 0, 0
    dims: list[int] = []
    entries: dict[str, str] = {}
    raw = (0, 0)
    listed: list[int] = []
    for number, a, b in reader.fields(TENSOR, start, end):
        if number == 1:
            dims += [signed(a)] if b == 0 else reader.varints(a, b, PAYLOAD_RANK_MAX)
            if len(dims) > PAYLOAD_RANK_MAX:
                raise TensorRefused(f"a constant has more than {PAYLOAD_RANK_MAX} dimensions")
        elif number == 2:
            kind = a
        elif number == 8:
            name = reader.text(a, b, GRAPH_NAME_BYTES_MAX)
        elif number == 9:
            raw = (a, b)
        elif number == 7 and len(listed) <= PAYLOAD_RANK_MAX:
            listed += [signed(a)] if b == 0 else _few(reader, a, b)
        elif number == 13:
            _note_entry(reader, a, b, entries)
        elif number == 14:
            location = a
    elements = _elements(dims)
    if kind not in _BITS:
        raise TensorRefused(f"a constant has the type {kind}, which is not known here")
    if location or entries:
        if location != _EXTERNAL or not entries or not _BITS[kind]:
            raise _external("it is not said where a weight's data is")
        if raw != (0, 0) or listed:
            raise _external("a weight's data is said to be in two places")
        files.take(entries, -(-elements * _BITS[kind] // 8))
    elif elements * _SMALLEST_BITS > 8 * (end - start):
        raise TensorRefused(f"a constant of {elements} elements has but {end - start} bytes")
    few = kind == _INT64 and elements <= PAYLOAD_RANK_MAX and not entries
    return Tensor(name, elements, _values(reader, raw, listed) if few else None)


def _elements(dims: list[int]) -> int:
    if any(dim < 0 for dim in dims):
        raise TensorRefused("a constant has a negative dimension")
    return prod(dims)


def _few(reader: Reader, start: int, end: int) -> list[int]:
    """Packed int64, where they can be a shape."""
    return reader.varints(start, end, PAYLOAD_RANK_MAX) if end - start <= 10 * PAYLOAD_RANK_MAX else []


def _values(reader: Reader, raw: tuple[int, int], listed: list[int]) -> tuple[int, ...]:
    data = reader.data[raw[0] : raw[1]][: 8 * PAYLOAD_RANK_MAX]
    found = [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, len(data), 8)]
    return tuple(found or listed)


def _note_entry(reader: Reader, start: int, end: int, entries: dict[str, str]) -> None:
    key = value = ""
    for number, a, b in reader.fields(ENTRY, start, end):
        if number == 1:
            key = reader.text(a, b, GRAPH_NAME_BYTES_MAX)
        else:
            value = reader.text(a, b, GRAPH_NAME_BYTES_MAX)
    if key in entries:
        raise _external(f"it is said twice where a weight's data is ({key[:40]!r})")
    entries[key] = value


def _number(entries: Mapping[str, str], key: str, default: int) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise _external(f"the {key} of a weight's data is no number")
    return int(text)


def _external(message: str) -> TensorRefused:
    return TensorRefused(message, external=True)
