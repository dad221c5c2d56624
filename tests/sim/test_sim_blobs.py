"""Models that move between whole nodes, in virtual time."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from blob_town import give, installed, many_files, watched
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.model_pull import PullProgress
from cocoon_p2p.drivers.outbox import Outbox
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry, Offer
from cocoon_p2p.models.whole import WholeModel
from cocoon_p2p.testing.noise_model import noise_model
from cocoon_p2p.testing.simulation import RunningNode, Simulation
from cocoon_p2p.wire.blob import BLOB_PROTOCOL, GetHashes, Open

SIZES = [300 + 7 * i for i in range(120)]


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> InstalledModel:
    return many_files(tmp_path_factory.mktemp("many"), [*SIZES, 0, (1 << 20) + 5])


async def start_holder(sim: Simulation, name: str, model: InstalledModel, *, at: str) -> RunningNode:
    return await sim.start(name, model=model.folder, at=at)


async def test_a_model_comes_from_its_provider(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    states: list[PullProgress] = []
    async with Simulation(tmp_path, seed=1) as sim:
        holder = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        pulled = await client.node.pull("many", progress=states.append)
        again = await client.node.pull(model.model_id)
    assert pulled.model_id == model.model_id == again.model_id
    assert installed(client.home, model.model_id).name == "many"
    assert states[-1].phase == "done" and states[-1].outside_bytes == model.manifest.size
    assert not list((client.home / "models").glob(".partial-*"))
    assert holder.node.peer_id != client.node.peer_id


@pytest.mark.parametrize(("seed", "loss"), [(1, 0.0), (2, 0.02)])
async def test_one_download_for_a_local_network(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock, seed: int, loss: float
) -> None:
    """Five nodes of one network pull at about the same time, over a thin line: each piece comes in once, but for a few."""
    config = NodeConfig()
    thin = replace(config, models=replace(config.models, download_megabytes_per_second=0.004))
    async with Simulation(tmp_path, seed=seed, latency_s=0.002, loss=loss) as sim:
        holder = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        local = [await sim.start(f"c{i}", config=thin, at=f"/ip4/192.168.1.{i + 2}/tcp/1") for i in range(5)]
        for one in local:
            for other in local:
                if one is not other:
                    await one.node.connect(other.node.addresses()[0])
        with watched(sim) as sent:
            async with trio.open_nursery() as nursery:
                for number, one in enumerate(local):

                    async def pull(node: RunningNode = one, wait_s: float = 0.01 * number) -> None:
                        await trio.sleep(wait_s)
                        await node.node.pull(model.model_id)

                    nursery.start_soon(pull)
        for one in local:
            installed(one.home, model.model_id)
    pieces = sent.by(holder.node.peer_id)
    assert len(pieces) == len(SIZES) + 2
    assert sum(pieces.values()) <= 1.05 * len(pieces)


async def test_peers_that_are_still_fetching_give_what_they_have(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    """Nobody but the provider has it at first, and it gives little: the others feed each other, and nobody waits for long."""
    config = NodeConfig()
    slow = replace(config, models=replace(config.models, upload_megabytes_per_second=0.01))
    async with Simulation(tmp_path, seed=3, latency_s=0.01) as sim:
        holder = await sim.start("p", model=model.folder, config=slow, at="/ip4/8.8.8.8/tcp/1")
        others = [await sim.start(f"c{i}", at=f"/ip4/9.9.{i}.9/tcp/1") for i in range(4)]
        with watched(sim) as sent:
            begun = trio.current_time()
            async with trio.open_nursery() as nursery:
                for one in others:
                    nursery.start_soon(one.node.pull, model.model_id)
            took_s = trio.current_time() - begun
        for one in others:
            installed(one.home, model.model_id)
    given = sum(sent.by(holder.node.peer_id).values())
    among = sum(sum(sent.by(one.node.peer_id).values()) for one in others)
    assert among > 0.8 * given  # all begin at the same moment, and trio draws who comes first
    assert took_s < 4 * model.manifest.size / 10_000  # what it would take without each other


async def test_a_pull_that_was_killed_goes_on_where_it_was(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    config = NodeConfig()
    slow = replace(config, models=replace(config.models, download_megabytes_per_second=0.01))
    async with Simulation(tmp_path, seed=4) as sim:
        holder = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", config=slow, at="/ip4/9.9.9.9/tcp/1")
        with watched(sim) as sent:
            with trio.move_on_after(6.0):
                await client.node.pull(model.model_id)
            await sim.kill("c")
            before = sum(sent.by(holder.node.peer_id).values())
            client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
            await client.node.pull(model.model_id)
        installed(client.home, model.model_id)
    assert 20 < before < len(SIZES)
    assert sum(sent.by(holder.node.peer_id).values()) <= len(SIZES) + 2 + 16  # but for what was on its way


async def test_who_sends_wrong_pieces_is_left_and_loses_standing(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    async with Simulation(tmp_path, seed=5) as sim:
        honest = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        liar = await start_holder(sim, "q", model, at="/ip4/8.8.4.4/tcp/1")
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        await client.node.connect(liar.node.addresses()[0])
        for entry in model.manifest.files:  # behind its back: its hashes still say that all is well
            path = liar.home / "models" / model.model_id / entry.path
            times = path.stat()
            path.write_bytes(bytes(entry.size))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        await client.node.pull(model.model_id)
        installed(client.home, model.model_id)
        row = {row["peer_id"]: row for row in client.node.peers()}
        banned = {each["peer_id"] for each in client.node.banned()}
    assert row[honest.node.peer_id]["penalty"] == 0
    assert liar.node.peer_id in banned or row[liar.node.peer_id]["penalty"] > 0


async def test_who_asks_for_hashes_without_end_and_reads_nothing_takes_no_memory(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer of a large model has a mebibyte; a hundred streams with a thousand of them would be all that there is."""
    monkeypatch.setattr(
        WholeModel, "hashes", lambda self, file, first, count: bytes(limits.BLOB_HASHES_PER_MESSAGE_MAX * 32)
    )
    async with Simulation(tmp_path, seed=6) as sim:
        holder = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        await client.node.connect(holder.node.addresses()[0])
        boxes: list[Outbox] = []
        monkeypatch.setattr(Outbox, "run", lambda box: _never_sent(box, boxes))
        stream = await client.node._parts.network.open_stream(holder.node.peer_id, BLOB_PROTOCOL)
        await stream.send(Open(model.model_id, False).encode())
        last = len(model.manifest.files) - 1
        with trio.move_on_after(5):
            for _ in range(200):
                await stream.send(GetHashes(last, 0, 1).encode())
        await trio.sleep(5)
        waiting = sum(len(frame) for box in boxes for frame in (*box._short, *(frame for _, frame in box._bulk)))
    assert 0 < waiting < 4 << 20


