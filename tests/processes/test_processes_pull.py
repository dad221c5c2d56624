"""Models that move between processes: as a guest, with a node, and with a node that is killed in the middle of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from towns import NodeProcess, Town, eventually, explained

from cocoon_p2p.limits import MIB
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.testing.noise_model import noise_model

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SIZES = [160 * MIB + 3, 0, 5000]
ENOUGH = 8
"""Pieces that came before the kill."""


@pytest.fixture(scope="module")
def pull_town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with Town(tmp_path_factory.mktemp("pull")) as town:
        yield town


@pytest.fixture(scope="module")
def model(pull_town: Town) -> InstalledModel:
    return noise_model(pull_town.home("holder"), SIZES, offer=Offer("noise", serve=False))


@pytest.fixture(scope="module")
def holder(pull_town: Town, model: InstalledModel) -> NodeProcess:
    return pull_town.start("holder")


def test_a_guest_pulls_a_model(pull_town: Town, model: InstalledModel, holder: NodeProcess) -> None:
    home = pull_town.home("guest")
    pull = ("models", "pull", model.model_id, "--bootstrap", holder.address, "--from", holder.address)
    row = pull_town.cli(*pull, "--json", home=home).json
    assert row["model_id"] == model.model_id and row["pull"]["local_bytes"] == model.manifest.size
    ModelRegistry(home).verify(model.model_id)
    again = pull_town.cli(*pull, home=home)
    assert again.status == 0 and model.model_id in again.out


def test_a_model_that_nobody_has(pull_town: Town, holder: NodeProcess) -> None:
    home = pull_town.home("asker")
    ended = pull_town.cli("models", "pull", "nothing", "--bootstrap", holder.address, home=home)
    assert "nobody offers a model called nothing" in explained(ended, 1)


def test_a_node_that_was_killed_while_it_pulled(pull_town: Town, model: InstalledModel, holder: NodeProcess) -> None:
    fetcher = pull_town.start("fetcher", bootstrap=[holder.address])
    begun = fetcher.api.post("/v1/pulls", {"model": model.model_id, "from": holder.address})
    assert begun["model_id"] == model.model_id
    bits = fetcher.home / "models" / f".partial-{model.model_id}" / ".bits"

    def here() -> int:
        return int.from_bytes(bits.read_bytes(), "little").bit_count() if bits.exists() else 0

    eventually(lambda: here() >= ENOUGH, "some pieces are here")
    holder.send(signal.SIGSTOP)
    try:
        fetcher.kill()
        before = here()
        assert ENOUGH <= before < 162
    finally:
        holder.send(signal.SIGCONT)
    fetcher = pull_town.start("fetcher", bootstrap=[holder.address])  # it goes on by itself

    def over() -> dict[str, Any] | None:
        (row,) = fetcher.api.get("/v1/pulls")["pulls"]
        return row if row["phase"] in ("done", "failed") else None

    row = eventually(over, "the model is here")
    assert row is not None and row["phase"] == "done", row
    assert row["local_bytes"] <= model.manifest.size - (before - 1) * MIB
    assert "it is not on offer" in row["note"]  # nothing can run noise
    ModelRegistry(fetcher.home).verify(model.model_id)
    fetcher.kill()
    fetcher = pull_town.start("fetcher", bootstrap=[holder.address])
    assert fetcher.api.get("/v1/pulls")["pulls"] == []  # what is here was not asked for any more
