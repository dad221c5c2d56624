"""What a classifier said of each text, and what of the texts it did not look at: for `run`."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from cocoon_p2p.cli.output import printable
from cocoon_p2p.tensors import STRING, TEXT_INPUT, Payload, PayloadError, unpack_strings

SCORES_OUTPUT = "scores"
LABELS_SHOWN = 5
TEXTS_SHOWN = 20
TEXT_CHARS_SHOWN = 32

Classes = list[list[tuple[str, float]]]
"""For each text, labels and scores, the highest first."""


def classes_of(labels: Sequence[str], outputs: Payload) -> Classes | None:
    """None for a model without labels, and for an answer that does not have a score for each of them."""
    scores = next((tensor for tensor in outputs.tensors if tensor.name == SCORES_OUTPUT), None)
    if not labels or scores is None or scores.dtype != "float32" or scores.shape[1:] != (len(labels),):
        return None
    rows = struct.iter_unpack(f"<{len(labels)}f", memoryview(scores.data).cast("B"))
    return [sorted(zip(labels, row, strict=True), key=_highest_first) for row in rows]


def _highest_first(entry: tuple[str, float]) -> tuple[bool, float]:
    return entry[1] != entry[1], -entry[1]  # what is no number last


def classes_json(classes: Classes) -> list[list[dict[str, Any]]]:
    """A score that is no finite number is null: JSON has no word for it."""
    return [
        [{"label": label, "score": score if math.isfinite(score) else None} for label, score in row] for row in classes
    ]


def class_pairs(classes: Classes, given: Payload) -> list[tuple[str, Any]]:
    """A line for each of the first texts: its beginning, and the labels that fit best."""
    pairs: list[tuple[str, Any]] = [
        (_beginning(text), _best(row)) for text, row in zip(_texts(given), classes[:TEXTS_SHOWN], strict=False)
    ]
    if len(classes) > TEXTS_SHOWN:
        pairs.append(("", f"and {len(classes) - TEXTS_SHOWN:,} more texts (--json has all)"))
    return pairs


def _best(row: list[tuple[str, float]]) -> str:
    shown = ", ".join(f"{label} {score:.4g}" for label, score in row[:LABELS_SHOWN])
    return shown if len(row) <= LABELS_SHOWN else f"{shown}, … {len(row) - LABELS_SHOWN} more labels"


def _texts(given: Payload) -> list[str]:
    text = next((each for each in given.tensors if each.name == TEXT_INPUT and each.dtype == STRING), None)
    try:
        return [] if text is None else unpack_strings(text)
    except PayloadError:
        return []


def _beginning(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= TEXT_CHARS_SHOWN else f"{line[: TEXT_CHARS_SHOWN - 1]}…"


def cut_note(result: dict[str, Any], given: Payload) -> str:
    """What to say of texts that were too long; "" when none was."""
    cut, count = int(result.get("texts_cut") or 0), len(_texts(given))
    if not cut:
        return ""
    were = "was" if cut == 1 else "were"
    tokens = result.get("tokens_max")
    most = "tokens that the model takes" if tokens is None else f"model's {tokens:,} tokens"
    return f"{cut:,} of {count:,} text{'' if count == 1 else 's'} {were} longer than the {most} and {were} cut"
