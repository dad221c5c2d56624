"""Why a job went where it went, and why it did not: what is remembered, and dry runs. Virtual time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from test_sim_failover import start_all
from test_sim_jobs import X, autojump_clock, run

from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError, ConfigError, PeerRefused
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.limits import CONSIDERATION_BYTES_MAX
from cocoon_p2p.models.registry import ModelRegistry
from cocoon_p2p.node import RunRequest
from cocoon_p2p.sealing.signing import verify_signature
from cocoon_p2p.testing.simulation import Simulation
from cocoon_p2p.wire.job import REFUSAL_DOMAIN, decode_refusal_body

__all__ = ["autojump_clock"]


def wish_in(error: CocoonError) -> str:
    """The id in the hint."""
    return (error.hint or "").rpartition("cocoon-node why ")[2]


async def test_a_job_that_was_done(tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 5, execute_s=0.01)
        result = await run(client)
        row = client.node.why(result.job_id[:8])
        assert (row["chosen"], row["model"], row["tier"], row["error"]) == (result.provider, "echo", "sealed", None)
        assert row["providers"][0]["peer_id"] == result.provider, "the one that was taken stands first"
        answers = [entry["answer"] for entry in row["providers"]]
        assert answers.count("quote") >= 1
        assert len(answers) == 5
        fits = [entry for entry in row["providers"] if not entry["asked"]]
        assert all(entry["detail"] == "it fits; others were asked first" for entry in fits)
        await client.leave()
        client = await sim.start("client")
        assert client.node.why(result.job_id) == row, "that outlives a restart"


async def test_why_not(tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock) -> None:
    def config(**provider: object) -> NodeConfig:
        return replace(NodeConfig(), provider=replace(NodeConfig().provider, **provider))  # type: ignore[arg-type]

    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        open_only = await sim.start("open", model=echo_model, config=config(tiers=("open",)))
        small = await sim.start("small", model=echo_model, config=config(items_max=1))
        dear = await sim.start("dear", model=echo_model)
        client = await sim.start("client")
        await client.node.offers("echo")
        await trio.sleep(2)
        with pytest.raises(PeerRefused) as caught:
            await run(client, max_price=1000)
        row = client.node.why(wish_in(caught.value))
        said = {
            entry["peer_id"]: (entry["asked"], entry["reason"], entry["would_be_yes"]) for entry in row["providers"]
        }
        assert said == {
            open_only.node.peer_id: (False, "TIER", "needs tier ≤ open: --tier open"),
            small.node.peer_id: (False, "LIMITS", "takes up to 1: split the job"),
            dear.node.peer_id: (False, "PRICE", "runs at ≥ 1,020 nanogram: --max-price 1020"),
        }
        assert row["error"] == caught.value.message
        assert client.node.jobs() == []


async def test_a_dry_run_asks_everybody_and_runs_nothing(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    busy = replace(NodeConfig(), provider=replace(NodeConfig().provider, slots=1))
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        free = await sim.start("free", model=echo_model, execute_s=5)
        full = await sim.start("full", model=echo_model, execute_s=5, config=busy)
        gone = await sim.start("gone", model=echo_model)
        client, other = await sim.start("client"), await sim.start("other")
        for node in (client, other):
            await node.node.offers("echo")
        await trio.sleep(2)
        await sim.kill("gone")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: run(other, provider=full.node.peer_id))
            await trio.sleep(1)
            row = await client.node.consider(RunRequest("echo"), to_payload({"x": X}))
            assert (row["dry_run"], row["chosen"]) == (True, free.node.peer_id)
            said = {entry["peer_id"]: entry for entry in row["providers"]}
            assert said[free.node.peer_id]["price_nanogram"] == 1020
            assert (said[free.node.peer_id]["asked"], said[free.node.peer_id]["answer"]) == (True, "quote")
            refused = said[full.node.peer_id]
            assert (refused["answer"], refused["reason"]) == ("refusal", "BUSY")
            assert refused["would_be_yes"].startswith("free ")
            body, signature = (bytes.fromhex(refused["signed"][part]) for part in ("body", "signature"))
            assert verify_signature(full.node.peer_id, REFUSAL_DOMAIN, body, signature), "its own word"
            assert decode_refusal_body(body).job_id.hex() == row["job_id"]
            assert said[gone.node.peer_id]["answer"] == "error"
            assert client.node.why(row["job_id"]) == row
            dear = await client.node.consider(RunRequest("echo", max_price=1), to_payload({"x": X}))
            answers = {entry["peer_id"]: entry for entry in dear["providers"]}
            assert (dear["chosen"], answers[free.node.peer_id]["reason"]) == (None, "PRICE")
            assert answers[free.node.peer_id]["asked"], "those that do not fit are asked, too"
            assert answers[free.node.peer_id]["signed"]
        await trio.sleep(1)
        assert client.node.jobs() == []
        assert free.engine.jobs_done == 0
        assert (await client.node.wallet())["spent_nanogram"] == 0
        assert await_no_reservation(await client.node.wallet())


def await_no_reservation(wallet: dict[str, object]) -> bool:
    return wallet["channels"] == [] and wallet["available_nanogram"] == 10_000_000_000


async def test_what_is_remembered_is_bounded_and_found_by_its_beginning(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with Simulation(tmp_path, seed=1) as sim:
        client = await start_all(sim, echo_model, 1, execute_s=0.01)
        keeper = client.node._parts.buyer._considerations
        keeper._kept_max = 20
        ids = [(await run(client)).job_id for _ in range(25)]
        assert client.node.why(ids[-1])["job_id"] == ids[-1]
        keeper.write(all_of_them=True)
        for bad in ("", "xyz", "0" * 33, "ffffffffffff0"):
            with pytest.raises(ConfigError):
                client.node.why(bad)
        with pytest.raises(ConfigError, match="several jobs begin with"):
            digits = [job_id[0] for job_id in ids[-20:]]  # there are only sixteen
            client.node.why(max(digits, key=digits.count))
        assert len(json.dumps(client.node.why(ids[-1])).encode()) < CONSIDERATION_BYTES_MAX


async def test_what_to_ask_for_instead(
    tmp_path: Path, echo_model: Path, autojump_clock: trio.testing.MockClock
) -> None:
    provider = replace(NodeConfig().provider, tiers=("open",))
    async with Simulation(tmp_path, seed=1) as sim:
        await sim.start("bootstrap")
        await sim.start("first", model=echo_model, config=replace(NodeConfig(), provider=provider))
        client = await sim.start("client")
        with pytest.raises(PeerRefused) as caught:
            await run(client, tier="sealed")
        assert "it is offered in another tier: --tier open" in (caught.value.hint or "")
        shutil.copytree(echo_model.parent.parent, tmp_path / "renamed")
        registry = ModelRegistry(tmp_path / "renamed")
        (model,) = registry.list()
        renamed = registry.set_offer(model.model_id, replace(model.offer, name="parrot"))
        other = await sim.start("other", model=renamed.folder)
        assert len(await client.node.offers("parrot")) == 1
        with pytest.raises(CocoonError) as nobody:
            await run(client, provider=other.node.peer_id)
        assert f"{other.node.peer_id} offers this model, and calls it parrot, not echo" in nobody.value.message
