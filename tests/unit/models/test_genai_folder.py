"""A folder of onnxruntime-genai becomes a model that generates text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.manifest import GenerationSpec
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing.tiny_genai import TEMPLATE, make_tiny_genai


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


def spec_of(model: InstalledModel) -> GenerationSpec:
    assert model.manifest.generation is not None
    return model.manifest.generation


def change(path: Path, edit: Callable[[Any], None]) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


def test_all_is_read_out_of_the_folder(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = make_tiny_genai(tmp_path / "tiny", layers=2, kv_dtype="float16", context=512)
    (folder / "README.md").write_text("not needed")
    model = registry.add(folder)
    spec = spec_of(model)
    assert (model.name, model.manifest.kind, model.manifest.text) == ("tiny", "generation", None)
    assert [file.path for file in model.manifest.files] == ["chat_template.jinja", "model.onnx", "tokenizer.json"]
    assert (spec.context, spec.layers, spec.kv_heads, spec.head_size, spec.kv_dtype) == (512, 2, 2, 16, "float16")
    assert (spec.bos, spec.eos, spec.eos_ids, spec.vocab) == ("<|bos|>", "<|eos|>", (2,), 265)
    assert (spec.ids, spec.mask, spec.positions, spec.logits) == ("input_ids", "attention_mask", None, "logits")
    assert spec.past_names()[1] == ("past_key_values.1.key", "past_key_values.1.value")
    assert registry.add(folder).model_id == model.model_id
    registry.verify(model.model_id)


@pytest.mark.parametrize(
    ("graph", "positions", "in_place"),
    [("grouped", None, True), ("positions", "position_ids", True), ("plain", "position_ids", False)],
)
def test_whether_keys_and_values_stay_in_place(
    tmp_path: Path, registry: ModelRegistry, graph: str, positions: str | None, in_place: bool
) -> None:
    spec = spec_of(registry.add(make_tiny_genai(tmp_path / graph, graph=graph)))
    assert (spec.positions, spec.in_place) == (positions, in_place)


def test_one_layer_of_another_kind_and_nothing_stays_in_place(tmp_path: Path, registry: ModelRegistry) -> None:
    from cocoon_p2p.models.genai_folder import shares_buffers
    from cocoon_p2p.models.inspection import OnnxFacts

    folder = make_tiny_genai(tmp_path / "tiny")
    facts = inspect_onnx(folder / "model.onnx")
    names = ("past_key_values.%d.key", "past_key_values.%d.value", "present.%d.key", "present.%d.value")
    assert shares_buffers(facts, 2, names)
    fewer = OnnxFacts(facts.inputs, facts.outputs, facts.opset, (), grouped=facts.grouped[:1])
    assert not shares_buffers(fewer, 2, names)
    crossed = ("past_key_values.%d.key", "past_key_values.%d.value", "present.%d.value", "present.%d.key")
    assert not shares_buffers(facts, 2, crossed)


@pytest.mark.parametrize("given", ["text", "list", "none"])
def test_the_chat_template_may_stand_in_the_tokenizers_settings(
    tmp_path: Path, registry: ModelRegistry, given: str
) -> None:
    by_file = registry.add(make_tiny_genai(tmp_path / "file"), name="by-file")
    folder = make_tiny_genai(tmp_path / "settings")
    (folder / "chat_template.jinja").unlink()
    several = [{"name": "rag", "template": "other"}, {"name": "default", "template": TEMPLATE}]
    forms = {"text": TEMPLATE, "list": several, "none": None}
    change(folder / "tokenizer_config.json", lambda tree: tree.update(chat_template=forms[given]))
    model = registry.add(folder, name="by-settings" if given == "none" else None)
    if given == "none":
        assert spec_of(model).template is None
    else:
        assert model.model_id == by_file.model_id


def test_several_end_tokens_and_marks_as_objects(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = make_tiny_genai(tmp_path / "tiny")
    change(folder / "genai_config.json", lambda tree: tree["model"].update(eos_token_id=[7, 2, 7]))
    change(folder / "tokenizer_config.json", lambda tree: tree.update(bos_token={"content": "<b>"}, eos_token=None))
    spec = spec_of(registry.add(folder))
    assert (spec.eos_ids, spec.bos, spec.eos) == ((2, 7), "<b>", "")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tree: tree["model"]["decoder"].update(filename="../model.onnx"), "names no single graph"),
        (lambda tree: tree["model"]["decoder"].pop("filename"), "names no single graph"),
        (lambda tree: tree["model"].update(eos_token_id="2"), "eos_token_id must be"),
        (lambda tree: tree["model"].update(eos_token_id=[999]), "tokens of the vocabulary"),
        (lambda tree: tree["model"]["decoder"].update(num_hidden_layers=3), "cannot be served"),
        (lambda tree: tree["model"]["decoder"].update(num_hidden_layers=0), "num_hidden_layers must be"),
        (lambda tree: tree["model"]["decoder"]["inputs"].update(past_key_names="k.%d"), "no input 'k.0'"),
        (lambda tree: tree["model"]["decoder"]["inputs"].update(past_names="past.%d"), "one tensor a layer"),
        (lambda tree: tree["model"].update(context_length=None), "context_length must be"),
    ],
)
def test_what_cannot_be_fed_is_refused(
    tmp_path: Path, registry: ModelRegistry, edit: Callable[[Any], None], message: str
) -> None:
    folder = make_tiny_genai(tmp_path / "tiny")
    change(folder / "genai_config.json", edit)
    with pytest.raises(ConfigError, match=message) as caught:
        registry.add(folder)
    assert caught.value.hint or "cannot be served" in str(caught.value)
    assert not list((tmp_path / "home" / "models").glob("*"))


def test_without_a_tokenizer_there_is_no_text(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = make_tiny_genai(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json, without which"):
        registry.add(folder)


def test_a_decoder_without_its_settings_says_what_is_missing(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = make_tiny_genai(tmp_path / "tiny")
    (folder / "genai_config.json").unlink()
    with pytest.raises(
        ConfigError, match=r"looks like a model that generates text, and has no genai_config\.json"
    ) as caught:
        registry.add(folder)
    assert "onnxruntime_genai.models.builder" in (caught.value.hint or "")
