"""Providers that answer wrongly among honest ones: quorum, canary jobs, repetition, evidence.

`autojump_clock` must be an argument of each test itself: pytest-trio does not look for clocks behind other fixtures.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p import limits
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.drivers.evidence import read_evidence
from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.node import Node, RunRequest, RunResult
from cocoon_p2p.proto.evidence import check_evidence
from cocoon_p2p.tensors import Payload, Tensor
from cocoon_p2p.testing.simulation import Behaviour, RunningNode, Simulation
from cocoon_p2p.wire.evidence import EvidenceKind, SignedEvidence

X = np.arange(8, dtype=np.float32).reshape(2, 4)


def computing(change: Callable[[np.ndarray], np.ndarray]) -> Behaviour:
    """y = change(2 x)."""

    def behaviour(payload: Payload) -> Payload:
        (tensor,) = payload.tensors
        y = change(2 * np.frombuffer(tensor.data, np.float32).reshape(tensor.shape)).astype(np.float32)
        return Payload((Tensor("y", "float32", tensor.shape, y.tobytes()),))

    return behaviour


def noisy(seed: int) -> Behaviour:
    """Honest, on a machine whose additions come in another order."""
    rng = np.random.default_rng(seed)
    return computing(lambda y: y * (1 + rng.uniform(-1e-6, 1e-6, y.shape)))


honest = computing(lambda y: y)
lying = computing(lambda y: y + 1)


def lying_sometimes(share: float, seed: int) -> Behaviour:
    rng = random.Random(seed)

    def behaviour(payload: Payload) -> Payload:
        return lying(payload) if rng.random() < share else honest(payload)

    return behaviour


def failing(payload: Payload) -> Payload:
    raise ExecutionError("it fell over", code="MODEL", retryable=True)


@asynccontextmanager
async def market(
    folder: Path, model: Path, behaviours: dict[str, Behaviour], **client: Any
) -> AsyncIterator[tuple[Simulation, RunningNode]]:
    """A provider of each behaviour, and a client that knows of all of them."""
    config = NodeConfig()
    config = replace(config, client=replace(config.client, **client))
    async with Simulation(folder, seed=5) as sim:
        await sim.start("bootstrap")
        for name, behaviour in behaviours.items():
            await sim.start(name, model=model, behaviour=behaviour)
        buyer = await sim.start("client", config=config)
        await buyer.node.offers("echo")
        await trio.sleep(limits.DISCOVERY_INTERVAL_S)
        assert len(await buyer.node.offers("echo")) == len(behaviours)
        yield sim, buyer


async def run(client: RunningNode, **options: Any) -> RunResult:
    return await client.node.run_payload(RunRequest("echo", **options), to_payload({"x": X}))


def answer_of(result: RunResult) -> np.ndarray:
    (y,) = result.payload.tensors
    return np.frombuffer(y.data, np.float32).reshape(y.shape)


def peer(sim: Simulation, name: str) -> str:
    return sim.nodes[name].node.peer_id


def reliability(client: RunningNode, sim: Simulation, name: str) -> float:
    return client.node._parts.experience.reliability(sim.nodes[name].node.peer_id)


FIVE = {"liar": lying, **{f"honest-{n}": noisy(n) for n in range(4)}}


async def test_a_quorum_outvotes_a_liar_and_makes_evidence(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, FIVE) as (sim, client):
        result = await run(client, quorum=5)
        np.testing.assert_allclose(answer_of(result), 2 * X, rtol=1e-5)
        said = result.agreement
        assert said is not None
        assert (said["asked"], said["answers"], said["agreed"]) == (5, 5, 4)
        assert said["price_nanogram"] == 5 * 1020
        wrong = [each for each in said["providers"] if each["agrees"] is False]
        assert [each["provider"] for each in wrong] == [peer(sim, "liar")]
        assert wrong[0]["deviation"] == pytest.approx(1 / 15, rel=0.01)
        assert all(each["deviation"] < 1e-5 for each in said["providers"] if each["agrees"])
        (evidence,) = result.evidence
        signed = SignedEvidence.decode(evidence)
        assert check_evidence(signed).provider == peer(sim, "liar")
        assert signed.evidence.kind is EvidenceKind.QUORUM
        assert not (client.home / "evidence").exists(), "people's own inputs are not written to disk"
        await trio.sleep(1)
        assert (await client.node.wallet())["spent_nanogram"] == 5 * 1020
        assert reliability(client, sim, "liar") < 0.1
        assert min(reliability(client, sim, f"honest-{n}") for n in range(4)) > 0.5


async def test_evidence_convinces_a_third_node_by_its_own_run(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, FIVE) as (sim, client):
        (evidence,) = (await run(client, quorum=5)).evidence
        judge = sim.nodes["honest-0"].node
        found = await judge.check_evidence(evidence)
        assert found["verdict"] == "wrong"
        assert all(finding["holds"] for finding in found["findings"])
        bystander = sim.nodes["bootstrap"].node
        assert (await bystander.check_evidence(evidence))["verdict"] == "unknown"
        forged = bytearray(evidence)
        forged[-1] ^= 1
        assert (await judge.check_evidence(bytes(forged)))["verdict"] == "void"


async def test_colluding_liars_that_are_a_minority(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> None:
    behaviours = {"a": lying, "b": lying, **{f"honest-{n}": noisy(n) for n in range(3)}}
    async with market(tmp_path, echo_model, behaviours) as (sim, client):
        result = await run(client, quorum=5)
        np.testing.assert_allclose(answer_of(result), 2 * X, rtol=1e-5)
        assert len(result.evidence) == 2
        assert max(reliability(client, sim, name) for name in "ab") < 0.1


async def test_no_majority_says_who_said_what(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> None:
    behaviours = {str(n): computing(lambda y, n=n: y + 10 * n) for n in range(3)}  # type: ignore[misc]
    async with market(tmp_path, echo_model, behaviours) as (sim, client):
        with pytest.raises(CocoonError) as caught:
            await run(client, quorum=3)
        assert caught.value.code == "NO_QUORUM"
        assert all(peer(sim, name) in caught.value.message for name in behaviours)
        assert "--quorum 5" in (caught.value.hint or "")
        assert all(reliability(client, sim, name) >= 0.5 for name in behaviours), "nobody knows who lied"


async def test_too_few_providers_are_told_before_anybody_is_paid(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, {"a": honest, "b": honest}) as (_, client):
        with pytest.raises(CocoonError) as caught:
            await run(client, quorum=3)
        assert caught.value.code == "PROVIDERS"
        assert "only 2 providers" in caught.value.message
        await trio.sleep(1)
        assert (await client.node.wallet())["spent_nanogram"] == 0


async def test_who_fails_is_replaced(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> None:
    behaviours = {"a": honest, "b": honest, "c": honest, "broken-1": failing, "broken-2": failing}
    async with market(tmp_path, echo_model, behaviours) as (sim, client):
        result = await run(client, quorum=3)
        said = result.agreement
        assert said is not None
        assert (said["answers"], said["agreed"]) == (3, 3)
        assert result.evidence == ()
        await run(client)
        everybody = {each["provider"] for each in said["providers"]}
        everywhere = [client.node.why(result.job_id)]
        await client.leave()
        restarted = await sim.start("client")
        everywhere.append(restarted.node.why(result.job_id))
        for row in everywhere:  # from memory, and from the disk after a restart
            assert row["chosen"] == result.provider
            assert {
                entry["peer_id"] for leg in row["legs"] for entry in leg["providers"] if entry["asked"]
            } == everybody
            assert len({leg["job_id"] for leg in row["legs"]}) == len(row["legs"]) == len(said["providers"])
            assert restarted.node.why(row["legs"][-1]["job_id"])["legs"] == row["legs"]


async def test_canaries_find_the_liar_by_our_own_run(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, FIVE) as (sim, _):
        judge = sim.nodes["honest-0"].node
        rows = await judge.audit("echo", count=2)
        by_peer: dict[str, set[str]] = {}
        for row in rows:
            by_peer.setdefault(row["provider"], set()).add(row["verdict"])
        others = {peer(sim, name) for name in FIVE} - {judge.peer_id}
        assert by_peer == {each: {"wrong"} if each == peer(sim, "liar") else {"right"} for each in others}
        assert all(row["price_nanogram"] >= 1000 for row in rows)
        kept = judge.evidence_list()
        assert {row["provider"] for row in kept} == {peer(sim, "liar")}
        assert {row["kind"] for row in kept} == {"own_run"}
        files = {row["evidence"] for row in rows if row["evidence"]}
        assert files == {row["file"] for row in kept}
        for file in files:
            evidence = read_evidence(Path(file)).encode()
            assert (await sim.nodes["honest-1"].node.check_evidence(evidence))["verdict"] == "wrong"
            assert judge.evidence(Path(file).stem) == evidence


async def test_canaries_find_the_liar_by_what_most_say(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, FIVE) as (sim, client):
        rows = await client.node.audit("echo", [peer(sim, "liar")])
        assert len(rows) == 3, "two others are paid, too, to know the answer by"
        verdicts = {row["provider"]: row["verdict"] for row in rows}
        assert verdicts.pop(peer(sim, "liar")) == "wrong"
        assert set(verdicts.values()) == {"right"}


async def test_a_provider_cannot_tell_a_canary_from_a_job(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    seen: list[tuple[str, ...]] = []

    def looking(payload: Payload) -> Payload:
        seen.append(tuple(tensor.name for tensor in payload.tensors) + payload.wanted)
        return honest(payload)

    async with market(tmp_path, echo_model, {"a": looking, "b": honest}) as (sim, _):
        judge, audited = sim.nodes["b"].node, sim.nodes["a"]
        await judge.run_payload(RunRequest("echo", provider=peer(sim, "a")), to_payload({"x": X}))
        for _ in range(8):
            await judge.audit("echo", [peer(sim, "a")])
        await trio.sleep(1)
        assert len(set(seen)) == 1
        rows = audited.node.jobs()
        assert len(rows) == 9
        own = {"job_id", "created_at_ms", "finished_at_ms", "items", "price_nanogram"}
        assert len({tuple(sorted((k, str(v)) for k, v in row.items() if k not in own)) for row in rows}) == 1
        assert len({row["items"] for row in rows}) > 3


async def test_a_model_that_rolls_dice_convicts_nobody(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    rng = np.random.default_rng(3)
    dice = computing(lambda y: rng.uniform(-1, 1, y.shape))
    async with market(tmp_path, echo_model, {"a": dice, "b": dice, "c": dice}) as (sim, client):
        with pytest.raises(CocoonError) as caught:
            await sim.nodes["a"].node.audit("echo")
        assert caught.value.code == "RANDOM"
        assert {row["verdict"] for row in await client.node.audit("echo")} == {"unknown"}
        assert min(reliability(client, sim, name) for name in "abc") >= 0.5


async def test_one_or_two_strangers_cannot_be_judged(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    async with market(tmp_path, echo_model, {"a": honest, "b": lying}) as (_, client):
        with pytest.raises(CocoonError) as caught:
            await client.node.audit("echo")
        assert caught.value.code == "PROVIDERS"


async def test_who_lies_in_one_job_of_ten_is_found_and_gets_no_more(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    behaviours = {"sometimes": lying_sometimes(0.1, 7), **{f"honest-{n}": noisy(n) for n in range(4)}}
    async with market(tmp_path, echo_model, behaviours) as (sim, _):
        judge = sim.nodes["honest-0"]
        rounds = 0
        verdict = "right"
        while verdict == "right" and rounds < 60:
            (verdict,) = [row["verdict"] for row in await judge.node.audit("echo", [peer(sim, "sometimes")])]
            rounds += 1
        assert verdict == "wrong"
        assert rounds > 1, "right at first"
        assert reliability(judge, sim, "sometimes") < 0.05, "however often it was right before"
        chosen = [(await run(judge)).provider for _ in range(20)]
        assert chosen.count(peer(sim, "sometimes")) <= 1


async def test_a_share_of_our_jobs_is_repeated_and_a_third_decides(
    tmp_path: Path, echo_model: Path, autojump_clock: MockClock
) -> None:
    behaviours = {"liar": lying, **{f"honest-{n}": noisy(n) for n in range(3)}}
    async with market(tmp_path, echo_model, behaviours, audit_percent=100.0) as (sim, client):
        result = await run(client, provider=peer(sim, "liar"))
        assert not np.allclose(answer_of(result), 2 * X)
        repeater = client.node._parts.checks.repeater
        await trio.sleep(20)
        assert (repeater.repeated, repeater.differed) == (1, 1)
        assert reliability(client, sim, "liar") < 0.2
        (held,) = client.node.evidence_list()
        assert (held["provider"], held["file"]) == (peer(sim, "liar"), None)
        assert client.node.evidence(result.job_id) is not None
        assert not (client.home / "evidence").exists()
        await run(client, provider=peer(sim, "honest-0"))
        await trio.sleep(20)
        assert (repeater.repeated, repeater.differed) == (2, 1)
        assert client.node.status()["audits"] == {"percent": 100.0, "repeated": 2, "differed": 1}


async def test_no_share_no_repetition(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path, echo_model, {"a": honest, "b": honest}) as (_, client):
        await run(client)
        await trio.sleep(20)
        assert client.node._parts.checks.repeater.repeated == 0
        assert client.node.status()["audits"] is None
        assert (await client.node.wallet())["spent_nanogram"] == 1020


async def test_a_verdict_survives_a_restart(tmp_path: Path, echo_model: Path, autojump_clock: MockClock) -> None:
    async with market(tmp_path, echo_model, FIVE) as (sim, client):
        await run(client, quorum=5)
        before = reliability(client, sim, "liar")
        await sim.kill("client")
        again: Node = (await sim.start("client")).node
        assert again._parts.experience.reliability(sim.nodes["liar"].node.peer_id) == pytest.approx(before, abs=0.01)
