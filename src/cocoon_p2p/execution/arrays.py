"""numpy arrays to the tensors of a payload and back, without copying where the memory allows it.

Imports numpy: only for worker processes, for the CLI, and for who calls the node from Python with arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.tensors import STRING, Payload, PayloadError, Tensor, pack_strings, unpack_strings

_NUMPY: dict[str, Any] = {
    "float32": np.float32,
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "bool": np.bool_,
    "float16": np.float16,
    "float64": np.float64,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
BITS: dict[str, Any] = {
    "bfloat16": np.uint16,
    "float8e4m3fn": np.uint8,
    "float8e4m3fnuz": np.uint8,
    "float8e5m2": np.uint8,
    "float8e5m2fnuz": np.uint8,
    "uint4": np.uint8,
    "int4": np.int8,
}
"""Types that numpy lacks, and the type in whose arrays their bits stand, one element each."""
_ML_DTYPES = {  # names of the package ml_dtypes, whose arrays are understood without importing it
    "bfloat16": "bfloat16",
    "float8_e4m3fn": "float8e4m3fn",
    "float8_e4m3fnuz": "float8e4m3fnuz",
    "float8_e5m2": "float8e5m2",
    "float8_e5m2fnuz": "float8e5m2fnuz",
    "uint4": "uint4",
    "int4": "int4",
}


def to_tensor(name: str, array: Any, *, dtype: str | None = None) -> Tensor:
    """An array (or number, string, nested list) as a tensor named `name`. With `dtype`, one of `BITS`, the array holds the
    bits of that type. Contiguous little-endian memory is not copied. Raises PayloadError for what cannot travel."""
    array = np.asarray(array)
    if array.dtype.kind in "UOST":
        return _string_tensor(name, array)
    if dtype is None:
        dtype = _ML_DTYPES.get(array.dtype.name, array.dtype.name)
    elif dtype not in BITS or array.dtype != BITS[dtype]:
        raise PayloadError(f"tensor {name!r}: {array.dtype.name} cannot hold the bits of {dtype}")
    if dtype not in _NUMPY and dtype not in BITS:
        raise PayloadError(f"tensor {name!r}: arrays of {array.dtype.name} cannot travel")
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return Tensor(name, dtype, array.shape, _bytes_of(array))


def to_array(tensor: Tensor) -> NDArray[Any]:
    """The array of a tensor: a view of its data, read-only if that is; strings as an array of objects; types that numpy
    lacks as their bits (`BITS`). Raises PayloadError for malformed strings."""
    if tensor.dtype == STRING:
        strings = np.empty(prod(tensor.shape), dtype=object)
        strings[:] = unpack_strings(tensor)
        return strings.reshape(tensor.shape)
    dtype = np.dtype(_NUMPY.get(tensor.dtype) or BITS[tensor.dtype]).newbyteorder("<")
    if prod(tensor.shape) == 0:
        return np.empty(tensor.shape, dtype)
    return np.frombuffer(tensor.data, dtype).reshape(tensor.shape)


def to_payload(arrays: Mapping[str, Any], wanted: Sequence[str] = ()) -> Payload:
    """A job's payload. A value may be a `Tensor` already, for types that numpy lacks. Raises PayloadError."""
    tensors = [
        Tensor(name, value.dtype, value.shape, value.data) if isinstance(value, Tensor) else to_tensor(name, value)
        for name, value in arrays.items()
    ]
    return Payload(tuple(tensors), tuple(wanted))


def to_arrays(payload: Payload) -> dict[str, NDArray[Any]]:
    """The arrays of a payload by name, as `to_array` gives them: views of its memory. Raises PayloadError."""
    return {tensor.name: to_array(tensor) for tensor in payload.tensors}


def _string_tensor(name: str, array: NDArray[Any]) -> Tensor:
    elements = []
    for element in array.reshape(-1):
        if isinstance(element, str):
            try:
                elements.append(element.encode())
            except UnicodeEncodeError as error:
                raise PayloadError(f"tensor {name!r} has a text that is not Unicode") from error
        elif isinstance(element, bytes):
            elements.append(element)
        else:
            raise PayloadError(
                f"tensor {name!r} has an element of type {type(element).__name__}, neither number nor text"
            )
    return Tensor(name, STRING, array.shape, pack_strings(elements))


def _bytes_of(array: NDArray[Any]) -> bytes | memoryview:
    if array.size == 0:
        return b""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
