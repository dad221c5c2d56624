"""A provider that picks up what is wanted, in virtual time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p import assembly_models, limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.execution.jail import JailSupport
from cocoon_p2p.ids import JobId, Tier
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.policy import auto_serve as auto_serve_policy
from cocoon_p2p.testing.noise_model import noise_model
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.wire.job import Ask

SIZES = [1000, 2000]


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, InstalledModel]:
    folder = tmp_path_factory.mktemp("noise")
    return {
        name: noise_model(folder / name, SIZES, offer=Offer(name), seed=seed)
        for seed, name in enumerate(("one", "two", "three"))
    }


@pytest.fixture(autouse=True)
def jail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly_models, "support", lambda: JailSupport(5, True, ""))


def auto(disk: str) -> NodeConfig:
    config = NodeConfig()
    return replace(config, provider=replace(config.provider, auto_serve=True, auto_serve_disk=disk))


def served(node: RunningNode) -> set[str]:
    return {row["name"] for row in node.node.models()}


def ask_for(node: RunningNode, model: InstalledModel, subnets: int) -> None:
    """As asks of strangers do, each from a subnet of its own."""
    auto_serve = node.node._parts.moves.auto_serve
    assert auto_serve is not None
    for number in range(subnets):
        now = node.clock.now()
        for _ in range(2):
            auto_serve._demand.asked(model.model_id, f"192.0.{number}.0/24", now)


def make_a_liar(node: RunningNode, model: InstalledModel) -> None:
    """What it sends is not the model, and its hashes still say that all is well."""
    for entry in model.manifest.files:
        path = node.home / "models" / model.model_id / entry.path
        times = path.stat()
        path.write_bytes(bytes(entry.size))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


async def test_what_is_wanted_comes_and_what_was_not_used_goes(
    tmp_path: Path, models: dict[str, InstalledModel], autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_serve_policy, "AUTO_SERVE_KEEP_S", 300.0)
    monkeypatch.setattr(limits, "AUTO_SERVE_AGAIN_S", 90.0)
    one, two = models["one"], models["two"]
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("p", model=one.folder, at="/ip4/8.8.8.8/tcp/1")
        await sim.start("q", model=two.folder, at="/ip4/8.8.4.4/tcp/1")
        own = noise_model(tmp_path / "own", [70], offer=Offer("own"), seed=9)
        keen = await sim.start("k", model=own.folder, config=auto("4 kB"), at="/ip4/9.9.9.9/tcp/1")
        ask_for(keen, one, 2)  # too few
        await trio.sleep(130)
        assert served(keen) == {"own"}
        ask_for(keen, one, 3)
        await trio.sleep(70)
        assert served(keen) == {"own", "one"}
        ask_for(keen, two, 4)
        await trio.sleep(70)
        assert served(keen) == {"own", "one"}  # which has only just come
        await trio.sleep(300)
        ask_for(keen, two, 4)
        await trio.sleep(130)
        assert served(keen) == {"own", "two"}
        assert [model.name for model in ModelRegistry(keen.home).list()] == ["own", "two"]
        await sim.kill("k")
        keen = await sim.start("k", config=auto("4 kB"), model=own.folder, at="/ip4/9.9.9.9/tcp/1")
        assert served(keen) == {"own", "two"}
        await trio.sleep(61)
        auto_serve = keen.node._parts.moves.auto_serve
        assert auto_serve is not None and [each.model_id for each in auto_serve.picked()] == [two.model_id]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_serve_policy, "AUTO_SERVE_KEEP_S", 200.0)
    monkeypatch.setattr(limits, "AUTO_SERVE_AGAIN_S", 90.0)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("disk", ["7.2 kB", "7 kB"])
async def test_nothing_goes_before_the_new_one_is_here_where_both_have_room(
    tmp_path: Path,
    models: dict[str, InstalledModel],
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    disk: str,
) -> None:
    """Two of 3,000 bytes are here and a third is wanted: 9,000 are a quarter more than 7,200. First a liar has it."""
    caplog.set_level("INFO", "cocoon_p2p.drivers.auto_serve")
    stays = disk == "7.2 kB"
    one, two, three = models["one"], models["two"], models["three"]
    async with Simulation(tmp_path, seed=5) as sim:
        await sim.start("p", model=one.folder, at="/ip4/8.8.8.8/tcp/1")
        await sim.start("q", model=two.folder, at="/ip4/8.8.4.4/tcp/1")
        liar = await sim.start("r", model=three.folder, at="/ip4/8.8.2.2/tcp/1")
        make_a_liar(liar, three)
        own = noise_model(tmp_path / "own", [70], offer=Offer("own"), seed=9)
        keen = await sim.start("k", model=own.folder, config=auto(disk), at="/ip4/9.9.9.9/tcp/1")
        for model in (one, two):
            ask_for(keen, model, 3)
            await trio.sleep(70)
        assert served(keen) == {"own", "one", "two"}
        await trio.sleep(200)
        ask_for(keen, three, 4)
        await trio.sleep(300)
        assert "was not picked up" in caplog.text
        assert ("the disk budget does not hold both" in caplog.text) is not stays
        assert len(served(keen)) == (3 if stays else 2)
        await sim.start("s", model=three.folder, at="/ip4/8.8.1.1/tcp/1")
        for _ in range(600):
            await trio.sleep(1)
            if three.model_id in {row["model_id"] for row in keen.node.models()}:
                break
        await trio.sleep(1)
        assert three.model_id in {row["model_id"] for row in keen.node.models()} and len(served(keen)) == 3


async def test_what_did_not_come_leaves_nothing_on_the_disk(
    tmp_path: Path, models: dict[str, InstalledModel], autojump_clock: MockClock
) -> None:
    """Strangers say what is wanted, and hold it: else they could fill the disk beyond the budget."""
    one = models["one"]
    async with Simulation(tmp_path, seed=4) as sim:
        liar = await sim.start("p", model=one.folder, at="/ip4/8.8.8.8/tcp/1")
        make_a_liar(liar, one)
        own = noise_model(tmp_path / "own", [70], offer=Offer("own"), seed=9)
        keen = await sim.start("k", model=own.folder, config=auto("4 kB"), at="/ip4/9.9.9.9/tcp/1")
        ask_for(keen, one, 3)
        await trio.sleep(70)
        assert list((keen.home / "models").glob(".partial-*")), "it was begun"
        await trio.sleep(300)
        assert not list((keen.home / "models").glob(".partial-*"))
        assert served(keen) == {"own"}


async def test_asks_of_clients_are_heard(
    tmp_path: Path, models: dict[str, InstalledModel], autojump_clock: MockClock
) -> None:
    async with Simulation(tmp_path, seed=2) as sim:
        await sim.start("p", model=models["one"].folder, at="/ip4/8.8.8.8/tcp/1")
        own = noise_model(tmp_path / "own", [70], offer=Offer("own"), seed=9)
        keen = await sim.start("k", model=own.folder, config=auto("4 kB"), at="/ip4/9.9.9.9/tcp/1")
        heard: list[str] = []
        parts = keen.node._parts
        assert parts.moves.auto_serve is not None
        assert keen.node.status()["auto_serve"] is True
        parts.moves.auto_serve._demand.asked = (  # type: ignore[method-assign]
            lambda model_id, subnet, now: heard.append(subnet)
        )
        desk = parts.serving._desk if parts.serving else None
        assert desk is not None
        ask = Ask(JobId(bytes(16)), models["one"].model_id, Tier.OPEN, 1, 100, 0, 1000, 0, 0)
        for peer in parts.network.peers():
            desk.decide(ask, client=peer.peer, jobs_of_client=0, unix_ms=0)
    assert heard == ["8.8.8.0/24"]


async def test_without_a_jail_nothing_is_picked_up(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(assembly_models, "support", lambda: JailSupport(0, False, "this kernel has no Landlock"))
    async with Simulation(tmp_path, seed=3) as sim:
        own = noise_model(tmp_path / "own", [70], offer=Offer("own"), seed=9)
        keen = await sim.start("k", model=own.folder, config=auto("4 kB"))
        assert keen.node._parts.moves.auto_serve is None
        assert keen.node.status()["auto_serve"] is False
    assert "this kernel has no Landlock" in caplog.text
