"""A model for simulations: its manifest is real, what it computes is a Python function."""

from __future__ import annotations

from pathlib import Path

import pytest

from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.testing import models


@pytest.fixture(scope="session")
def echo_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installed model called "echo": x float32[batch,4] in, y float32[batch,4] out."""
    folder = tmp_path_factory.mktemp("echo")
    source = models.copy_model(folder, "float32", ("batch", 4))
    return ModelRegistry(folder / "home").add(source, name="echo", price_base=1000, price_per_item=10).folder
