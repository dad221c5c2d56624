"""Manifests: canonical, strict, bounded."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.ids import model_id_of
from cocoon_p2p.limits import MANIFEST_BYTES_MAX
from cocoon_p2p.models.manifest import (
    FLOAT32,
    PRECISIONS,
    FileEntry,
    Manifest,
    ManifestError,
    TensorSpec,
    TextFrontEnd,
    UpstreamClaim,
    check_path,
    parse_manifest,
)
from cocoon_p2p.policy.agreement import Precision

TENSOR = Manifest(
    kind="tensor",
    files=(FileEntry("model.onnx", 10, "0" * 64),),
    main="model.onnx",
    inputs=(TensorSpec("x", "float32", (-1, 3)),),
    outputs=(TensorSpec("y", "string", None),),
    opset=(("", 20), ("com.microsoft", 1)),
    license="MIT",
)
EMBEDDING = Manifest(
    kind="embedding",
    files=(FileEntry("model.onnx", 10, "0" * 64), FileEntry("tokenizer.json", 5, "1" * 64)),
    main="model.onnx",
    inputs=(TensorSpec("input_ids", "int64", (-1, -1)), TensorSpec("attention_mask", "int64", (-1, -1))),
    outputs=(TensorSpec("sentence_embedding", "float32", (-1, 384)),),
    opset=(("", 20),),
    text=TextFrontEnd("tokenizer.json", 256, 0, "input_ids", "attention_mask", None, ("sentence_embedding",)),
)


@pytest.mark.parametrize("manifest", [TENSOR, EMBEDDING])
def test_there_and_back(manifest: Manifest) -> None:
    data = manifest.encode()
    assert parse_manifest(data) == manifest
    assert manifest.model_id == model_id_of(data)


def test_the_canonical_bytes_never_change() -> None:
    assert TENSOR.encode() == (
        b'{"files":[{"bytes":10,"digest":"' + b"0" * 64 + b'","path":"model.onnx"}],"format":1,'
        b'"inputs":[{"dtype":"float32","name":"x","shape":[-1,3]}],"kind":"tensor","license":"MIT","main":"model.onnx",'
        b'"opset":{"":20,"com.microsoft":1},"outputs":[{"dtype":"string","name":"y","shape":null}],"text":null}'
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_part_of_the_id_unless_it_is_the_usual_one(precision: str) -> None:
    manifest = replace(TENSOR, precision=precision)
    assert parse_manifest(manifest.encode()) == manifest
    assert (manifest.model_id == TENSOR.model_id) == (precision == FLOAT32)


def test_the_precisions_are_those_that_answers_are_compared_by() -> None:
    assert set(PRECISIONS) == {precision.value for precision in Precision}


def test_shapes_for_people() -> None:
    assert str(TENSOR.inputs[0]) == "float32[batch,3]"
    assert str(TENSOR.outputs[0]) == "string[…]"
    assert str(EMBEDDING.inputs[0]) == "int64[batch,?]"
    assert str(TensorSpec("s", "bool", ())) == "bool[]"


CHANGES: list[tuple[str, Any]] = [
    ("format", 2),
    ("format", True),
    ("kind", "chat"),
    ("kind", "embedding"),
    ("main", "other.onnx"),
    ("files", []),
    ("files", [{"path": "../model.onnx", "bytes": 1, "digest": "0" * 64}]),
    ("files", [{"path": "model.onnx", "bytes": -1, "digest": "0" * 64}]),
    ("files", [{"path": "model.onnx", "bytes": 1, "digest": "0" * 63 + "G"}]),
    ("files", [{"path": "model.onnx", "bytes": 1}]),
    ("inputs", [{"name": "x", "dtype": "float31", "shape": []}]),
    ("inputs", [{"name": "x", "dtype": ["float32"], "shape": []}]),
    ("inputs", [{"name": "x", "dtype": "float32", "shape": [-2]}]),
    ("inputs", [{"name": "x", "dtype": "float32", "shape": [1.0]}]),
    ("inputs", [{"name": "x", "dtype": "float32", "shape": [1] * 17}]),
    ("inputs", [{"name": "", "dtype": "float32", "shape": []}]),
    ("inputs", [{"name": "x", "dtype": "float32", "shape": []}] * 2),
    ("inputs", "x"),
    ("opset", [["", 20]]),
    ("opset", {"": "20"}),
    ("license", 1),
    ("license", "\ud800"),
    ("text", {}),
    ("extra", 1),
    ("precision", "float32"),  # left out where it is the usual one
    ("precision", "float8"),
    ("precision", None),
    ("precision", ["int8"]),
]


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_a_wrong_value_is_refused(key: str, value: Any) -> None:
    tree = json.loads(TENSOR.encode())
    tree[key] = value
    data = json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(ManifestError):
        parse_manifest(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b" " * (MANIFEST_BYTES_MAX + 1),
        TENSOR.encode() + b" ",
        TENSOR.encode().replace(b'"format":1', b'"format":1,"format":1'),
        TENSOR.encode().replace(b"20", b"2e1"),
        TENSOR.encode().replace(b"20", b"NaN"),
        TENSOR.encode().replace(b"20", b"9" * 5000),
    ],
)
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@pytest.mark.parametrize(
    "text",
    [
        {"tokenizer": "other.json"},
        {"ids": "mask"},
        {"mask": None},
        {"mask": "input_ids"},
        {"outputs": ()},
        {"outputs": ("other",)},
        {"max_tokens": 0},
    ],
)
def test_a_text_part_that_does_not_fit_is_refused(text: dict[str, Any]) -> None:
    assert EMBEDDING.text is not None
    with pytest.raises(ManifestError):
        parse_manifest(replace(EMBEDDING, text=replace(EMBEDDING.text, **text)).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        parse_manifest(data)


@given(st.integers(0, 600), st.integers(0, 255))
def test_altered_bytes_are_parsed_or_refused(position: int, value: int) -> None:
    data = bytearray(EMBEDDING.encode())
    data[position % len(data)] = value
    with suppress(ManifestError):
        assert parse_manifest(bytes(data)).encode() == data


@pytest.mark.parametrize(
    "path",
    ["", "/a", "../a", "a/../b", "a//b", "a\\b", "C:a", ".hidden", "a/.b", "a\0", "a\n", "manifest.json", "offer.json", "a" * 201, "a."],
)  # fmt: skip
def test_paths_that_lead_out_are_refused(path: str) -> None:
    with pytest.raises(ManifestError):
        check_path(path)
    check_path("weights/part-1.bin")


UPSTREAM = Manifest("generation", (), "", (), (), (), upstream=UpstreamClaim("openai", "meta/llama"))


def test_a_model_without_files_says_what_it_claims() -> None:
    assert parse_manifest(UPSTREAM.encode()) == UPSTREAM
    assert UPSTREAM.encode() == (
        b'{"files":[],"format":1,"inputs":[],"kind":"generation","license":"","main":"","opset":{},"outputs":[],'
        b'"text":null,"upstream":{"kind":"openai","model":"meta/llama"}}'
    )
    for wrong in (
        replace(UPSTREAM, kind="tensor"),
        replace(UPSTREAM, kind="classification"),
        replace(UPSTREAM, upstream=UpstreamClaim("open-inference", "m")),
        replace(UPSTREAM, upstream=UpstreamClaim("openai", "")),
        replace(UPSTREAM, upstream=UpstreamClaim("openai", "a\nb")),
        replace(UPSTREAM, upstream=UpstreamClaim("openai", "m" * 201)),
        replace(UPSTREAM, upstream=UpstreamClaim("grpc", "m")),
        replace(UPSTREAM, files=TENSOR.files, main=TENSOR.main),
        replace(UPSTREAM, main="model.onnx"),
        replace(UPSTREAM, opset=(("", 20),)),
        replace(UPSTREAM, upstream=None),
    ):
        with pytest.raises(ManifestError):
            parse_manifest(wrong.encode())
