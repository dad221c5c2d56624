"""Made-up inputs through the real engine: the models of this program's own tests take them, and answer the same twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cocoon_p2p.drivers.comparing import compare
from cocoon_p2p.drivers.own_engine import OwnEngine
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.canary import canary_input
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.tensors import Payload
from cocoon_p2p.testing import models

open_cpu = partial(open_engine, threads=1, device="cpu")
MODELS: list[Callable[[Path], Path]] = [
    models.matmul_model,
    models.two_in_two_out_model,
    models.half_model,
    models.four_bit_model,
    partial(models.copy_model, dtype="string", shape=["n"]),
    partial(models.copy_model, dtype="bool", shape=["n", 2]),
    lambda folder: models.embedding_model(folder / "letters"),
]


@pytest.mark.slow
async def test_every_model_takes_a_canary_and_answers_the_same_twice(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "home", inspect=inspect_onnx)
    installed = [registry.add(make(tmp_path)) for make in MODELS]
    async with open_cpu() as serving:
        for model in installed[:-1]:
            await serving.load(model.model_id, model.folder)
        own = OwnEngine(registry, serving, open_cpu)
        for model in installed:  # the last one by an engine of its own
            given = canary_input(model.manifest, random.Random(1))
            one, other = await own.run(model.model_id, given), await own.run(model.model_id, given)
            assert (await compare(one, other, False)).deviation == 0, model.name
            assert {tensor.name for tensor in one.tensors} <= {spec.name for spec in model.manifest.outputs}
        assert {status.jobs_done for status in serving.models()} == {4}


async def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    own = OwnEngine(ModelRegistry(tmp_path), None, open_cpu)
    assert own.manifest(ModelId("ab" * 32)) is None
    with pytest.raises(CocoonError) as caught:
        await own.run(ModelId("ab" * 32), Payload(()))
    assert caught.value.code == "NO_MODEL"
