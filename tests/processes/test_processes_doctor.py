"""`cocoon-node doctor` on real nodes: well ones, and ones that ail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper
from towns import NODE_TOML, Ended, NodeProcess, Town, eventually, explained

from cocoon_p2p.testing import models

pytestmark = [pytest.mark.processes, pytest.mark.slow]

DEAR = NODE_TOML + "[provider]\nprice_base = 1_000_000\n"


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A bootstrap node and two providers of one model; one of them is dear, and has one more model."""
    folder = tmp_path_factory.mktemp("doctor")
    matmul, letters = str(models.matmul_model(folder)), str(models.embedding_model(folder / "letters"))
    with Town(folder / "town") as town:
        town.environment["TMPDIR"] = str(folder)
        bootstrap = town.start("bootstrap")
        town.home("dear", toml=DEAR)
        cheap = town.launch("cheap", "--model", matmul, bootstrap=[bootstrap.address])
        dear = town.launch("dear", "--model", matmul, "--model", letters, bootstrap=[bootstrap.address])
        cheap.wait_ready()
        dear.wait_ready()
        for each in (cheap, dear):
            eventually(lambda each=each: each.offers("matmul"), "each knows of the other")
            eventually(lambda each=each: knows_announcement(each), "the bootstrap node heard of it")
        yield town


def knows_announcement(node: NodeProcess) -> bool:
    return any(row["knows"] for row in node.api.get("/v1/heard")["peers"])


def checks_of(ended: Ended, *, status: int) -> dict[str, dict[str, Any]]:
    """By name, of a doctor with --json."""
    assert (ended.status, ended.err) == (status, ""), ended
    answer = Ended(0, ended.out, ended.err, ended.seconds).json
    checks = answer["checks"]
    assert answer["failed"] == sum(check["state"] == "fail" for check in checks)
    assert answer["warned"] == sum(check["state"] == "warn" for check in checks)
    return {check["name"]: check for check in checks}


def states(checks: dict[str, dict[str, Any]], *wanted: str) -> dict[str, str]:
    return {name: check["state"] for name, check in checks.items() if check["state"] in wanted}


def test_a_healthy_provider(town: Town) -> None:
    cheap = town.nodes["cheap"]
    jobs = len(cheap.jobs())
    checks = checks_of(town.cli("doctor", "--json", home=cheap.home), status=0)
    assert states(checks, "warn", "fail", "skip") == {"reachability": "warn"}, checks  # on loopback
    assert "by others" in checks["stranger"]["seen"]
    assert "agrees with" in checks["clock"]["seen"]
    assert "signed by both" in checks["purchase matmul"]["seen"]
    assert "own engine says" in checks["purchase matmul"]["seen"]
    assert "1 other: " in checks["price matmul"]["seen"]
    assert "test money" in checks["money"]["seen"]
    assert len(cheap.jobs()) == jobs + 1
    assert not list(Path(town.environment["TMPDIR"]).glob("cocoon-doctor-*")), "the stranger left something"


def test_who_is_dear_is_told_in_words(town: Town) -> None:
    shown = town.cli("doctor", home=town.nodes["dear"].home)
    assert (shown.status, shown.err) == (0, "")
    assert "\x1b" not in shown.out
    lines = shown.out.splitlines()
    assert {line.split(" ", 1)[0] for line in lines if line[0] != " "} == {"pass", "warn", lines[-1].split()[0]}
    text = " ".join(shown.out.split())
    assert "warn price matmul: 0.00101 GRAM" in text
    assert "who looks for the cheapest never comes to you" in text
    assert f"cocoon-node offers matmul --home {town.nodes['dear'].home}" in text
    assert "pass purchase letters: " in text
    assert "2 warned, 0 failed" in lines[-1]


