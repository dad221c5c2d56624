"""Folders of sentence-transformers and of classifiers: pooling, labels and what to do with them come out of their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.models.gathering import Wishes
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.manifest import Pooling
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing.models import embedding_model, matmul_model
from cocoon_p2p.testing.text_models import classifier_model, recurrent_model, token_vectors_model


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


def pooling_of(model: InstalledModel) -> Pooling | None:
    assert model.manifest.text is not None
    return model.manifest.text.pooling


@pytest.mark.parametrize(("mode", "how"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("max_tokens", "max")])
@pytest.mark.parametrize("normalize", [True, False])
def test_pooling_is_read(tmp_path: Path, registry: ModelRegistry, mode: str, how: str, normalize: bool) -> None:
    model = registry.add(token_vectors_model(tmp_path / "embedder", mode=mode, normalize=normalize))
    assert model.manifest.kind == "embedding"
    assert pooling_of(model) == Pooling("last_hidden_state", how, normalize)
    assert model.manifest.text is not None
    assert model.manifest.text.outputs == ("embeddings",)
    assert [file.path for file in model.manifest.files] == ["model.onnx", "tokenizer.json"]


def test_the_newer_form_of_the_pooling_file(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = token_vectors_model(tmp_path / "embedder")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert pooling_of(registry.add(folder)) == Pooling("last_hidden_state", "cls", False)


def test_a_graph_that_pools_by_itself_is_left_alone(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = token_vectors_model(tmp_path / "embedder")
    embedding_model(folder)
    assert pooling_of(registry.add(folder)) is None


def test_without_a_word_on_pooling_the_operator_must_say_it(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = token_vectors_model(tmp_path / "embedder", mode=None)
    with pytest.raises(ConfigError) as caught:
        registry.add(folder)
    assert "--pooling mean" in (caught.value.hint or "")
    assert pooling_of(registry.add(folder, wishes=Wishes(pooling="max"))) == Pooling("last_hidden_state", "max", True)
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        registry.add(matmul_model(tmp_path), wishes=Wishes(pooling="mean"))


@pytest.mark.parametrize(("spoilt", "hint"), [("lasttoken", "lasttoken"), ("Dense", "a layer 'Dense'")])
def test_pooling_that_is_not_known_here(tmp_path: Path, registry: ModelRegistry, spoilt: str, hint: str) -> None:
    folder = token_vectors_model(tmp_path / "embedder", mode="lasttoken" if spoilt == "lasttoken" else "mean_tokens")
    if spoilt == "Dense":
        modules = [
            {"path": f"{i}_{kind}", "type": f"x.{kind}"} for i, kind in enumerate(("Transformer", "Pooling", "Dense"))
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError) as caught:
        registry.add(folder)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("problem", "activation"),
    [
        (None, "softmax"),
        ("single_label_classification", "softmax"),
        ("multi_label_classification", "sigmoid"),
        ("regression", "none"),
    ],
)
def test_labels_are_read(tmp_path: Path, registry: ModelRegistry, problem: str | None, activation: str) -> None:
    model = registry.add(classifier_model(tmp_path / "mood", labels=("sad", "glad"), problem=problem))
    text = model.manifest.text
    assert model.manifest.kind == "classification"
    assert text is not None
    assert (text.labels, text.activation, text.logits, text.outputs) == (
        ("sad", "glad"),
        activation,
        "logits",
        ("scores",),
    )


@pytest.mark.parametrize("config", ['{"id2label": {"0": "a"}}', '{"id2label": {"0": "a", "5": "b"}}', "[]"])
def test_labels_that_are_not_the_graphs_make_no_classifier(
    tmp_path: Path, registry: ModelRegistry, config: str
) -> None:
    folder = classifier_model(tmp_path / "mood")
    (folder / "config.json").write_text(config)
    assert registry.add(folder).manifest.kind == "embedding"


def test_settings_that_are_no_json(tmp_path: Path, registry: ModelRegistry) -> None:
    folder = classifier_model(tmp_path / "mood")
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json of .* is not JSON"):
        registry.add(folder)


def test_state_is_what_the_operator_says_and_the_graph_allows(tmp_path: Path, registry: ModelRegistry) -> None:
    path = recurrent_model(tmp_path)
    model = registry.add(path, wishes=Wishes(state=(("h_in", "h_out"),)))
    assert model.manifest.state == (("h_in", "h_out"),)
    assert model.model_id != registry.add(path, name="plain").model_id
    with pytest.raises(ConfigError, match="goes out as it came in"):
        registry.add(path, wishes=Wishes(state=(("h_in", "other"),)))
    with pytest.raises(ConfigError, match="has state"):
        registry.add(embedding_model(tmp_path / "text"), wishes=Wishes(state=(("input_ids", "sentence_embedding"),)))


def test_files_that_the_model_does_not_need_change_nothing(tmp_path: Path, registry: ModelRegistry) -> None:
    bare = registry.add(token_vectors_model(tmp_path / "bare"))
    full = token_vectors_model(tmp_path / "full")
    (full / "onnx").mkdir()
    (full / "model.onnx").rename(full / "onnx" / "model.onnx")
    for name in ("README.md", "vocab.txt", "pytorch_model.bin"):
        (full / name).write_text("not needed")
    assert registry.add(full).model_id == bare.model_id
