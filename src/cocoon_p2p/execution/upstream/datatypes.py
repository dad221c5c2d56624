"""Tensors as the Open Inference Protocol names and writes them, in JSON and in binary. No numpy: the node's own process
does without."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from cocoon_p2p.limits import PAYLOAD_RANK_MAX
from cocoon_p2p.tensors import STRING, Tensor, pack_strings, unpack_strings

# https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol ("Tensor Data Types")
DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64", "BYTES": STRING,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
BINARY_ONLY = frozenset({"float16", "bfloat16"})
"""Types that the protocol does not write in JSON."""
_FORMATS = {
    "bool": "?", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "int8": "b", "int16": "h", "int32": "i",
    "int64": "q", "float32": "f", "float64": "d",
}  # fmt: skip
_NESTING_MAX = PAYLOAD_RANK_MAX


def to_json_data(tensor: Tensor) -> list[Any]:
    """Elements in row-major order. Raises PayloadError for malformed strings."""
    if tensor.dtype == STRING:
        return list(unpack_strings(tensor))
    data = memoryview(tensor.data).cast("B")
    return list(struct.unpack(f"<{prod(tensor.shape)}{_FORMATS[tensor.dtype]}", data))


def from_json_data(name: str, dtype: str, shape: tuple[int, ...], data: Any) -> Tensor:
    """A tensor of elements, flat or nested. Raises ValueError when they are not of this type and number."""
    elements = list(_flat(data, _NESTING_MAX, prod(shape)))
    if len(elements) != prod(shape):
        raise ValueError(f"{len(elements)} elements for the shape {list(shape)}")
    if dtype == STRING:
        if not all(isinstance(each, str) for each in elements):
            raise ValueError("elements that are no texts")
        return Tensor(name, STRING, shape, pack_strings(each.encode() for each in elements))
    kinds: tuple[type, ...] = (bool,) if dtype == "bool" else (int, float) if "float" in dtype else (int,)
    if not all(type(each) in kinds for each in elements):
        raise ValueError(f"elements that are no {dtype}")
    try:
        return Tensor(name, dtype, shape, struct.pack(f"<{len(elements)}{_FORMATS[dtype]}", *elements))
    except (struct.error, OverflowError) as error:
        raise ValueError(f"elements that no {dtype} holds") from error


def _flat(data: Any, depth: int, count_max: int) -> Iterator[Any]:
    """Raises ValueError for what is nested too deep, or has more than `count_max` elements."""
    if not isinstance(data, list) or depth == 0:
        raise ValueError("data that is no list")
    nested: Sequence[Any] = data
    if nested and isinstance(nested[0], list):
        left = count_max
        for part in nested:
            for element in _flat(part, depth - 1, left):
                left -= 1
                yield element
    elif len(nested) > count_max:
        raise ValueError("more elements than its shape has")
    else:
        yield from nested
