"""The demo's model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.models.minilm import build_minilm
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing.engine_contract import run_job, texts


@pytest.mark.slow
async def test_minilm_is_built_the_same_each_time_and_knows_what_texts_mean(tmp_path: Path) -> None:
    folder = build_minilm(tmp_path / "one")
    again = build_minilm(tmp_path / "two")
    assert (folder / "model.onnx").read_bytes() == (again / "model.onnx").read_bytes()
    model = ModelRegistry(tmp_path / "home").add(folder, name="minilm")
    assert model.manifest.text is not None
    assert (model.manifest.text.max_tokens, model.manifest.text.outputs) == (256, ("sentence_embedding",))
    async with open_engine(device="cpu") as engine:
        await engine.load(model.model_id, model.folder)
        sentences = ["A man is eating food.", "A man eats something.", "The stock market fell today."]
        vectors = (await run_job(engine, model, texts(*sentences)))["sentence_embedding"]
        long = (await run_job(engine, model, texts("word " * 5000)))["sentence_embedding"]
    assert vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.7
    assert vectors[0] @ vectors[2] < 0.2
    assert long.shape == (1, 384)
