"""The parts of a manifest that say how text goes in and comes out: each rule by a manifest that breaks it alone."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.models.manifest import (
    FileEntry,
    GenerationSpec,
    Manifest,
    ManifestError,
    Pooling,
    TensorSpec,
    TextFrontEnd,
    parse_manifest,
)

FILES = tuple(FileEntry(path, 1, "0" * 64) for path in ("chat_template.jinja", "model.onnx", "tokenizer.json"))
IDS, MASK = (TensorSpec(name, "int64", (-1, -1)) for name in ("input_ids", "attention_mask"))
TEXT = TextFrontEnd("tokenizer.json", 256, 0, "input_ids", "attention_mask", None, ("embeddings",))
POOLED = Manifest(
    kind="embedding",
    files=FILES[1:],
    main="model.onnx",
    inputs=(IDS, MASK),
    outputs=(TensorSpec("hidden", "float16", (-1, -1, 8)), TensorSpec("rows", "float32", (-1, 8))),
    opset=(("", 20),),
    text=replace(TEXT, pooling=Pooling("hidden", "cls", True)),
)
LABELLED = replace(
    POOLED,
    kind="classification",
    outputs=(TensorSpec("logits", "float32", (-1, 2)), TensorSpec("wide", "float32", (-1, 3))),
    text=replace(TEXT, outputs=("scores",), labels=("a", "b"), activation="sigmoid", logits="logits"),
)
SPEC = GenerationSpec(
    tokenizer="tokenizer.json",
    template="chat_template.jinja",
    bos="<s>",
    eos="",
    eos_ids=(2, 5),
    context=128,
    vocab=30,
    layers=2,
    kv_heads=2,
    head_size=4,
    kv_dtype="float32",
    ids="input_ids",
    mask="attention_mask",
    positions=None,
    logits="logits",
    past_key="past.%d.key",
    past_value="past.%d.value",
    present_key="now.%d.key",
    present_value="now.%d.value",
    in_place=True,
)


def keys_and_values(prefix: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(f"{prefix}.{i}.{kind}", "float32", (-1, 2, -1, 4)) for i in range(2) for kind in ("key", "value")
    )


GENERATOR = Manifest(
    kind="generation",
    files=FILES,
    main="model.onnx",
    inputs=(IDS, MASK, *keys_and_values("past")),
    outputs=(TensorSpec("logits", "float32", (-1, -1, -1)), *keys_and_values("now")),
    opset=(("", 20), ("com.microsoft", 1)),
    generation=SPEC,
)
RECURRENT = Manifest(
    kind="tensor",
    files=FILES[1:2],
    main="model.onnx",
    inputs=(TensorSpec("x", "float32", (1, 2)), TensorSpec("h", "float32", (1, -1)), TensorSpec("u", "float32", None)),
    outputs=(TensorSpec("g", "float32", (1, -1)), TensorSpec("v", "float32", None), TensorSpec("d", "int64", (1, -1))),
    opset=(("", 20),),
    state=(("h", "g"),),
)


@pytest.mark.parametrize("manifest", [POOLED, LABELLED, GENERATOR, RECURRENT])
def test_there_and_back(manifest: Manifest) -> None:
    assert parse_manifest(manifest.encode()) == manifest


def test_what_a_text_job_runs() -> None:
    assert POOLED.text is not None
    assert LABELLED.text is not None
    assert (POOLED.text.runs, LABELLED.text.runs, TEXT.runs) == (("hidden",), ("logits",), ("embeddings",))


def test_names_and_memory_of_keys_and_values() -> None:
    assert SPEC.past_names() == (("past.0.key", "past.0.value"), ("past.1.key", "past.1.value"))
    assert SPEC.present_names()[1] == ("now.1.key", "now.1.value")
    assert SPEC.kv_bytes_per_token == 2 * 2 * 2 * 4 * 4
    assert replace(SPEC, kv_dtype="float16").kv_bytes_per_token == 2 * 2 * 2 * 4 * 2


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (POOLED, {"pooling": Pooling("rows", "cls", True)}, "'rows' to be pooled is not one"),
        (POOLED, {"pooling": Pooling("hidden", "last", True)}, "pooling.how must be one of"),
        (POOLED, {"outputs": ("rows",)}, "with pooling has the one output"),
        (POOLED, {"pooling": None}, "'embeddings' is not one of the model's outputs"),
        (POOLED, {"labels": ("a",)}, "has the one output 'scores'|has labels"),
        (LABELLED, {"labels": ()}, "has no labels|column for each"),
        (LABELLED, {"labels": ("a", "b", "c")}, "a column for each of 3 labels"),
        (LABELLED, {"logits": "wide"}, "a column for each of 2 labels"),
        (LABELLED, {"logits": None}, "a column for each"),
        (LABELLED, {"activation": "relu"}, "activation must be one of"),
        (LABELLED, {"outputs": ("logits",)}, "has the one output 'scores'"),
        (LABELLED, {"labels": ("a", "b" * 129)}, "a label must be a text of at most 128"),
    ],
)
def test_a_text_part_that_does_not_fit(base: Manifest, changes: dict[str, Any], message: str) -> None:
    assert base.text is not None
    with pytest.raises(ManifestError, match=message):
        parse_manifest(replace(base, text=replace(base.text, **changes)).encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": "other"}, "'other' is not among the files"),
        ({"template": "other"}, "'other' is not among the files"),
        ({"eos_ids": ()}, "at least one, ascending"),
        ({"eos_ids": (5, 2)}, "ascending"),
        ({"eos_ids": (30,)}, "tokens of the vocabulary"),
        ({"context": 0}, "context must be"),
        ({"layers": 3}, "must feed each input|missing"),
        ({"layers": 1}, "must feed each input"),
        ({"layers": 10**6}, "layers must be"),
        ({"kv_heads": 3}, r"must be float32\[batch,3,\?,4\]"),
        ({"head_size": 8}, r"must be float32\[batch,2,\?,8\]"),
        ({"kv_dtype": "float16"}, "must be float16"),
        ({"kv_dtype": "bfloat16"}, "kv_dtype must be one of"),
        ({"mask": None}, "must feed each input"),
        ({"positions": "position_ids"}, "must feed each input"),
        ({"logits": "nothing"}, "output 'nothing' must be"),
        ({"past_key": "past.0.key"}, "must have %d once"),
        ({"past_key": "past.%d.%s"}, "must have %d once"),
        ({"past_key": "past.%d.value"}, "must feed each input"),
        ({"present_key": "then.%d.key"}, "missing"),
        ({"in_place": 1}, "in_place must be true or false"),
    ],
)
def test_a_generation_part_that_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(replace(GENERATOR, generation=replace(SPEC, **changes)).encode())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((("z", "g"),), "'z', which is no input"),
        ((("h", "z"),), "'z', which is no output"),
        ((("x", "g"),), r"'x' is float32\[1,2\]|goes out as it came in"),
        ((("h", "d"),), "goes out as it came in"),
        ((("u", "v"),), "how many dimensions"),
        ((("h", "g"), ("h", "g")), "stands twice"),
    ],
)
def test_a_state_that_does_not_fit(state: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_manifest(replace(RECURRENT, state=state).encode())


@pytest.mark.parametrize(
    "manifest",
    [
        replace(GENERATOR, kind="tensor"),
        replace(GENERATOR, generation=None),
        replace(POOLED, kind="classification"),
        replace(LABELLED, kind="embedding"),
        replace(RECURRENT, kind="generation"),
        replace(GENERATOR, state=(("input_ids", "logits"),)),
    ],
)
def test_a_kind_has_its_parts_and_no_others(manifest: Manifest) -> None:
    with pytest.raises(ManifestError, match="a model of kind"):
        parse_manifest(manifest.encode())


@given(st.sampled_from([POOLED, LABELLED, GENERATOR, RECURRENT]), st.integers(0, 4000), st.integers(0, 255))
def test_altered_bytes_are_parsed_or_refused(manifest: Manifest, position: int, value: int) -> None:
    data = bytearray(manifest.encode())
    data[position % len(data)] = value
    with suppress(ManifestError):
        assert parse_manifest(bytes(data)).encode() == data
