"""numpy arrays as tensors of a payload and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from cocoon_p2p.execution.arrays import to_array, to_arrays, to_payload, to_tensor
from cocoon_p2p.tensors import Payload, PayloadError, Tensor, decode_payload, encode_payload

NUMBERS = [
    "float32",
    "uint8",
    "int8",
    "uint16",
    "int16",
    "int32",
    "int64",
    "bool",
    "float16",
    "float64",
    "uint32",
    "uint64",
    "complex64",
    "complex128",
]


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
def test_there_and_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    payload = decode_payload(b"".join(encode_payload(to_payload({"x": array}))))
    again = to_arrays(payload)["x"]
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert np.array_equal(again, array)


@given(hnp.arrays(np.dtype("<f4"), hnp.array_shapes(min_dims=0, max_dims=3, max_side=4)))
def test_memory_in_any_order(array: Any) -> None:
    for view in (array, array.T, array[..., ::-1] if array.ndim else array, array.astype(">f4")):
        assert np.array_equal(to_array(to_tensor("x", view)), view, equal_nan=True)


def test_contiguous_memory_is_not_copied() -> None:
    array = np.zeros(4, np.float32)
    tensor = to_tensor("x", array)
    again = to_array(tensor)
    array[2] = 7
    assert again[2] == 7


@pytest.mark.parametrize(
    "strings", [["a", "grüße", ""], [["a"], ["b"]], "scalar", np.array(["x", "yy"]), np.array([b"raw"])]
)
def test_strings(strings: Any) -> None:
    tensor = to_tensor("x", strings)
    expected = (
        np.char.decode(strings)
        if getattr(strings, "dtype", np.dtype("O")).kind == "S"
        else np.array(strings, dtype=object)
    )
    assert tensor.dtype == "string"
    assert np.array_equal(to_array(tensor), expected.astype(object))


@pytest.mark.parametrize(
    "value",
    [[1, "a", None], np.array([None]), np.datetime64("2026-01-01"), np.longdouble(1), np.zeros(2, "i4,i4"), ["\ud800"]],
)
def test_what_cannot_travel(value: Any) -> None:
    with pytest.raises(PayloadError):
        to_tensor("x", value)


def test_types_that_numpy_lacks() -> None:
    bits = np.array([0x3F80, 0xC000], np.uint16)
    tensor = to_tensor("x", bits, dtype="bfloat16")
    assert tensor.dtype == "bfloat16"
    assert np.array_equal(to_array(tensor), bits)
    assert to_payload({"y": tensor}) == Payload((Tensor("y", "bfloat16", (2,), tensor.data),))
    with pytest.raises(PayloadError, match="cannot hold the bits"):
        to_tensor("x", np.zeros(2, np.float32), dtype="bfloat16")


def test_arrays_of_ml_dtypes_are_understood() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    tensor = to_tensor("x", np.array([1.0, -2.0], ml_dtypes.bfloat16))
    assert tensor.dtype == "bfloat16"
    assert to_array(tensor).tolist() == [0x3F80, 0xC000]
