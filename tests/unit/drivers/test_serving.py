"""Models that ONNX Runtime cannot load: said by name, and left out or taken back. On the real engine."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from serving_parts import make_desk

from cocoon_p2p.drivers.serving import PriceSettings, Serving
from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import ModelRegistry, Offer
from cocoon_p2p.testing import models


def unknown_operator_model(folder: Path) -> Path:
    """A well-formed model whose only operator no runtime has."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    node = helper.make_node("Nonsense", ["x"], ["y"], domain="org.example")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("org.example", 1)]
    model = helper.make_model(helper.make_graph([node], "broken", [x], [y]), opset_imports=opsets, ir_version=10)
    (folder / "broken.onnx").write_bytes(model.SerializeToString())
    return folder / "broken.onnx"


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "home", inspect=inspect_onnx)


@asynccontextmanager
async def open_serving(registry: ModelRegistry) -> AsyncIterator[Serving]:
    async with open_engine(device="cpu", threads=1) as engine:
        yield Serving(engine, make_desk(), registry, PriceSettings(1, 1))


def names(serving: Serving) -> list[str]:
    return [offer.name for offer in serving.offers()]


async def test_a_model_that_does_not_load_is_left_out_and_logged(
    tmp_path: Path, registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    installed = [registry.add(unknown_operator_model(tmp_path)), registry.add(models.matmul_model(tmp_path))]
    async with open_serving(registry) as serving:
        with caplog.at_level(logging.ERROR, "cocoon_p2p.drivers.serving"):
            await serving.serve_all(installed, skip_failing=True)
        assert names(serving) == ["matmul"]
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.getMessage().startswith("model broken is not offered: ")
        assert "Nonsense" in record.getMessage()
        ((model, why),) = serving.not_offered()
        assert (model.name, "Nonsense" in why) == ("broken", True)
        await serving.withdraw(model.model_id)
        assert serving.not_offered() == [], "nobody wants it served any more"


async def test_a_model_that_was_named_and_does_not_load_is_an_error(tmp_path: Path, registry: ModelRegistry) -> None:
    installed = [registry.add(unknown_operator_model(tmp_path)), registry.add(models.matmul_model(tmp_path))]
    async with open_serving(registry) as serving:
        with pytest.raises(ExecutionError, match=r"^model broken cannot be served: .*Nonsense"):
            await serving.serve_all(installed, skip_failing=False)


async def test_adding_a_model_that_does_not_load_leaves_the_home_as_it_was(
    tmp_path: Path, registry: ModelRegistry
) -> None:
    path = unknown_operator_model(tmp_path)
    async with open_serving(registry) as serving:
        with pytest.raises(ExecutionError, match=r"^model mine cannot be served: "):
            await serving.install_and_serve(path, name="mine", price_base=None, price_per_item=None)
        assert registry.list() == ()
        assert serving.not_offered() == []
        registry.add(path, name="mine", price_base=3)
        with pytest.raises(ExecutionError, match=r"^model new cannot be served: "):
            await serving.install_and_serve(path, name="new", price_base=4, price_per_item=5)
        assert [model.offer for model in registry.list()] == [Offer("mine", 3)]
        assert names(serving) == []
        assert [model.name for model, _ in serving.not_offered()] == ["mine"]


async def test_adding_a_model_offers_it(tmp_path: Path, registry: ModelRegistry) -> None:
    async with open_serving(registry) as serving:
        path = models.matmul_model(tmp_path)
        model = await serving.install_and_serve(path, name="mine", price_base=4, price_per_item=5)
        assert names(serving) == ["mine"]
        assert serving.price(model.model_id) == (4, 5)