def test_who_serves_nobody_and_buys_nothing(town: Town) -> None:
    checks = checks_of(town.cli("doctor", "--json", "--no-canary", home=town.nodes["bootstrap"].home), status=0)
    assert set(states(checks, "skip")) == {"announcement", "directory", "models", "idle rules"}
    jobs = len(town.nodes["cheap"].jobs())
    checks = checks_of(town.cli("doctor", "--json", "--no-canary", home=town.nodes["cheap"].home), status=0)
    assert "--no-canary" in checks["purchase matmul"]["seen"]
    assert len(town.nodes["cheap"].jobs()) == jobs


def test_time_is_bounded(town: Town) -> None:
    checks = checks_of(town.cli("doctor", "--json", "--timeout", "0.01", home=town.nodes["cheap"].home), status=1)
    assert checks["money"]["seen"] == "not looked at: 0.01 s are over"
    assert "--timeout" in explained(town.cli("doctor", "--timeout", "0", home=town.nodes["cheap"].home), 2)


def test_without_a_node(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        assert "cocoon-node up" in explained(town.cli("doctor", home=town.home("one")), 2)


def random_model(folder: Path) -> Path:
    """y = x + noise, another one in every run."""
    graph = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])],
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    (folder / "random.onnx").write_bytes(model.SerializeToString())
    return folder / "random.onnx"


def test_answers_that_nobody_can_rely_on_alone_in_a_private_network(tmp_path: Path) -> None:
    """The stranger is let in by the network's key, and by the node itself as there is nobody else."""
    with Town(tmp_path) as town:
        assert town.cli("network", "create", "--name", "office", home=town.home("alone")).status == 0
        alone = town.start("alone", "--model", str(random_model(tmp_path / "models")))
        (alone.home / "channel.pem").chmod(0o644)
        checks = checks_of(town.cli("doctor", "--json", home=alone.home), status=1)
        assert set(states(checks, "fail")) == {"home", "model random"}, checks
        assert "from run to run" in checks["model random"]["seen"]
        assert "nothing to compare it with" in checks["purchase random"]["seen"]
        assert checks["home"]["advice"] == f"chmod go= {alone.home}/channel.pem"
        assert {"clock", "announcement", "directory", "purchase random"} == set(states(checks, "skip"))
        assert "network of one" in checks["connections"]["seen"]


def test_a_node_that_rests_and_has_lost_its_network(tmp_path: Path) -> None:
    later = datetime.now() + timedelta(hours=3)
    hours = f'[idle]\nhours = ["{later:%H:%M}-{later + timedelta(minutes=1):%H:%M}"]\n'
    with Town(tmp_path) as town:
        bootstrap = town.start("bootstrap")
        town.home("resting", toml=NODE_TOML + hours)
        matmul = models.matmul_model(tmp_path / "models")
        resting = town.start("resting", "--model", str(matmul), bootstrap=[bootstrap.address])
        bootstrap.kill()
        eventually(lambda: not resting.status()["peers"], "the loss is noticed")
        checks = checks_of(town.cli("doctor", "--json", home=resting.home), status=1)
        assert states(checks, "fail") == {"connections": "fail"}, checks
        assert "1 of 1 bootstrap nodes not connected" in checks["connections"]["seen"]
        assert "by this node only" in checks["stranger"]["seen"]
        assert "outside its hours" in checks["idle rules"]["seen"]
        assert "rests" in checks["purchase matmul"]["seen"]
        assert "price matmul" not in checks


def test_ctrl_c_takes_the_stranger_along(town: Town, tmp_path: Path) -> None:
    town.environment["TMPDIR"] = str(tmp_path)
    running = town.cli_started("doctor", home=town.nodes["cheap"].home)
    assert running.process.stdout is not None
    assert running.process.stdout.readline().startswith("pass  home")
    eventually(lambda: list(tmp_path.glob("cocoon-doctor-*")), "the stranger is being made")
    os.kill(running.process.pid, 15)
    ended = running.wait()
    assert ended.status == 130, ended
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("cocoon-doctor-*"))
