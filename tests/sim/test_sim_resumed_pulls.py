"""What a node was asked to fetch goes on after its next start, unless it came or the user stopped it. In virtual time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from blob_town import installed, many_files
from trio.testing import MockClock

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.models.registry import InstalledModel
from cocoon_p2p.models.wanted import Wanted, read_wanted, remember_wanted
from cocoon_p2p.testing.simulation import RunningNode, Simulation

AT = "/ip4/9.9.9.9/tcp/1"


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    return many_files(tmp_path_factory.mktemp("many"), [300 + 7 * i for i in range(120)])


def thin() -> NodeConfig:
    config = NodeConfig()
    return replace(config, models=replace(config.models, download_megabytes_per_second=0.01))


async def over(node: RunningNode) -> dict[str, object]:
    """How its only pull ended."""
    while True:
        (row,) = node.node.pulls()
        if row["phase"] in ("done", "failed"):
            return row
        await trio.sleep(1)


async def test_what_was_not_finished_goes_on(tmp_path: Path, model: InstalledModel, autojump_clock: MockClock) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        holder = await sim.start("p", model=model.folder, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", config=thin(), at=AT)
        await client.node.begin_pull(model.model_id, source=holder.node.addresses()[0], name="mine")
        await trio.sleep(3)
        await sim.kill("c")
        client = await sim.start("c", at=AT)
        (begun,) = await client.node.resume_pulls()
        assert begun["model_id"] == model.model_id
        row = await over(client)
        assert row["phase"] == "done" and row["name"] == "mine"
        assert 0 < row["outside_bytes"] < model.manifest.size  # type: ignore[operator]
        installed(client.home, model.model_id)
        await sim.kill("c")
        client = await sim.start("c", at=AT)
        assert await client.node.resume_pulls() == []


async def test_what_the_user_stopped_or_waited_for_himself_does_not(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    async with Simulation(tmp_path, seed=2) as sim:
        await sim.start("p", model=model.folder, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", config=thin(), at=AT)
        await client.node.begin_pull(model.model_id)
        await trio.sleep(3)
        assert client.node.stop_pull(model.model_id)
        assert (await over(client))["error"]["code"] == "STOPPED"  # type: ignore[index]
        with trio.move_on_after(3):
            await client.node.pull(model.model_id)
        await sim.kill("c")
        assert list((client.home / "models").glob(".partial-*"))
        client = await sim.start("c", at=AT)
        assert await client.node.resume_pulls() == []


async def test_what_nobody_had_is_tried_again_and_can_be_given_up(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    async with Simulation(tmp_path, seed=3) as sim:
        await sim.start("q", at="/ip4/8.8.4.4/tcp/1")
        client = await sim.start("c", at=AT)
        await client.node.begin_pull(model.model_id)
        assert (await over(client))["error"]["code"] == "NO_SOURCE"  # type: ignore[index]
        await sim.kill("c")
        client = await sim.start("c", at=AT)
        assert [row["model_id"] for row in await client.node.resume_pulls()] == [model.model_id]
        await over(client)
        assert not client.node.stop_pull(model.model_id)
        await trio.sleep(1)
        assert await client.node.resume_pulls() == []


async def test_what_can_never_come_is_not_tried_again(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise CocoonError("no room", code="CONFIG")

    async with Simulation(tmp_path, seed=4) as sim:
        await sim.start("p", model=model.folder, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", at=AT)
        monkeypatch.setattr("cocoon_p2p.drivers.model_pull.open_partial", full)
        await client.node.begin_pull(model.model_id)
        assert (await over(client))["error"]["code"] == "CONFIG"  # type: ignore[index]
        assert await client.node.resume_pulls() == []


def test_what_stands_on_the_disk_is_not_believed(tmp_path: Path) -> None:
    models = tmp_path / "models"
    right = Wanted("a" * 64, "m", "/ip4/1.2.3.4/tcp/1")  # type: ignore[arg-type]
    remember_wanted(tmp_path, right)
    for name, text in (("b" * 64, "["), ("c" * 64, '{"name": 1, "source": null}'), ("d" * 64, "[]"), ("../x", "{}")):
        (models / f".wanted-{name.replace('/', '_')}").write_text(text)
    assert read_wanted(tmp_path) == (right,)
