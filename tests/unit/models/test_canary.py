from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.execution.arrays import to_arrays
from cocoon_p2p.limits import CANARY_DIM_MAX
from cocoon_p2p.models.canary import TAME_MAX, canary_input
from cocoon_p2p.models.check import check_inputs
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.manifest import DYNAMIC, TENSOR, FileEntry, Manifest, TensorSpec
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import DTYPES, TEXT_INPUT, encode_payload, unpack_strings
from cocoon_p2p.testing import models


def manifest(*inputs: TensorSpec) -> Manifest:
    files = (FileEntry("model.onnx", 1, "0" * 64),)
    return Manifest(TENSOR, files, "model.onnx", inputs, (TensorSpec("y", "float32", None),), (("", 21),))


def encoded(model: Manifest, seed: int, tame: int = 0) -> bytes:
    return b"".join(encode_payload(canary_input(model, random.Random(seed), tame=tame)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_makes_an_input_that_fits(dtype: str) -> None:
    model = manifest(
        TensorSpec("x", dtype, (DYNAMIC, 3)), TensorSpec("mask", dtype, (2,)), TensorSpec("z", dtype, None)
    )
    for tame in range(TAME_MAX + 1):
        payload = canary_input(model, random.Random(7), tame=tame)
        assert 1 <= check_inputs(model, payload) <= CANARY_DIM_MAX
        to_arrays(payload)


def test_the_same_seed_the_same_bytes_another_seed_others() -> None:
    model = manifest(TensorSpec("x", "float32", (DYNAMIC, 8)))
    assert encoded(model, 1) == encoded(model, 1)
    assert len({encoded(model, seed) for seed in range(20)}) == 20


def test_values_are_plausible() -> None:
    model = manifest(
        TensorSpec("input_ids", "int64", (DYNAMIC, DYNAMIC)),
        TensorSpec("attention_mask", "int64", (DYNAMIC, DYNAMIC)),
        TensorSpec("token_type_ids", "int32", (DYNAMIC, DYNAMIC)),
        TensorSpec("x", "float16", (DYNAMIC, 64)),
    )
    for seed in range(10):
        arrays = to_arrays(canary_input(model, random.Random(seed)))
        assert arrays["input_ids"].min() >= 0
        assert arrays["input_ids"].shape == arrays["attention_mask"].shape == arrays["token_type_ids"].shape
        assert (arrays["attention_mask"] == 1).all()
        assert (arrays["token_type_ids"] == 0).all()
        assert np.isfinite(arrays["x"]).all()
        assert 0 < np.abs(arrays["x"]).max() < 10
        assert to_arrays(canary_input(model, random.Random(seed), tame=1))["input_ids"].max() <= 1
        tame = to_arrays(canary_input(model, random.Random(seed), tame=TAME_MAX))["input_ids"]
        assert tame.shape[0] == tame.shape[1]


def test_a_model_of_texts_gets_texts(tmp_path: Path) -> None:
    model = ModelRegistry(tmp_path / "home").add(models.embedding_model(tmp_path / "source"))
    payload = canary_input(model.manifest, random.Random(3))
    (text,) = payload.tensors
    assert text.name == TEXT_INPUT
    assert all(len(each.split()) >= 3 for each in unpack_strings(text))
    assert check_inputs(model.manifest, payload) == len(unpack_strings(text))


def test_inputs_that_are_too_large_are_refused() -> None:
    with pytest.raises(CocoonError) as caught:
        canary_input(manifest(TensorSpec("x", "float32", (1, 3, 4096, 4096))), random.Random(0))
    assert caught.value.code == "CANARY"
    assert "quorum" in (caught.value.hint or "")


def test_the_precision_is_read_from_the_graph(tmp_path: Path) -> None:
    assert inspect_onnx(models.matmul_model(tmp_path)).precision == "float32"
    assert inspect_onnx(models.half_model(tmp_path)).precision == "float16"
    assert inspect_onnx(models.four_bit_model(tmp_path)).precision == "int8"
    assert inspect_onnx(models.copy_model(tmp_path, "uint8", ["n"])).precision == "float32"
    assert inspect_onnx(models.copy_model(tmp_path, "bfloat16", ["n"])).precision == "float16"
    assert inspect_onnx(models.slow_model(tmp_path)).precision == "float32"
    registry = ModelRegistry(tmp_path / "home", inspect=inspect_onnx)
    assert registry.add(tmp_path / "half.onnx").manifest.precision == "float16"
    assert registry.add(tmp_path / "matmul.onnx").manifest.precision == "float32"
