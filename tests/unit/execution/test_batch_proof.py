"""Only models that keep the rows of a batch apart may run jobs of several clients at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cocoon_p2p.execution.batch_proof import proves_batching
from cocoon_p2p.execution.batching import could_batch
from cocoon_p2p.execution.session import OnnxModel, run_options
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing import models


@pytest.mark.parametrize(
    ("make", "batches"),
    [
        (models.matmul_model, True),
        (models.two_in_two_out_model, True),
        (lambda folder: models.copy_model(folder, "string", ["n", 2]), True),
        (lambda folder: models.copy_model(folder, "bool", ["n"]), True),
        (lambda folder: models.copy_model(folder, "int32", ["n", None, "m"]), True),
        (models.centring_model, False),
        (models.failing_model, False),
        (models.slow_model, False),
        (lambda folder: models.copy_model(folder, "float32", [2, "n"]), False),
        (lambda folder: models.copy_model(folder, "bfloat16", ["n"]), False),
    ],
)
def test_what_may_batch(tmp_path: Path, make: Callable[[Path], Path], batches: bool) -> None:
    model = ModelRegistry(tmp_path / "home", inspect=inspect_onnx).add(make(tmp_path))
    session = OnnxModel(model.folder, model.manifest, provider="CPUExecutionProvider", threads=1)
    assert (could_batch(model.manifest) and proves_batching(session, run_options())) == batches
