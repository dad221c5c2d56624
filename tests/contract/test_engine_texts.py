"""Texts that are too long for a model, on the real engine: how many were cut stands in the output, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import decode_payload
from cocoon_p2p.testing.engine_contract import buffer_of, texts
from cocoon_p2p.testing.text_models import classifier_model

pytestmark = pytest.mark.slow


async def test_how_many_texts_were_cut(tmp_path: Path) -> None:
    folder = classifier_model(tmp_path / "mood")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 3}))
    model = ModelRegistry(tmp_path / "home", inspect=inspect_onnx).add(folder)
    async with open_engine(threads=1, device="cpu") as engine:
        await engine.load(model.model_id, model.folder, keep=True)
        sizes = set()
        for given, cut in (
            (("a b c", "d", ""), 0),
            (("a b c d", "d", "a a a a a a a a a a"), 2),
        ):
            result = await engine.run(model.model_id, buffer_of(engine, texts(*given)), items_max=3)
            with result:
                assert decode_payload(result.payload).cut == cut
                sizes.add(len(result.payload))
                last = np.frombuffer(decode_payload(result.payload).tensors[0].data, np.float32)[-2:].copy()
        assert len(sizes) == 1, "who only sees the size learns nothing"
        result = await engine.run(model.model_id, buffer_of(engine, texts("a a a")), items_max=1)
        with result:
            np.testing.assert_array_equal(
                np.frombuffer(decode_payload(result.payload).tensors[0].data, np.float32), last
            )
