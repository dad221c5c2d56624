from __future__ import annotations

import tracemalloc
from math import inf

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.execution import comparison
from cocoon_p2p.execution.arrays import to_payload, to_tensor
from cocoon_p2p.execution.comparison import agree
from cocoon_p2p.limits import COMPARED_AT_ONCE
from cocoon_p2p.policy.agreement import MAGNITUDE_FLOOR, Precision, tolerance
from cocoon_p2p.tensors import Payload, string_tensor

FLOAT8 = {
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
}


def deviation(one: object, other: object, *, quantised: bool = False) -> float:
    forth = agree(to_payload({"y": one}), to_payload({"y": other}), quantised=quantised)
    back = agree(to_payload({"y": other}), to_payload({"y": one}), quantised=quantised)
    assert forth == back
    return forth.deviation


def test_relative_to_the_largest_value_of_the_tensor() -> None:
    one = np.array([100.0, 0.5], np.float32)
    assert deviation(one, one.copy()) == 0
    assert deviation(one, one + np.float32([0, 0.5])) == pytest.approx(0.005)
    assert deviation(one, -one) == pytest.approx(2)


def test_noise_round_zero_is_no_difference() -> None:
    noise = np.float32([1e-7, -3e-7])
    assert deviation(noise, np.zeros(2, np.float32)) == pytest.approx(3e-7 / MAGNITUDE_FLOOR)
    assert deviation(noise, np.zeros(2, np.float32)) < tolerance(Precision.FLOAT32).bound


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, *FLOAT8.values()])
def test_every_type_of_float(dtype: type) -> None:
    one, other = np.array([1.0, 0.5], dtype), np.array([1.0, 0.25], dtype)
    assert deviation(one, other) == pytest.approx(0.25)


def test_complex_numbers() -> None:
    assert deviation(np.complex64([1 + 1j]), np.complex64([1 + 0.5j])) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8_is_read_as_ml_dtypes_reads_it(dtype: str) -> None:
    ours = comparison._float8_table(dtype)
    theirs = np.arange(256, dtype=np.uint8).view(FLOAT8[dtype]).astype(np.float64)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_equals_only_itself(value: float) -> None:
    assert deviation(np.float32([value, 1]), np.float32([value, 1])) == 0
    assert deviation(np.float32([value, 1]), np.float32([value, 1.5])) == pytest.approx(1 / 3)
    assert deviation(np.float32([value]), np.float32([1])) == inf
    assert deviation(np.float32([value]), np.float32([-np.inf if value != -np.inf else np.nan])) == inf


def test_the_largest_float64_values_overflow_in_silence() -> None:
    largest = np.finfo(np.float64).max
    assert deviation(np.float64([largest]), np.float64([-largest])) == inf


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint16, np.bool_])
@pytest.mark.parametrize("quantised", [False, True])
def test_integers_and_booleans_are_equal_or_not(dtype: type, quantised: bool) -> None:
    one = np.array([0, 1, 1], dtype)
    assert deviation(one, one.copy(), quantised=quantised) == 0
    assert deviation(one, np.array([0, 1, 0], dtype), quantised=quantised) == inf


def test_bytes_of_a_quantised_model_may_be_rounded_differently() -> None:
    one, other = np.int8([100, 3]), np.int8([100, 4])
    assert deviation(one, other) == inf
    assert deviation(one, other, quantised=True) == pytest.approx(0.01)


def test_strings_are_equal_or_not() -> None:
    one, other = Payload((string_tensor("t", ["a", "b"]),)), Payload((string_tensor("t", ["a", "c"]),))
    assert agree(one, one).deviation == 0
    assert agree(one, other).deviation == inf


def test_other_names_types_or_shapes_are_other_answers() -> None:
    one = to_payload({"y": np.ones(4, np.float32)})
    for other in (
        {"z": np.ones(4, np.float32)},
        {"y": np.ones(4, np.float64)},
        {"y": np.ones((2, 2), np.float32)},
        {"y": np.ones(4, np.float32), "z": np.ones(1, np.float32)},
        {},
    ):
        assert agree(one, to_payload(other)).deviation == inf
        assert agree(to_payload(other), one).deviation == inf


def test_the_worst_tensor_is_named_whatever_their_order() -> None:
    one = Payload((to_tensor("a", np.float32([1])), to_tensor("b", np.float32([1]))))
    other = Payload((to_tensor("b", np.float32([0.5])), to_tensor("a", np.float32([0.9]))))
    assert agree(one, other).tensor == "b"
    assert agree(one, other).deviation == pytest.approx(0.5)


def test_empty_tensors_agree() -> None:
    assert deviation(np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)) == 0


@given(st.floats(1e-5, 1e-1), st.integers(0, 2**32 - 1))
def test_noise_of_a_size_deviates_by_its_size(size: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    one = rng.uniform(-1, 1, 64)
    noise = rng.uniform(-size, size, 64)
    measured = deviation(one, one + noise)
    assert measured <= size / np.abs(one).max() * 1.0001
    assert measured >= np.abs(noise).max() / max(np.abs(one).max(), np.abs(one + noise).max()) * 0.9999


def test_a_difference_in_the_last_piece_is_found_and_memory_stays_bounded() -> None:
    one = np.ones(8 * COMPARED_AT_ONCE + 3, np.float16)
    other = one.copy()
    other[-1] = 2
    first, second = to_payload({"y": one}), to_payload({"y": other})
    tracemalloc.start()
    found = agree(first, second)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.deviation == pytest.approx(0.5)
    assert peak < 8 * 8 * COMPARED_AT_ONCE
