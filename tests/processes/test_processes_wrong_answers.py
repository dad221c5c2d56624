"""A provider that runs other weights than it says, among honest ones, found by the commands that people use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from towns import Town

from cocoon_p2p.testing import models

pytestmark = [pytest.mark.processes, pytest.mark.slow]

X = np.float32([[1, 2, 3, 4]])
HONEST = X @ np.arange(12, dtype=np.float32).reshape(4, 3)


def put_in_other_weights(home: Path) -> None:
    """As somebody would who saves memory: the manifest stays, so the id does, too."""
    (file,) = home.glob("models/*/model.onnx")
    model = onnx.load(file)
    (weights,) = model.graph.initializer
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + np.float32(1), weights.name))
    file.write_bytes(model.SerializeToString(deterministic=True))


def dishonest(town: Town, folder: Path) -> None:
    """Processes that are started from now on run a program that does not look whether its models are what they say."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "from cocoon_p2p.models import layout\nlayout.verify_files = lambda folder, manifest: None\n"
    )
    town.environment["PYTHONPATH"] = str(folder)


def test_other_weights_are_found_out_outvoted_and_proven(tmp_path: Path) -> None:
    source = models.matmul_model(tmp_path)
    np.save(tmp_path / "x.npy", X)
    with Town(tmp_path / "town") as town:
        bootstrap = town.start("bootstrap")
        for name in ("liar", "honest-1", "honest-2", "client"):
            assert town.cli("models", "add", str(source), home=town.home(name)).status == 0
        put_in_other_weights(town.home("liar"))
        for name in ("honest-1", "honest-2"):
            town.launch(name, bootstrap=[bootstrap.address])
        honest = dict(town.environment)
        dishonest(town, tmp_path / "patch")
        town.launch("liar", bootstrap=[bootstrap.address])
        town.environment = honest
        providers = {name: town.nodes[name].wait_ready().peer_id for name in ("liar", "honest-1", "honest-2")}
        enter = ("--bootstrap", bootstrap.address)

        client = town.home("client")
        audit = town.cli("audit", "matmul", *enter, "--json", home=client)
        assert audit.status == 1, (audit.err, audit.out)
        rows = {row["provider"]: row for row in json.loads(audit.out)["audited"]}
        assert {name: rows[peer]["verdict"] for name, peer in providers.items()} == {
            "liar": "wrong",
            "honest-1": "right",
            "honest-2": "right",
        }
        (kept,) = town.cli("evidence", "list", "--json", home=client).json["evidence"]
        assert kept["provider"] == providers["liar"]
        assert kept["file"] == rows[providers["liar"]]["evidence"]

        stranger = town.home("stranger")  # neither the model nor any of the peers
        unknown = town.cli("evidence", "check", kept["file"], "--json", home=stranger)
        assert (unknown.status, json.loads(unknown.out)["verdict"]) == (1, "unknown")
        proven = town.cli("evidence", "check", kept["file"], "--model", str(source), home=stranger)
        assert proven.status == 0, proven.err
        assert "the answer is wrong" in proven.out

        job = ("run", "matmul", "--input", f"x={tmp_path / 'x.npy'}", "--output", str(tmp_path / "out"), *enter)
        quorum = town.cli(*job, "--quorum", "3", "--evidence", str(tmp_path / "shown"), "--json", home=stranger)
        said = quorum.json["agreement"]
        assert (said["answers"], said["agreed"]) == (3, 2)
        np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), HONEST)
        (file,) = (tmp_path / "shown").iterdir()
        assert town.cli("evidence", "check", str(file), home=client).status == 0
        assert not (stranger / "evidence").exists()
