"""What `run` makes of a classifier's scores, and of texts that were too long."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from cocoon_p2p.cli.classes import LABELS_SHOWN, TEXTS_SHOWN, class_pairs, classes_json, classes_of, cut_note
from cocoon_p2p.tensors import Payload, Tensor, string_tensor


def scores(*rows: tuple[float, ...], dtype: str = "float32") -> Payload:
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    return Payload((Tensor("scores", dtype, (len(rows), len(rows[0])), data),))


def texts(*strings: str) -> Payload:
    return Payload((string_tensor("text", strings),))


def test_labels_stand_by_their_texts_the_best_first() -> None:
    classes = classes_of(["sad", "glad", "odd"], scores((0.25, 0.5, 0.125), (1.0, math.nan, 2.0)))
    assert classes is not None
    assert class_pairs(classes, texts("it\nrains\x1b[31m", "x" * 100)) == [
        ("it rains�[31m", "glad 0.5, sad 0.25, odd 0.125"),
        ("x" * 31 + "…", "odd 2, sad 1, glad nan"),
    ]
    assert classes_json(classes)[0][0] == {"label": "glad", "score": 0.5}


def test_scores_that_are_no_numbers_are_null_in_json() -> None:
    classes = classes_of(["a", "b", "c"], scores((math.nan, math.inf, -math.inf)))
    assert classes is not None
    assert [each["score"] for each in classes_json(classes)[0]] == [None] * 3


def test_many_labels_and_many_texts_are_shown_in_part() -> None:
    labels = [f"l{i}" for i in range(LABELS_SHOWN + 2)]
    classes = classes_of(labels, scores(*[tuple(float(i) for i in range(len(labels)))] * (TEXTS_SHOWN + 3)))
    assert classes is not None
    pairs = class_pairs(classes, texts(*["a"] * (TEXTS_SHOWN + 3)))
    assert len(pairs) == TEXTS_SHOWN + 1
    assert pairs[0][1].endswith(", … 2 more labels")
    assert "3 more texts" in pairs[-1][1]
    assert len(classes_json(classes)) == TEXTS_SHOWN + 3


@pytest.mark.parametrize(
    ("labels", "outputs"),
    [
        ([], scores((1.0, 2.0))),
        (["one"], scores((1.0, 2.0))),
        (["a", "b"], scores((1.0, 2.0), dtype="int32")),
        (["a", "b"], Payload((Tensor("scores", "float32", (2,), bytes(8)),))),
        (["a", "b"], Payload(())),
    ],
)
def test_an_answer_without_a_score_for_each_label_is_shown_as_it_is(labels: list[str], outputs: Payload) -> None:
    assert classes_of(labels, outputs) is None


def test_what_is_said_of_texts_that_were_cut() -> None:
    result: dict[str, Any] = {"texts_cut": 2, "tokens_max": 128}
    given = texts("a", "b", "c", "d", "e")
    assert cut_note(result, given) == "2 of 5 texts were longer than the model's 128 tokens and were cut"
    assert (
        cut_note(result | {"texts_cut": 1}, texts("a"))
        == "1 of 1 text was longer than the model's 128 tokens and was cut"
    )
    assert cut_note(result | {"texts_cut": 0}, given) == cut_note({}, given) == ""