async def _never_sent(box: Outbox, boxes: list[Outbox]) -> None:
    boxes.append(box)
    await trio.sleep_forever()


async def test_who_does_not_share_gives_nothing(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    config = NodeConfig()
    private = replace(config, models=replace(config.models, share=False))
    async with Simulation(tmp_path, seed=6) as sim:
        await sim.start("p", model=model.folder, config=private, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        with watched(sim) as sent, pytest.raises(CocoonError) as caught:
            await client.node.pull("many")
    assert caught.value.code == "NO_SOURCE"
    assert not sent.pieces


async def test_a_single_model_that_is_not_shared(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    """Who is at it gets no more, and who comes later gets nothing, until it is shared again."""
    config = NodeConfig()
    slow = replace(config, models=replace(config.models, upload_megabytes_per_second=0.01))
    async with Simulation(tmp_path, seed=12) as sim:
        holder = await sim.start("p", model=model.folder, config=slow, at="/ip4/8.8.8.8/tcp/1")
        other = noise_model(tmp_path / "other", [400], offer=Offer("other"))
        give(other, holder.home)
        registry = ModelRegistry(holder.home)
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        address = holder.node.addresses()[0]

        async def set_share(on: bool) -> None:
            registry.set_offer(model.model_id, replace(registry.get(model.model_id).offer, share=on))
            assert (await holder.node.share_model(model.model_id))["shared"] is on

        with watched(sim) as sent:
            await client.node.begin_pull(model.model_id, source=address)
            await trio.sleep(5)
            await set_share(False)
            before = len(sent.pieces)
            await trio.sleep(60)
            assert 0 < before < len(SIZES) and len(sent.pieces) <= before + 1
            assert client.node.pulls()[0]["error"]["code"] == "NO_SOURCE"
            await client.node.pull(other.model_id, source=address)
            await set_share(True)
            await client.node.pull(model.model_id, source=address)


async def test_a_holder_without_offers_is_found_in_the_dht(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    async with Simulation(tmp_path, seed=7) as sim:
        await sim.start("boot", at="/ip4/8.8.8.8/tcp/1")
        keeper = await sim.start("k", at="/ip4/8.8.4.4/tcp/1")
        give(model, keeper.home)
        await sim.kill("k")
        await sim.start("k", at="/ip4/8.8.4.4/tcp/1")
        await trio.sleep(5)
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        assert (await client.node.pull(model.model_id)).model_id == model.model_id


async def test_all_have_their_turn_at_a_holder_with_few_places(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    config = NodeConfig()
    few = replace(config, models=replace(config.models, uploads_max=1, upload_megabytes_per_second=0.2))
    alone = replace(config, models=replace(config.models, share=False))
    async with Simulation(tmp_path, seed=8) as sim:
        await sim.start("p", model=model.folder, config=few, at="/ip4/8.8.8.8/tcp/1")
        others = [await sim.start(f"c{i}", config=alone, at=f"/ip4/9.9.{i}.9/tcp/1") for i in range(3)]
        async with trio.open_nursery() as nursery:
            for one in others:
                nursery.start_soon(one.node.pull, model.model_id)
        for one in others:
            installed(one.home, model.model_id)


async def test_holders_that_die_and_one_that_stays(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    config = NodeConfig()
    slow = replace(config, models=replace(config.models, upload_megabytes_per_second=0.02))
    async with Simulation(tmp_path, seed=9) as sim:
        for number, name in enumerate("pqr"):
            await sim.start(name, model=model.folder, config=slow, at=f"/ip4/8.8.{number}.8/tcp/1")
        client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.node.pull, model.model_id)
            await trio.sleep(5)
            await sim.kill("q")
            await trio.sleep(5)
            sim.hub.freeze(sim.nodes["r"].node.peer_id)
        installed(client.home, model.model_id)


async def test_a_model_that_is_removed_is_not_given_any_more(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    config = NodeConfig()
    slow = replace(config, models=replace(config.models, download_megabytes_per_second=0.01))
    async with Simulation(tmp_path, seed=10) as sim:
        holder = await start_holder(sim, "p", model, at="/ip4/8.8.8.8/tcp/1")
        client = await sim.start("c", config=slow, at="/ip4/9.9.9.9/tcp/1")
        with watched(sim) as sent:
            async with trio.open_nursery() as nursery:

                async def pull() -> None:
                    with pytest.raises(CocoonError, match="nobody who has what is missing"):
                        await client.node.pull(model.model_id)

                nursery.start_soon(pull)
                await trio.sleep(5)
                assert sent.pieces
                ModelRegistry(holder.home).remove(model.model_id)
        assert holder.node._parts.moves.server.sent_bytes < model.manifest.size


async def test_the_same_seed_gives_the_same_pull(
    tmp_path: Path, model: InstalledModel, autojump_clock: MockClock
) -> None:
    runs = []
    for attempt in ("a", "b"):
        async with Simulation(tmp_path / attempt, seed=11, latency_s=0.01) as sim:
            for number, name in enumerate("pq"):
                await start_holder(sim, name, model, at=f"/ip4/8.8.{number}.8/tcp/1")
            client = await sim.start("c", at="/ip4/9.9.9.9/tcp/1")
            with watched(sim) as sent:
                await client.node.pull(model.model_id)
        runs.append(sent.pieces)
    assert runs[0] == runs[1]
