"""One network for the tests that do it no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from towns import Town

from cocoon_p2p.testing import models


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model name → file."""
    folder = tmp_path_factory.mktemp("models")
    files = [
        models.matmul_model(folder),
        models.two_in_two_out_model(folder),
        models.copy_model(folder, "float16", ["n"]),
        models.copy_model(folder, "bool", ["n", 2]),
        models.copy_model(folder, "string", ["n"]),
        models.slow_model(folder),
    ]
    return {file.stem: file for file in files} | {"letters": models.embedding_model(folder / "letters")}


@pytest.fixture(scope="session")
def market_town(tmp_path_factory: pytest.TempPathFactory, model_files: dict[str, Path]) -> Iterator[Town]:
    """A bootstrap node, a provider of all `model_files`, and a client. All three go on as they are when a test ends."""
    with Town(tmp_path_factory.mktemp("market")) as town:
        bootstrap = town.start("bootstrap")
        offered = [part for file in model_files.values() for part in ("--model", str(file))]
        provider = town.launch("provider", *offered, bootstrap=[bootstrap.address])
        client = town.launch("client", bootstrap=[bootstrap.address])
        provider.wait_ready()
        client.wait_ready()
        yield town
