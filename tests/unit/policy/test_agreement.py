from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.limits import QUORUM_MAX
from cocoon_p2p.policy.agreement import (
    Precision,
    majority,
    tolerance,
)
from cocoon_p2p.policy.experience import Experience, Outcome, after, reliability
from cocoon_p2p.wire.evidence import TOLERANCE_MAX


def matrix(groups: list[set[int]], count: int) -> list[list[bool]]:
    """Answers agree with those of their groups, and with themselves."""
    return [[i == j or any({i, j} <= group for group in groups) for j in range(count)] for i in range(count)]


def test_the_coarser_the_numbers_the_wider_the_tolerance() -> None:
    bounds = [tolerance(precision).bound for precision in Precision]
    assert bounds == [5e-3, 2e-2, 1.5e-1]
    assert all(one < other for one, other in pairwise(bounds))
    assert [tolerance(precision).quantised for precision in Precision] == [False, False, True]
    assert all(0 < tolerance(precision).millionths <= TOLERANCE_MAX for precision in Precision)


@pytest.mark.parametrize(
    ("groups", "count", "expected"),
    [
        ([{0, 1, 2}], 3, {0, 1, 2}),
        ([{0, 2}], 3, {0, 2}),
        ([], 1, {0}),
        ([], 3, None),
        ([{0, 1}, {2, 3}], 4, None),  # a tie
        ([{0, 1, 2}, {3, 4}], 5, {0, 1, 2}),  # a minority that colludes
        ([{0, 1, 2}], 6, None),  # half is not more than half
        ([{0, 1}, {1, 2}], 3, None),  # the one in the middle agrees with both: nobody knows with whom to go
        ([{0, 1, 2}, {2, 3}], 4, {0, 1, 2}),
    ],
)
def test_majority(groups: list[set[int]], count: int, expected: set[int] | None) -> None:
    assert majority(matrix(groups, count)) == expected


@given(st.integers(1, QUORUM_MAX), st.data())
def test_a_majority_is_one_and_agrees_among_itself(count: int, data: st.DataObject) -> None:
    pairs = data.draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))))
    agrees = matrix([{i, j} for i, j in pairs], count)
    group = majority(agrees)
    if group is not None:
        assert 2 * len(group) > count
        assert all(agrees[i][j] for i in group for j in group)
        outside = set(range(count)) - group
        assert not any(all(agrees[i][j] for j in group) for i in outside), "it could be larger"


def test_one_wrong_answer_undoes_any_number_of_right_ones() -> None:
    known = Experience()
    for _ in range(1000):
        known = after(known, Outcome.AGREED, 1)
    assert reliability(known, 1) > 0.99
    assert reliability(after(known, Outcome.WRONG, 1), 1) < 0.05
