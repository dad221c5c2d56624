"""`models add | verify | remove` as whole commands, without a running node."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cocoon_p2p.cli import main
from cocoon_p2p.models import registry as registry_module
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.partial import open_partial
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing import models
from cocoon_p2p.testing.text_models import classifier_model, recurrent_model, token_vectors_model
from cocoon_p2p.testing.tiny_genai import make_tiny_genai


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("COCOON_HUB_ROOT", raising=False)
    init = ModelRegistry.__init__  # half a second less for each model: the process of its own has tests of its own
    monkeypatch.setattr(
        registry_module.ModelRegistry, "__init__", lambda self, home: init(self, home, inspect=inspect_onnx)
    )
    return tmp_path / "home"


def test_a_chat_model_from_a_folder_in_place_of_the_hub(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tiny_genai(home.parent / "hub" / "acme" / "tiny" / "v2")
    assert main(["models", "add", "hf:acme/tiny@v2", "--hub-root", str(home.parent / "hub")]) == 0
    out, err = capsys.readouterr()
    assert 'generates  text: cocoon-node generate tiny "…"' in out
    assert "context    1,024 tokens" in out
    assert "a token (test money" in out
    assert err.endswith("serve it: cocoon-node up\n")
    assert main(["models", "add", "hf:acme/tiny", "--hub-root", str(home.parent / "hub")]) == 2
    assert "hf:acme/tiny is not in" in capsys.readouterr().err


def test_options_go_into_the_manifest(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = token_vectors_model(home.parent / "vectors", mode=None)
    assert main(["models", "add", str(folder)]) == 2
    assert "--pooling mean" in capsys.readouterr().err
    assert main(["models", "add", str(folder), "--pooling", "cls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "embedding"
    path = str(recurrent_model(home.parent))
    assert main(["models", "add", path, "--state", "h_in=h_out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == [["h_in", "h_out"]]
    assert main(["models", "add", path, "--state", "h_in=other"]) == 2
    assert "goes out as it came in" in capsys.readouterr().err
    assert main(["models", "add", path, "--state", "h_in"]) == 2
    assert "must be INPUT=OUTPUT" in capsys.readouterr().err


def test_options_that_do_not_fit_the_model_are_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mood, vectors = classifier_model(home.parent / "mood"), token_vectors_model(home.parent / "vectors")
    writer, ready = make_tiny_genai(home.parent / "writer"), models.embedding_model(home.parent / "ready")
    for folder, option, value, words in (
        (mood, "--pooling", "mean", "is a classifier"),
        (writer, "--pooling", "mean", "generates text"),
        (ready, "--pooling", "mean", "a vector for each text already"),
        (vectors, "--state", "x=y", "a model of kind 'embedding'"),
        (vectors, "--hub-root", "hub", "is on this machine"),
    ):
        assert main(["models", "add", str(folder), option, value]) == 2
        told = capsys.readouterr().err
        assert words in told
        assert f"leave {option} out" in told
    assert main(["models", "add", str(vectors), "--offline"]) == 2
    assert main(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == []


def test_labels_are_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(classifier_model(home.parent / "mood", labels=("sad", "glad")))]) == 0
    assert "labels    sad, glad" in capsys.readouterr().out


def test_verify_names_what_is_damaged_and_what_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "verify"]) == 0
    assert "no models here" in capsys.readouterr().err
    assert main(["models", "add", str(models.matmul_model(home.parent)), "--name", "good"]) == 0
    assert main(["models", "add", str(models.two_in_two_out_model(home.parent)), "--name", "bad", "--json"]) == 0
    bad = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out.count("whole") == 2
    file = Path(bad["folder"]) / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert main(["models", "verify", "--json"]) == 1
    out, err = capsys.readouterr()
    rows = {row["name"]: row["ok"] for row in json.loads(out)["models"]}
    assert rows == {"good": True, "bad": False}
    assert "was altered after it was added, between bytes 0 and " in err
    assert f"cocoon-node models pull {bad['model_id']}" in err
    assert main(["models", "verify", "good"]) == 0
    assert main(["models", "verify", "bad"]) == 1
    assert main(["models", "verify", "nothing"]) == 1


def test_a_model_whose_manifest_is_damaged_can_be_removed(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(models.matmul_model(home.parent)), "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    (Path(added["folder"]) / "manifest.json").write_text("{}")
    monkeypatch.delenv("COCOON_HOME")
    assert main(["models", "list", "--home", str(home)]) == 1
    error = capsys.readouterr().err
    assert f"cocoon-node models verify --home {home}" in error
    assert "no models here" not in error
    monkeypatch.setenv("COCOON_HOME", str(home))
    assert main(["models", "verify"]) == 1
    assert "cocoon-node models remove ID" in capsys.readouterr().err
    assert main(["models", "remove", added["model_id"]]) == 0
    assert "removed a damaged model" in capsys.readouterr().err
    assert not list((home / "models").iterdir())
    assert main(["models", "remove", added["model_id"]]) == 1


def test_removing_a_model_that_the_configuration_names(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(models.matmul_model(home.parent)), "--name", "sums"]) == 0
    (home / "node.toml").write_text('[provider]\nmodels = ["sums"]\n')
    assert main(["models", "remove", "sums"]) == 0
    assert "node.toml still names it: take sums out" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_behind(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: object, destination: Path, **progress: object) -> None:
        destination.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("cocoon_p2p.models.gathering.copy_file", interrupted)
    assert main(["models", "add", str(models.matmul_model(home.parent))]) == 130
    assert not list((home / "models").iterdir())


def test_another_name_and_price(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(models.matmul_model(home.parent)), "--name", "sums", "--price-base", "7"]) == 0
    capsys.readouterr()
    assert main(["models", "set", "sums"]) == 2
    assert "nothing to change" in capsys.readouterr().err
    (home / "node.toml").write_text('[provider]\nmodels = ["sums"]\n')
    assert main(["models", "set", "sums", "--name", "adds", "--price-per-item", "20", "--json"]) == 0
    out, _ = capsys.readouterr()
    row = json.loads(out)
    assert (row["name"], row["price_base"], row["price_per_item"]) == ("adds", 7, 20)
    assert main(["models", "set", "adds", "--name", "totals"]) == 0
    assert main(["models", "set", "totals", "--name", "a b"]) == 2
    assert main(["models", "set", "nothing", "--name", "x"]) == 1


def test_a_model_that_is_not_shared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(models.matmul_model(home.parent)), "--name", "sums"]) == 0
    assert main(["models", "show", "sums", "--json"]) == 0
    assert main(["models", "set", "sums", "--share", "off"]) == 0
    out, _ = capsys.readouterr()
    assert '"share": true' in out and re.search(r"shared +no\n", out)
    assert main(["models", "set", "sums", "--name", "adds"]) == 0  # what is not given stays
    assert main(["models", "show", "adds", "--json"]) == 0
    assert '"share": false' in capsys.readouterr().out
    (home / "node.toml").write_text("[models]\nshare = false\n")
    assert main(["models", "set", "adds", "--share", "on"]) == 0
    out, err = capsys.readouterr()
    assert "no: [models] share is false" in out and "nobody can fetch it yet" in err


def test_what_lies_beside_a_single_file_is_not_used(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_tiny_genai(home.parent / "tiny")
    assert main(["models", "add", str(folder / "model.onnx")]) == 0
    assert "genai_config.json is not used; to use it add the folder" in capsys.readouterr().err


def test_what_a_text_model_gives(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(token_vectors_model(home.parent / "vectors", normalize=True))]) == 0
    assert "embeddings: mean of last_hidden_state, brought to length 1" in capsys.readouterr().out
    assert main(["models", "add", str(classifier_model(home.parent / "mood"))]) == 0
    assert "scores: softmax of logits" in capsys.readouterr().out


def test_a_part_of_a_model_is_told_and_can_be_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = ModelRegistry(home.parent / "other").add(models.matmul_model(home.parent))
    open_partial(home, source.manifest)
    assert main(["models", "list"]) == 0
    assert f"cocoon-node models pull {source.model_id}" in " ".join(capsys.readouterr().err.split())
    assert main(["models", "list", "--json"]) == 0
    assert [row["model_id"] for row in json.loads(capsys.readouterr().out)["unfinished"]] == [source.model_id]
    assert main(["models", "remove", source.model_id[:7]]) == 1
    assert main(["models", "remove", source.model_id[:8]]) == 0
    assert "removed what had come" in capsys.readouterr().err
    assert not list((home / "models").iterdir())
