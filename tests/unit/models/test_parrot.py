"""The demo's language model: a folder as any other, the same each time, that writes words it has heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from cocoon_p2p.execution.generation.tokens import TokenCodec
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.manifest import GENERATION
from cocoon_p2p.models.parrot import LESSONS, build_parrot
from cocoon_p2p.models.registry import ModelRegistry


def test_it_is_a_model_that_generates(tmp_path: Path) -> None:
    ids = set()
    for number in range(2):
        folder = build_parrot(tmp_path / f"folder-{number}")
        added = ModelRegistry(tmp_path / f"home-{number}", inspect=inspect_onnx).add(folder, name="parrot")
        assert added.manifest.kind == GENERATION
        ids.add(added.model_id)
    assert len(ids) == 1


def test_each_word_follows_one_that_it_has_followed(tmp_path: Path) -> None:
    folder = build_parrot(tmp_path)
    codec = TokenCodec(folder / "tokenizer.json")
    tokens = codec.encode(" ".join(LESSONS.split()), special=True)
    assert b"".join(codec.bytes_of(token) for token in tokens).decode().split() == LESSONS.split()
    graph = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    past = np.zeros((1, 1, 0, 1), np.float32)
    told: dict[str, Any] = {"input_ids": np.array([tokens], np.int64)}
    told |= {f"past_key_values.0.{name}": past for name in ("key", "value")}
    logits, key, _ = graph.run(None, told)
    heard = np.array([logits[0, place, token] for place, token in enumerate(tokens[1:])])
    assert heard.min() > -10
    assert np.allclose(np.exp(logits).sum(axis=-1), 1, atol=1e-5)
    assert key.shape == (1, 1, len(tokens), 1)
