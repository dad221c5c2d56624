"""Adding models: content-addressed, complete or not at all, nothing from outside of their folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.models.inspection import inspect_in_subprocess, inspect_onnx
from cocoon_p2p.models.layout import ModelDamaged
from cocoon_p2p.models.registry import ModelRegistry, Offer
from cocoon_p2p.testing import models


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


def entries(tmp_path: Path) -> list[str]:
    folder = tmp_path / "home" / "models"
    return sorted(os.listdir(folder)) if folder.exists() else []


def test_a_file_is_added_under_its_contents_id(tmp_path: Path, registry: ModelRegistry) -> None:
    path = models.two_in_two_out_model(tmp_path)
    model = registry.add(path, price_base=5)
    assert entries(tmp_path) == [model.model_id]
    assert (model.folder / "model.onnx").read_bytes() == path.read_bytes()
    assert model.offer == Offer("two", 5, None, True)
    assert [str(spec) for spec in model.manifest.inputs] == ["float32[batch,?]"] * 2
    assert model.manifest.opset == (("", 21),)
    copy = tmp_path / "elsewhere" / "renamed.onnx"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    again = registry.add(copy, name="new-name")
    assert again.model_id == model.model_id
    assert [m.name for m in registry.list()] == ["new-name"]
    assert entries(tmp_path) == [model.model_id]


def test_files_that_are_here_already_keep_what_is_not_given_anew(tmp_path: Path, registry: ModelRegistry) -> None:
    path = models.two_in_two_out_model(tmp_path)
    first = registry.add(path, name="mine", price_base=5, price_per_item=6)
    assert registry.add(path).offer == first.offer == Offer("mine", 5, 6)
    assert registry.add(path, price_per_item=0).offer == Offer("mine", 5, 0)
    assert registry.add(path, name="other").offer == Offer("other", 5, 0)
    assert [model.offer for model in registry.list()] == [Offer("other", 5, 0)]
    (first.folder / "offer.json").write_text("damaged")
    assert registry.add(path).offer == Offer("two")


def test_an_empty_name_is_refused(tmp_path: Path, registry: ModelRegistry) -> None:
    with pytest.raises(ConfigError, match="'' is not allowed as a model's name"):
        registry.add(models.two_in_two_out_model(tmp_path), name="")
    assert entries(tmp_path) == []


def test_an_unknown_model_says_how_to_add_one(tmp_path: Path, registry: ModelRegistry) -> None:
    with pytest.raises(CocoonError) as caught:
        registry.get("minilm")
    assert caught.value.hint == "no model was added yet: cocoon-node models add PATH"
    with pytest.raises(ConfigError, match="does not exist"):
        registry.add(tmp_path / ("x" * 300))


def test_a_folder_with_a_tokenizer_takes_text(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = models.embedding_model(tmp_path / "My Embedder")
    model = registry.add(folder)
    assert model.name == "My-Embedder"
    assert model.manifest.kind == "embedding"
    text = model.manifest.text
    assert text is not None
    assert (text.max_tokens, text.mask, text.types, text.outputs) == (
        16,
        "attention_mask",
        None,
        ("sentence_embedding",),
    )
    assert registry.add(folder / "model.onnx", name="plain").manifest.kind == "tensor"


def test_a_tokenizer_without_a_model_for_text(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = models.embedding_model(tmp_path / "text")
    (folder / "model.onnx").unlink()
    models.matmul_model(folder)
    with pytest.raises(ConfigError, match="does not turn token ids into one row"):
        registry.add(folder)
    assert entries(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"#!/bin/sh\n", b"\x08\x0a\xff\xff", b"<html></html>", bytes(1000), b"0000ORTM" * 9]
)
@pytest.mark.parametrize("own_process", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_file_that_is_no_model(tmp_path: Path, content: bytes, own_process: bool) -> None:
    registry = ModelRegistry(tmp_path / "home", inspect=inspect_in_subprocess if own_process else inspect_onnx)
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is not an ONNX model: ") as caught:
        registry.add(path)
    assert str(caught.value).startswith(f"{path} is not an ONNX model: ")
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    assert entries(tmp_path) == []


def test_inspection_in_a_process_of_its_own_finds_the_same(tmp_path: Path) -> None:
    path = models.external_data_model(tmp_path, "weights.bin")
    assert inspect_in_subprocess(path) == inspect_onnx(path)


def test_paths_that_hold_no_single_model(tmp_path: Path, registry: ModelRegistry) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError):
            registry.add(path)
    models.matmul_model(tmp_path)
    models.slow_model(tmp_path)
    with pytest.raises(ConfigError, match=r"matmul\.onnx, slow\.onnx"):
        registry.add(tmp_path)


def test_external_data_is_part_of_the_model(tmp_path: Path, registry: ModelRegistry) -> None:
    source = tmp_path / "source"
    path = models.external_data_model(source, "weights/part-1.bin")
    with pytest.raises(ConfigError, match=r"part-1\.bin"):
        registry.add(path)
    (source / "weights").mkdir()
    (source / "weights" / "part-1.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    model = registry.add(path)
    assert [entry.path for entry in model.manifest.files] == ["model.onnx", "weights/part-1.bin"]
    assert (model.folder / "weights" / "part-1.bin").stat().st_size == 16


@pytest.mark.parametrize("kind", ["absolute", "parent", "symlink", "folder symlink", "hard link", "pipe"])
def test_external_data_from_outside_is_refused(tmp_path: Path, registry: ModelRegistry, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "w.bin").write_bytes(bytes(16))
    source = tmp_path / "source"
    source.mkdir()
    location = {"absolute": str(secret / "w.bin"), "parent": "../secret/w.bin", "folder symlink": "folder/w.bin"}.get(
        kind, "w.bin"
    )
    if kind == "symlink":
        (source / "w.bin").symlink_to(secret / "w.bin")
    elif kind == "folder symlink":
        (source / "folder").symlink_to(secret)
    elif kind == "hard link":
        (source / "w.bin").hardlink_to(secret / "w.bin")
    elif kind == "pipe":
        os.mkfifo(source / "w.bin")
    with pytest.raises(ConfigError):
        registry.add(models.external_data_model(source, location))
    assert entries(tmp_path) == []


def test_hard_links_within_the_folder_are_fine(tmp_path: Path, registry: ModelRegistry) -> None:
    source = tmp_path / "source"
    path = models.external_data_model(source, "w.bin")
    (source / "w.bin").write_bytes(bytes(16))
    (source / "copy.bin").hardlink_to(source / "w.bin")
    registry.add(path)


def test_names(tmp_path: Path, registry: ModelRegistry) -> None:
    first = registry.add(models.matmul_model(tmp_path), name="mine")
    with pytest.raises(ConfigError, match="another model is called 'mine'"):
        registry.add(models.slow_model(tmp_path), name="mine")
    for name in ("a b", "/etc", "-x", "a" * 65, "0" * 64):
        with pytest.raises(ConfigError, match="not allowed as a model's name"):
            registry.add(models.slow_model(tmp_path), name=name)
    with pytest.raises(ConfigError, match="price_base must be"):
        registry.add(models.slow_model(tmp_path), price_base=-1)
    assert registry.get("mine") == registry.get(first.model_id) == registry.get(first.model_id[:8]) == first
    with pytest.raises(CocoonError) as caught:
        registry.get("mime")
    assert (caught.value.code, caught.value.hint) == ("NO_MODEL", "there is mine")


def test_offers_change_and_models_go(tmp_path: Path, registry: ModelRegistry) -> None:
    model = registry.add(models.matmul_model(tmp_path))
    registry.set_offer(model.model_id, Offer("other", 1, 2, serve=False))
    assert registry.get("other").offer == Offer("other", 1, 2, False)
    registry.remove(model.model_id)
    assert registry.list() == ()
    assert entries(tmp_path) == []
    with pytest.raises(CocoonError, match="there is no model"):
        registry.remove(model.model_id)


def test_damage_is_found_and_mended(tmp_path: Path, registry: ModelRegistry) -> None:
    path = models.matmul_model(tmp_path)
    model = registry.add(path)
    registry.verify(model.model_id)
    (model.folder / "model.onnx").write_bytes(b"other")
    with pytest.raises(ModelDamaged, match="was altered"):
        registry.verify(model.model_id)
    registry.add(path)
    registry.verify(model.model_id)
    (model.folder / "model.onnx").unlink()
    with pytest.raises(ModelDamaged, match=r"model\.onnx"):
        registry.verify(model.model_id)
    other = registry.add(models.slow_model(tmp_path))
    (model.folder / "manifest.json").write_text("{}")
    (other.folder / "offer.json").write_text(json.dumps({"name": "../x"}))
    assert registry.list() == ()
    assert len(registry.problems()) == 2


def test_an_add_that_was_cut_off_leaves_nothing_for_long(tmp_path: Path, registry: ModelRegistry) -> None:
    old = tmp_path / "home" / "models" / ".incoming-old"
    recent = old.with_name(".incoming-recent")
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    model = registry.add(models.matmul_model(tmp_path))
    assert entries(tmp_path) == [".incoming-recent", model.model_id]
    assert registry.list() == (model,)
