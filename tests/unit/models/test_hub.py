"""Models from a hub: out of a folder in its place, and by huggingface_hub from one on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, open_hub_server

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import DISK_RESERVE_BYTES
from cocoon_p2p.models.hub import HubPlace, parse_address
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing import models
from cocoon_p2p.testing.text_models import token_vectors_model
from cocoon_p2p.testing.tiny_genai import make_tiny_genai

LARGE = 3 << 20


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repositories acme/embedder, acme/several, acme/chat and acme/heavy."""
    root = tmp_path_factory.mktemp("hub")
    embedder = token_vectors_model(root / "acme" / "embedder" / "main", normalize=True)
    (embedder / "onnx").mkdir()
    (embedder / "model.onnx").rename(embedder / "onnx" / "model.onnx")
    (embedder / "onnx" / "model_fp16.onnx").write_bytes(b"another precision")
    (embedder / "pytorch_model.bin").write_bytes(b"not needed")
    several = root / "acme" / "several" / "main" / "onnx"
    models.matmul_model(several)
    models.two_in_two_out_model(several)
    make_tiny_genai(root / "acme" / "chat" / "main" / "cpu" / "int4")
    heavy = root / "acme" / "heavy" / "main"
    models.external_data_model(heavy, "w.bin", elements=LARGE // 4)
    (heavy / "w.bin").write_bytes(bytes(LARGE))
    return root


@pytest.fixture
def hub(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 18)  # what is kept of half a download is whole chunks
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("COCOON_HUB_ROOT", raising=False)
    with open_hub_server(root) as hub:
        yield hub


class Watched:
    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.bytes = 0

    def begin(self, what: str, size: int) -> None:
        self.begun.append((what, size))

    def advance(self, count: int) -> None:
        self.bytes += count


# --- a folder in place of the hub ---


def test_a_repository_of_a_folder(root: Path, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    model = registry.add("hf:acme/embedder", hub=HubPlace(root))
    assert model.name == "embedder"
    assert model.manifest.text is not None
    assert model.manifest.text.pooling is not None
    monkeypatch.setenv("COCOON_HUB_ROOT", str(root))
    assert registry.add("hf:acme/embedder@main").model_id == model.model_id
    assert registry.add(root / "acme" / "embedder" / "main").model_id == model.model_id


def test_several_models_are_listed_and_one_is_chosen(root: Path, registry: ModelRegistry) -> None:
    with pytest.raises(ConfigError, match=r"holds onnx/matmul\.onnx, onnx/two\.onnx") as caught:
        registry.add("hf:acme/several", hub=HubPlace(root))
    assert caught.value.hint == "choose one: cocoon-node models add hf:acme/several --file onnx/matmul.onnx"
    assert registry.add("hf:acme/several", hub=HubPlace(root), file="onnx/two.onnx").manifest.inputs[0].name == "a"
    with pytest.raises(ConfigError, match=r"has no model 'onnx/three\.onnx'; it holds onnx/matmul"):
        registry.add("hf:acme/several", hub=HubPlace(root), file="onnx/three.onnx")


@pytest.mark.parametrize("file", [None, "cpu/int4", "cpu/int4/genai_config.json", "cpu/int4/model.onnx"])
def test_a_genai_folder_deep_in_a_repository(root: Path, registry: ModelRegistry, file: str | None) -> None:
    model = registry.add("hf:acme/chat", hub=HubPlace(root), file=file)
    assert (model.name, model.manifest.kind) == ("chat", "generation")
    assert model.model_id == registry.add(root / "acme" / "chat" / "main" / "cpu" / "int4").model_id


@pytest.mark.parametrize(
    "text", ["hf:", "hf:acme", "hf:acme/a/b", "hf:../x", "hf:acme/..", "hf:acme/x@", "hf:acme/x@../y", "hf:a b/c"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ConfigError, match="is no repository"):
        parse_address(text)


def test_a_repository_that_is_not_there(root: Path, registry: ModelRegistry) -> None:
    with pytest.raises(ConfigError, match="there is no folder"):
        registry.add("hf:acme/embedder@v2", hub=HubPlace(root))


def test_without_the_library(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCOON_HUB_ROOT", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="huggingface_hub, which is not installed") as caught:
        registry.add("hf:acme/embedder")
    assert "pip install 'cocoon-p2p[hub]'" in (caught.value.hint or "")


def test_too_little_disk_is_said_before_anything_is_copied(
    root: Path, registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=DISK_RESERVE_BYTES))
    watched = Watched()
    with pytest.raises(ConfigError, match="needs 1 MB on the disk") as caught:
        registry.add("hf:acme/chat", hub=HubPlace(root), progress=watched)
    assert "make room" in (caught.value.hint or "")
    assert not watched.begun
    assert not list((tmp_path / "home" / "models").iterdir())


# --- the library ---


@pytest.mark.slow
def test_only_what_is_needed_is_fetched_and_it_is_there_offline_afterwards(
    hub: Hub, registry: ModelRegistry, root: Path
) -> None:
    watched = Watched()
    model = registry.add("hf:acme/embedder", hub=HubPlace(endpoint=hub.endpoint), progress=watched)
    assert sorted(hub.fetched) == [
        "1_Pooling/config.json", "modules.json", "onnx/model.onnx", "tokenizer.json"
    ]  # fmt: skip
    size = (root / "acme" / "embedder" / "main" / "onnx" / "model.onnx").stat().st_size
    assert ("downloading model.onnx", size) in watched.begun
    assert ("copying model.onnx", size) in watched.begun
    again = registry.add(f"hf:acme/embedder@{COMMIT}", hub=HubPlace(offline=True))
    assert again.model_id == model.model_id == registry.add("hf:acme/embedder", hub=HubPlace(root)).model_id
    assert registry.add("hf:acme/embedder", hub=HubPlace(offline=True)).model_id == model.model_id
    with pytest.raises(ConfigError, match="was not downloaded before"):
        registry.add("hf:acme/embedder@other", hub=HubPlace(offline=True))
    assert len(hub.fetched) == 4


@pytest.mark.slow
def test_half_a_download_goes_on_where_it_was_cut_off(hub: Hub, registry: ModelRegistry, tmp_path: Path) -> None:
    hub.cut_after = LARGE // 2
    watched = Watched()
    try:
        model = registry.add("hf:acme/heavy", hub=HubPlace(endpoint=hub.endpoint), progress=watched)
    except ConfigError as error:  # a release of the library that does not try again by itself
        assert "the download goes on from there" in (error.hint or "")
        assert not list((tmp_path / "home" / "models").iterdir())
        model = registry.add("hf:acme/heavy", hub=HubPlace(endpoint=hub.endpoint), progress=watched)
    assert f"w.bin from {LARGE // 2}" in hub.fetched
    registry.verify(model.model_id)


@pytest.mark.parametrize(
    ("address", "hint"), [("hf:acme/nothing", "check OWNER/REPO"), ("hf:acme/embedder@v9", "check OWNER/REPO")]
)
def test_what_the_hub_does_not_have(hub: Hub, registry: ModelRegistry, address: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"{address} cannot be had") as caught:
        registry.add(address, hub=HubPlace(endpoint=hub.endpoint))
    assert hint in (caught.value.hint or "")


def test_nobody_answers(hub: Hub, registry: ModelRegistry) -> None:
    with pytest.raises(ConfigError, match="hf:acme/embedder cannot be had") as caught:
        registry.add("hf:acme/embedder", hub=HubPlace(endpoint="http://127.0.0.1:9"))
    assert "try again" in (caught.value.hint or "")


def test_offline_without_having_been_online(hub: Hub, registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="was not downloaded before, and this is offline"):
        registry.add("hf:acme/embedder", hub=HubPlace(endpoint=hub.endpoint))
    assert not hub.fetched


def test_offline_without_a_revision_means_the_newest_that_was_fetched(
    hub: Hub, registry: ModelRegistry, tmp_path: Path
) -> None:
    model = registry.add("hf:acme/embedder", hub=HubPlace(endpoint=hub.endpoint))
    (snapshots,) = (tmp_path / "cache").glob("models--*/snapshots")
    for older in ("0" * 40, "f" * 40):  # whichever way they are listed
        shutil.copytree(snapshots / COMMIT, snapshots / older)
        (snapshots / older / "tokenizer.json").unlink()
        for file in (snapshots / older).rglob("*.*"):
            os.utime(file, (1e9, 1e9))
    assert registry.add("hf:acme/embedder", hub=HubPlace(offline=True)).model_id == model.model_id
