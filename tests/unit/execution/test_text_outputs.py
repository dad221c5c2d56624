"""Pooling and scores, by themselves and through a worker's runner: padding never counts."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.execution.cancellation import Cancellation
from cocoon_p2p.execution.runner import Job, Runner
from cocoon_p2p.execution.session import OnnxModel, run_options
from cocoon_p2p.execution.text import TextReader
from cocoon_p2p.execution.text_outputs import activate, pool
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.manifest import Pooling
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import string_tensor
from cocoon_p2p.testing.text_models import classifier_model, token_vectors_model

HIDDEN = np.array([[[1, 8], [3, 4], [99, 99]], [[5, -6], [99, 99], [99, 99]]], np.float32)
MASK = np.array([[1, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("how", "wanted"), [("mean", [[2, 6], [5, -6]]), ("cls", [[1, 8], [5, -6]]), ("max", [[3, 8], [5, -6]])]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_padding_is_not_pooled(how: str, wanted: list[list[float]], dtype: type) -> None:
    pooled = pool(HIDDEN.astype(dtype), MASK, Pooling("h", how, normalize=False))
    assert pooled.dtype == np.float32
    assert pooled.tolist() == wanted
    lengths = np.linalg.norm(pool(HIDDEN.astype(dtype), MASK, Pooling("h", how, normalize=True)), axis=1)
    assert np.allclose(lengths, 1)


def test_nothing_is_divided_by_zero() -> None:
    for how in ("mean", "cls", "max"):
        assert np.isfinite(pool(HIDDEN * 0, MASK * 0, Pooling("h", how, normalize=True))).all()


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2), (2, 0, 2)])
def test_another_shape_than_the_manifest_says_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="without a vector for each token"):
        pool(np.zeros(shape, np.float32), MASK[:, : shape[1]] if shape[1] == 0 else MASK, Pooling("h", "mean", False))


def test_scores() -> None:
    logits = np.array([[0, 0], [1000, -1000], [-1000, -1000]], np.float16)
    assert activate(logits, "softmax").tolist() == [[0.5, 0.5], [1, 0], [0.5, 0.5]]
    assert activate(logits, "sigmoid").tolist() == [[0.5, 0.5], [1, 0], [0, 0]]
    assert activate(logits, "none").tolist() == logits.tolist()
    assert activate(logits, "softmax").dtype == np.float32


def answers(tmp_path: Path, folder: Path, *texts: list[str]) -> list[np.ndarray]:
    """One job for each list of texts, all of them in one set."""
    model = ModelRegistry(tmp_path / "home", inspect=inspect_onnx).add(folder)
    session = OnnxModel(model.folder, model.manifest, provider="CPUExecutionProvider", threads=1)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        runner = Runner(session, TextReader(model.folder, model.manifest), Cancellation(theirs, run_options), 16)
        assert runner.batches
        assert model.manifest.text is not None
        names = model.manifest.text.outputs
        jobs = [Job(i, [string_tensor("text", each)], as_text=True, outputs=names) for i, each in enumerate(texts)]
        done = list(runner.run(jobs))
    assert [job.error for job in done] == [None] * len(jobs)
    assert all(tensor.dtype == "float32" for job in jobs for tensor in job.output_tensors())
    return [job.values[names[0]] for job in jobs]


def test_texts_of_several_jobs_are_pooled_apart(tmp_path: Path) -> None:
    folder = token_vectors_model(tmp_path / "embedder", mode="mean_tokens")
    one, two = answers(tmp_path, folder, ["a b c", "d"], ["b"])
    assert one.tolist() == [[3, 2], [5, 2]]
    assert two.tolist() == [[3, 2]]


def test_vectors_have_the_length_one_where_the_files_say_so(tmp_path: Path) -> None:
    (vectors,) = answers(tmp_path, token_vectors_model(tmp_path / "embedder", normalize=True), ["a b", "d d d d"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1)


def test_texts_are_scored(tmp_path: Path) -> None:
    (scores,) = answers(tmp_path, classifier_model(tmp_path / "mood"), ["a", "b", ""])
    likelier = 1 / (1 + np.exp(-np.array([1.0, 2.0, 0.0])))  # the ids are one and two above their number, 1
    assert np.allclose(scores, np.stack([likelier, 1 - likelier], axis=1))
