"""Compares two answers tensor by tensor, piece by piece: a gigabyte costs no second gigabyte."""

from __future__ import annotations

from functools import lru_cache
from math import inf, ldexp, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cocoon_p2p.limits import COMPARED_AT_ONCE
from cocoon_p2p.policy.agreement import MAGNITUDE_FLOOR, Agreement
from cocoon_p2p.tensors import DTYPES, STRING, Payload, Tensor

_FLOATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "complex64": "<f4", "complex128": "<f8"}
_NARROW = {"uint8": "u1", "int8": "i1", "uint4": "u1", "int4": "i1"}
"""Types that hold the rounded numbers of a quantised model."""
_FLOAT8 = {  # bits of the exponent, its bias, whether it has infinities, and whether -0 is its only NaN
    "float8e4m3fn": (4, 7, False, False),
    "float8e4m3fnuz": (4, 8, False, True),
    "float8e5m2": (5, 15, True, False),
    "float8e5m2fnuz": (5, 16, False, True),
}


def agree(one: Payload, other: Payload, *, quantised: bool = False) -> Agreement:
    """How far two answers lie apart: the worst of all tensors. Names, types and shapes must match, in any order; integers,
    strings and booleans must be equal (with `quantised` those of 8 bits or fewer are numbers that may be rounded
    differently); NaN equals NaN, an infinity only itself."""
    with np.errstate(all="ignore"):  # what overflows or is no number is looked at, not warned of
        return _agree(one, other, quantised)


def _agree(one: Payload, other: Payload, quantised: bool) -> Agreement:
    worst = Agreement(0.0)
    others = {tensor.name: tensor for tensor in other.tensors}
    for tensor in one.tensors:
        facing = others.pop(tensor.name, None)
        deviation = inf if facing is None else _deviation(tensor, facing, quantised)
        if deviation > worst.deviation:
            worst = Agreement(deviation, tensor.name)
    if others:
        return Agreement(inf, next(iter(others)))
    return worst


def _deviation(one: Tensor, other: Tensor, quantised: bool) -> float:
    if (one.dtype, one.shape) != (other.dtype, other.shape) or len(one.data) != len(other.data):
        return inf
    if one.dtype == STRING or not _is_number(one.dtype, quantised):
        return 0.0 if _equal_bytes(one, other) else inf
    return _relative_deviation(one, other)


def _is_number(dtype: str, quantised: bool) -> bool:
    return dtype in _FLOATS or dtype == "bfloat16" or dtype in _FLOAT8 or (quantised and dtype in _NARROW)


def _relative_deviation(one: Tensor, other: Tensor) -> float:
    """The largest difference of two elements, relative to the largest magnitude of all."""
    elements = prod(one.shape) * (2 if one.dtype.startswith("complex") else 1)
    difference = magnitude = 0.0
    for start in range(0, elements, COMPARED_AT_ONCE):
        count = min(COMPARED_AT_ONCE, elements - start)
        a, b = _numbers(one, start, count), _numbers(other, start, count)
        unlike = (np.isfinite(a) & np.isfinite(b)) == 0
        if unlike.any():
            if not np.array_equal(a[unlike], b[unlike], equal_nan=True):
                return inf
            a, b = a[~unlike], b[~unlike]
        if a.size:
            magnitude = max(magnitude, float(np.abs(a).max()), float(np.abs(b).max()))
            difference = max(difference, float(np.abs(a - b).max()))
    return 0.0 if difference == 0 else difference / max(magnitude, MAGNITUDE_FLOOR)


def _numbers(tensor: Tensor, start: int, count: int) -> NDArray[np.float64]:
    """`count` elements from `start` on as float64, which holds every one of these types."""
    if tensor.dtype == "bfloat16":
        bits = _raw(tensor, "<u2", start, count).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    if tensor.dtype in _FLOAT8:
        table: NDArray[np.float64] = _float8_table(tensor.dtype)[_raw(tensor, "u1", start, count)]
        return table
    kind = _FLOATS.get(tensor.dtype) or _NARROW[tensor.dtype]
    return _raw(tensor, kind, start, count).astype(np.float64)


def _raw(tensor: Tensor, kind: str, start: int, count: int) -> NDArray[Any]:
    return np.frombuffer(tensor.data, kind, count, start * np.dtype(kind).itemsize)


def _equal_bytes(one: Tensor, other: Tensor) -> bool:
    a, b = memoryview(one.data).cast("B"), memoryview(other.data).cast("B")
    step = COMPARED_AT_ONCE * max(1, DTYPES[one.dtype][1])
    return len(a) == len(b) and all(
        np.array_equal(np.frombuffer(a[at : at + step], np.uint8), np.frombuffer(b[at : at + step], np.uint8))
        for at in range(0, len(a), step)
    )


@lru_cache(maxsize=len(_FLOAT8))
def _float8_table(dtype: str) -> NDArray[np.float64]:
    """What each of the 256 bytes stands for (ONNX, "Float stored in 8 bits")."""
    return np.array([_float8(dtype, byte) for byte in range(256)], np.float64)


def _float8(dtype: str, byte: int) -> float:
    exponent_bits, bias, infinities, negative_zero_is_nan = _FLOAT8[dtype]
    fraction_bits = 7 - exponent_bits
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, fraction = (byte & 0x7F) >> fraction_bits, byte & ((1 << fraction_bits) - 1)
    if negative_zero_is_nan:
        if byte == 0x80:
            return float("nan")
    elif infinities and exponent == (1 << exponent_bits) - 1:
        return sign * inf if fraction == 0 else float("nan")
    elif not infinities and byte & 0x7F == 0x7F:
        return float("nan")
    if exponent == 0:
        return sign * ldexp(fraction, 1 - bias - fraction_bits)
    return sign * ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits)
