"""Which jobs run together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.execution.batching import batch_key, could_batch, length_groups, take_batch
from cocoon_p2p.models.manifest import FileEntry, Manifest, TensorSpec
from cocoon_p2p.tensors import Payload, Tensor

SPECS = (TensorSpec("a", "float32", (-1, -1)), TensorSpec("b", "float32", (-1,)))
MODEL = Manifest("tensor", (FileEntry("m", 1, "0" * 64),), "m", SPECS, (SPECS[0],), (("", 20),))


def job(rows_a: int, rows_b: int, width: int = 2, wanted: tuple[str, ...] = ()) -> Payload:
    a = Tensor("a", "float32", (rows_a, width), bytes(4 * rows_a * width))
    return Payload((a, Tensor("b", "float32", (rows_b,), bytes(4 * rows_b))), wanted)


def test_keys() -> None:
    assert could_batch(MODEL)
    key = batch_key(MODEL, job(1, 1), 16)
    assert key is not None
    assert batch_key(MODEL, job(3, 3), 16) == key
    assert batch_key(MODEL, job(1, 1, wanted=("a",)), 16) == key
    assert batch_key(MODEL, job(1, 1, width=3), 16) != key
    assert batch_key(MODEL, job(1, 2), 16) is None
    assert batch_key(MODEL, job(0, 0), 16) is None
    assert batch_key(MODEL, job(16, 16), 16) is None


def test_a_batch_is_the_first_job_and_its_like() -> None:
    x, y = ("x",), ("y",)
    assert take_batch([(x, 1), (y, 1), (x, 2), (None, 1), (x, 1)], 16) == [0, 2, 4]
    assert take_batch([(x, 3), (x, 2), (x, 1)], 4) == [0, 2]
    assert take_batch([(None, 1), (None, 1)], 16) == [0]
    assert take_batch([(x, 99)], 4) == [0]


def test_texts_of_like_length_go_together() -> None:
    assert length_groups([8, 100, 9, 96, 10], 16) == [[0, 2, 4], [3, 1]]
    assert length_groups([8, 8, 8], 2) == [[0, 1], [2]]
    assert length_groups([8, 9], 16, equal=True) == [[0], [1]]
    assert length_groups([], 16) == []


@given(st.lists(st.integers(0, 512), max_size=100), st.integers(1, 20), st.booleans())
def test_every_row_is_in_one_group(lengths: list[int], items_max: int, equal: bool) -> None:
    groups = length_groups(lengths, items_max, equal=equal)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(0 < len(group) <= items_max for group in groups)
    for group in groups:
        least = min(lengths[index] for index in group)
        most = max(lengths[index] for index in group)
        assert most <= (least if equal else least + max(2, least // 4))
    assert [min(group) for group in groups] == sorted(min(group) for group in groups)
