"""Every command as people call it: exit status, what is on stdout and what on stderr, and the effect."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from towns import ANYWHERE, NODE_TOML, Town, explained

from cocoon_p2p.cli.parser import PROGRAM
from cocoon_p2p.testing import models

pytestmark = pytest.mark.processes


def onnx_outputs(file: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime itself says."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def npy(folder: Path, **arrays: object) -> list[str]:
    """--input options for arrays, each written to a file."""
    options = []
    for name, array in arrays.items():
        file = folder / f"{name}-in.npy"
        np.save(file, np.asarray(array))
        options += ["--input", f"{name}={file}"]
    return options


# --- homes and models ---


def test_init_makes_keys_once(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        home = tmp_path / "new" / "home"
        first = town.cli("init", "--json", home=home)
        again = town.cli("init", "--json", home=home)
        shown = town.cli("init", home=home)
    assert first.json["peer_id"].startswith("12D3KooW")
    assert {Path(file).name for file in first.json["made"]} == {"identity.pem", "channel.pem", "node.toml"}
    assert again.json == {**first.json, "made": []}
    assert (shown.status, first.json["peer_id"] in shown.out) == (0, True)
    assert "nothing was changed" in shown.err
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in ("identity.pem", "channel.pem"):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    settings = [line for line in (home / "node.toml").read_text().splitlines() if " = " in line and line[0] != "#"]
    explained_before = (home / "node.toml").read_text().splitlines()
    for line in settings:
        assert explained_before[explained_before.index(line) - 1].startswith("# "), f"not explained: {line}"
    assert len(settings) > 20


def test_models_add_list_show_remove(tmp_path: Path) -> None:
    file = models.two_in_two_out_model(tmp_path)
    with Town(tmp_path / "town") as town:
        home = town.home("shop")
        added = town.cli("models", "add", str(file), "--name", "sums", "--price-per-item", "77", "--json", home=home)
        listed = town.cli("models", "list", "--json", home=home)
        shown = town.cli("models", "show", "sums", home=home)
        by_id = town.cli("models", "show", added.json["model_id"], "--json", home=home)
        wrong = town.cli("models", "show", "sumz", home=home)
        removed = town.cli("models", "remove", "sums", "--json", home=home)
        empty = town.cli("models", "list", "--json", home=home)
    row = added.json
    assert (row["name"], row["price_per_item"], row["price_base"]) == ("sums", 77, None)
    assert [spec["name"] for spec in row["inputs"]] == ["a", "b"]
    assert [spec["name"] for spec in row["outputs"]] == ["sum", "difference"]
    assert listed.json == {
        "models": [{**row, "offered": False, "loaded": False, "device": None, "jobs_served": 0}],
        "unfinished": [],
    }
    assert by_id.json == row
    assert shown.status == 0
    assert "a float32[?,?]" in shown.out
    assert "test money" in shown.out
    assert "there is no model 'sumz'" in explained(wrong, 1)
    assert "hint: there is sums" in wrong.err
    assert removed.json == {"removed": row["model_id"], "name": "sums"}
    assert empty.json == {"models": [], "unfinished": []}


def test_a_model_added_to_a_running_node_is_offered_at_once(market_town: Town, tmp_path: Path) -> None:
    provider, client = market_town.nodes["provider"], market_town.nodes["client"]
    file = models.centring_model(tmp_path)
    added = market_town.cli(
        "models", "add", str(file), "--name", "late", "--price-base", "5", "--price-per-item", "2", home=provider.home
    )
    assert (added.status, "offers it now" in added.err) == (0, True), added.err
    (offer,) = market_town.cli("offers", "late", "--json", home=client.home).json["offers"]
    assert (offer["peer_id"], *offer["prices"]["sealed"].values()) == (provider.peer_id, 5, 2)
    x = np.array([[1, 2], [5, 4]], np.float32)
    result, outputs = client.run("late", {"x": x})
    assert outputs["y"].tolist() == [[-2, -1], [2, 1]]
    assert result["price_nanogram"] == 9
    rows = market_town.cli("models", "list", "--json", home=provider.home).json["models"]
    late = next(row for row in rows if row["name"] == "late")
    assert (late["offered"], late["loaded"], late["device"], late["jobs_served"]) == (True, True, "cpu", 1)
    removed = market_town.cli("models", "remove", "late", home=provider.home)
    assert (removed.status, "offers it no more" in removed.err) == (0, True), removed.err
    assert "late" not in {row["name"] for row in provider.status()["models"]}


# --- looking around ---


def test_ready_is_one_line_on_stdout(market_town: Town) -> None:
    for node in market_town.nodes.values():
        assert set(json.loads(node.out.text)) == {"event", "peer_id", "addresses"}
        assert all(a.startswith("/ip4/127.0.0.1/tcp/") and a.endswith(f"/p2p/{node.peer_id}") for a in node.addresses)


def test_up_without_json_says_how_to_join(tmp_path: Path) -> None:
    with Town(tmp_path) as town:
        node = town.launch("plain", json=False)
        joining = node.out.wait_for(r"others join\s+cocoon-node up --bootstrap /ip4/127\.0\.0\.1/tcp/\d+/p2p/12D3KooW")
        assert joining, node.out.text + node.err.text
        assert "test money, no value" in node.out.text


def test_status_peers_offers(market_town: Town) -> None:
    provider, client, bootstrap = (market_town.nodes[name] for name in ("provider", "client", "bootstrap"))
    status = market_town.cli("status", "--json", home=provider.home).json
    assert (status["peer_id"], status["settlement_network"]) == (provider.peer_id, 0)
    assert status["addresses"] == provider.addresses
    served = {model["name"]: model for model in status["models"]}
    assert {"matmul", "two", "slow", "letters"} <= set(served)
    assert served["letters"]["takes_text"]
    assert (served["matmul"]["device"], served["matmul"]["loaded"]) == ("cpu", True)
    assert served["matmul"]["device_reason"]

    offers = market_town.cli("offers", "--json", home=client.home).json["offers"]
    assert {"matmul", "two", "slow", "letters"} <= {offer["name"] for offer in offers}
    assert {offer["peer_id"] for offer in offers} == {provider.peer_id}
    two = market_town.cli("offers", "two", "--json", home=client.home).json
    (one,) = two["offers"]
    same = {"base_nanogram": 100_000, "per_unit_nanogram": 10_000}
    assert one["prices"] == {"open": same, "sealed": same}
    assert [(line["tier"], line["providers"], line["best_nanogram"]) for line in two["book"]] == [
        ("sealed", 1, 110_000), ("open", 1, 110_000),
    ]  # fmt: skip
    client.run("matmul", {"x": np.ones((1, 4), np.float32)})  # which connects the two
    peers = market_town.cli("peers", "--json", home=client.home).json["peers"]
    assert {provider.peer_id, bootstrap.peer_id} <= {peer["peer_id"] for peer in peers}

    for command in ("status", "peers", "offers"):
        shown = market_town.cli(command, home=client.home)
        assert shown.status == 0, shown.err
        assert len(shown.out.splitlines()) >= 2


# --- run ---


def test_run_writes_what_onnx_runtime_says(market_town: Town, model_files: dict[str, Path], tmp_path: Path) -> None:
    """Several inputs and outputs, dynamic axes, and a price for the rows."""
    client = market_town.nodes["client"]
    rng = np.random.default_rng(3)
    inputs = {name: rng.standard_normal((3, 5), np.float32) for name in ("a", "b")}
    out = tmp_path / "new" / "out"
    run = market_town.cli("run", "two", *npy(tmp_path, **inputs), "--output", str(out), "--json", home=client.home)
    result = run.json
    assert result["price_nanogram"] == 100_000 + 3 * 10_000
    assert result["provider"] == market_town.nodes["provider"].peer_id
    assert result["receipt"]["client_signature"]
    legs = {leg: ms for leg, ms in result["timeline_ms"].items() if leg != "total"}
    assert list(legs) == ["discover", "quote", "seal", "queue", "execute", "return", "receipt"]
    assert all(ms >= 0 for ms in legs.values()), legs
    expected = onnx_outputs(model_files["two"], inputs)
    assert set(expected) == set(result["outputs"]) == {"sum", "difference"}
    for name, array in expected.items():
        written = np.load(out / f"{name}.npy")
        assert written.dtype == array.dtype
        assert np.array_equal(written, array)
        assert result["outputs"][name] == {"dtype": "float32", "shape": [3, 5], "file": str(out / f"{name}.npy")}


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        ("copy-float16", {"x": np.array([1.5, -2, 65504, np.inf], np.float16)}),
        ("copy-bool", {"x": np.array([[True, False], [False, True], [True, True]])}),
        ("copy-string", {"x": np.array(["eins", "", "Zürich"])}),
        ("slow", {"turns": np.array(3)}),
        ("matmul", {"x": np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::-1]}),
    ],
    ids=["float16", "bool", "string", "int64 scalar", "strided"],
)
def test_dtypes_and_shapes(
    market_town: Town, model_files: dict[str, Path], tmp_path: Path, model: str, inputs: dict[str, np.ndarray]
) -> None:
    home = market_town.nodes["client"].home
    run = market_town.cli("run", model, *npy(tmp_path, **inputs), "--output", str(tmp_path / "out"), home=home)
    assert run.status == 0, run.err
    assert "test money, no value" in run.out
    given = {name: np.asarray(array, object) if model == "copy-string" else array for name, array in inputs.items()}
    for name, array in onnx_outputs(model_files[model], given).items():
        written = np.load(tmp_path / "out" / f"{name}.npy")
        assert written.shape == array.shape
        assert written.tolist() == array.tolist()
        assert written.dtype == array.dtype or model == "copy-string"


def test_run_with_texts(market_town: Town, tmp_path: Path) -> None:
    home = market_town.nodes["client"].home
    run = market_town.cli("run", "letters", "--text", "a", "--text", "b c d", "--output", str(tmp_path), home=home)
    assert run.status == 0, run.err
    assert np.load(tmp_path / "sentence_embedding.npy").tolist() == [[2, 1], [12, 3]]
    assert str(tmp_path / "sentence_embedding.npy") in run.out


@pytest.mark.parametrize("tier", ["sealed", "open"])
def test_tier_provider_and_price_options(market_town: Town, tmp_path: Path, tier: str) -> None:
    provider, client = market_town.nodes["provider"], market_town.nodes["client"]
    x = npy(tmp_path, x=np.ones((2, 4), np.float32))
    options = ["--tier", tier, "--provider", provider.peer_id, "--max-price", "120000", "--timeout", "20"]
    result = market_town.cli("run", "matmul", *x, *options, "--json", home=client.home).json
    assert result["price_nanogram"] == 120_000
    for node, role in ((client, "client"), (provider, "provider")):
        job = next(row for row in node.jobs() if row["job_id"] == result["job_id"])
        assert (job["role"], job["tier"], job["state"]) == (role, tier, "done")


@pytest.mark.slow
def test_jobs_receipts_wallet(market_town: Town, tmp_path: Path) -> None:
    provider, client = market_town.nodes["provider"], market_town.nodes["client"]
    before = {node: market_town.cli("wallet", "--json", home=node.home).json for node in (provider, client)}
    result, _ = client.run("matmul", {"x": np.ones((1, 4), np.float32)})
    after = {node: market_town.cli("wallet", "--json", home=node.home).json for node in (provider, client)}
    assert after[client]["spent_nanogram"] - before[client]["spent_nanogram"] == 110_000
    assert after[provider]["earned_nanogram"] - before[provider]["earned_nanogram"] == 110_000
    assert after[client]["test_money"] is True
    bodies = set()
    for node, role in ((client, "client"), (provider, "provider")):
        jobs = market_town.cli("jobs", "--limit", "1", "--json", home=node.home).json["jobs"]
        assert [(job["job_id"], job["role"], job["state"]) for job in jobs] == [(result["job_id"], role, "done")]
        (receipt,) = market_town.cli("receipts", "--limit", "1", "--json", home=node.home).json["receipts"]
        assert (receipt["job_id"], receipt["price_nanogram"]) == (result["job_id"], 110_000)
        bodies.add((receipt["body"], receipt["provider_signature"], receipt["client_signature"]))
    assert len(bodies) == 1, "both sides keep the same bytes with both signatures"
    for command, words in (("jobs", "done"), ("receipts", "both"), ("wallet", "test money, no value")):
        shown = market_town.cli(command, home=client.home)
        assert (shown.status, words in shown.out) == (0, True), shown


# --- without a running node ---


@pytest.mark.slow
def test_run_and_offers_as_a_guest(market_town: Town, tmp_path: Path) -> None:
    bootstrap, provider = market_town.nodes["bootstrap"], market_town.nodes["provider"]
    home = market_town.root / "guest"
    join = ["--bootstrap", bootstrap.address]
    offers = market_town.cli("offers", *join, "--json", home=home)
    assert {offer["peer_id"] for offer in offers.json["offers"]} == {provider.peer_id}
    assert "joining the network" in offers.err
    run = market_town.cli("run", "letters", "--text", "d d", *join, "--output", str(tmp_path), "--json", home=home)
    assert np.load(tmp_path / "sentence_embedding.npy").tolist() == [[10, 2]]
    (job,) = market_town.cli("jobs", "--json", home=home).json["jobs"]  # from the disk: no node runs there
    assert (job["job_id"], job["state"]) == (run.json["job_id"], "done")
    (receipt,) = market_town.cli("receipts", "--json", home=home).json["receipts"]
    assert receipt == run.json["receipt"] | {"model_name": "letters"}
    assert market_town.cli("wallet", "--json", home=home).json["spent_nanogram"] == job["price_nanogram"]
    assert not (home / "api.sock").exists()


@pytest.mark.parametrize(
    "command", [["status"], ["peers"], ["offers"], ["run", "letters", "--text", "a"]], ids=" ".join
)
def test_what_needs_a_node_says_so(market_town: Town, command: list[str]) -> None:
    home = market_town.home("nobody", toml=NODE_TOML)
    assert "no node runs on" in explained(market_town.cli(*command, home=home), 2)


# --- the configurations that are shipped ---


@pytest.mark.slow
def test_the_shipped_configurations_start_as_they_are(tmp_path: Path, model_files: dict[str, Path]) -> None:
    folder = Path(__file__).parents[2] / "nodes"
    with Town(tmp_path) as town:
        homes = {name: town.root / name for name in ("bootstrap", "provider", "client")}
        for name, home in homes.items():
            home.mkdir(mode=0o700)
            assert not (home / "node.toml").exists(), name
        here = ["--listen", ANYWHERE]

        def config(name: str) -> list[str]:
            return ["--config", str(folder / name / "node.toml")]

        bootstrap = town.start("bootstrap", *config("bootstrap"), *here)
        join = [bootstrap.address]
        provider = town.launch(
            "provider", *config("provider"), *here, "--model", str(model_files["matmul"]), bootstrap=join
        )
        client = town.launch("client", *config("client"), bootstrap=join)
        provider.wait_ready()
        assert client.wait_ready().addresses == []
        result, outputs = client.run("matmul", {"x": np.ones((1, 4), np.float32)})
        assert outputs["y"].tolist() == [[18, 22, 26]]
        assert (result["provider"], result["price_nanogram"]) == (provider.peer_id, 110_000)
        assert bootstrap.status()["models"] == client.status()["models"] == []


def test_help_names_every_command(market_town: Town) -> None:
    shown = market_town.cli("--help")
    assert (shown.status, shown.err) == (0, "")
    for command in ("init", "up", "models", "run", "status", "peers", "offers", "jobs", "receipts", "wallet", "demo"):
        assert f" {command} " in shown.out, command
    assert market_town.cli().out == shown.out
    assert PROGRAM in shown.out
