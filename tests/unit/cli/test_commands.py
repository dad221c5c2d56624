"""Whole commands that need no network: exit status, stdout, stderr, and files on the disk."""

from __future__ import annotations

import errno
import json
import sys
import types
from pathlib import Path

import pytest
import trio

from cocoon_p2p.cli import main
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.settlement.local import open_local_settlement
from cocoon_p2p.store import JobRecord, ReceiptRecord, open_store
from cocoon_p2p.testing import hostile_models

PEER = PeerId("12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N")
MODEL = ModelId("cd" * 32)
JOB = JobId(b"\xab" * 16)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("COCOON_PASSPHRASE", "COCOON_PASSPHRASE_FILE", "COCOON_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path / "home"


def lines(text: str) -> list[str]:
    return text.splitlines()


def test_init(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["home"] == str(home)
    assert first["encrypted"] is False
    assert {Path(file).name for file in first["made"]} == {"identity.pem", "channel.pem", "node.toml"}
    assert main(["init"]) == 0
    out, err = capsys.readouterr()
    assert first["peer_id"] in out
    assert "nothing was changed" in err


def test_init_with_a_key_that_others_can_read(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Home(home).init()
    (home / "identity.pem").chmod(0o644)
    assert main(["init"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert lines(err)[1] == f"cocoon-node: hint: chmod 600 {home / 'identity.pem'}"


@pytest.mark.parametrize("command", ["status", "peers", "invite"])
def test_commands_for_a_running_node(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    assert main([command]) == 2
    assert lines(capsys.readouterr().err) == [
        f"cocoon-node: error: no node runs on {home}",
        "cocoon-node: hint: start it: cocoon-node up",
    ]
    mistyped = f"{home}x"
    assert main([command, "--home", mistyped]) == 2
    error, hint = lines(capsys.readouterr().err)
    assert error == f"cocoon-node: error: there is no home folder {mistyped}"
    assert "check --home" in hint


def test_a_newcomer_without_a_home_is_told_to_start_a_node(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COCOON_HOME")
    monkeypatch.setenv("HOME", str(home.parent))
    assert main(["status"]) == 2
    assert lines(capsys.readouterr().err)[1] == "cocoon-node: hint: start it: cocoon-node up"


@pytest.mark.parametrize("words", [["offers"], ["run", "m", "--text", "a"]])
def test_without_a_node_a_bootstrap_is_needed(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    other = home.parent / "other"
    assert main([*words, "--home", str(other)]) == 2
    err = capsys.readouterr().err
    assert "no address is known to enter the network by" in err
    assert f"cocoon-node up --home {other}; or give --bootstrap" in err


def test_run_looks_at_its_files_before_anything_else(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "file").write_text("")
    assert main(["run", "m", "--text", "a", "--output", str(home / "file")]) == 2
    assert "is a file; the name of a folder is needed" in capsys.readouterr().err
    assert main(["run", "m", "--input", f"x={home / 'nowhere.npy'}"]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["file/below", "x" * 300])
def test_run_makes_its_folder_before_anything_is_paid(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    home.mkdir()
    (home / "file").write_text("")
    assert main(["run", "m", "--text", "a", "--output", str(home / name)]) == 2
    error, _ = lines(capsys.readouterr().err)
    assert error.startswith("cocoon-node: error: cannot write to the folder")


@pytest.mark.parametrize("path", ["x" * 256, "missing/" + "x" * 256, "a/" * 2000, "~nobody-of-that-name/x"])
@pytest.mark.parametrize(
    "words",
    [["init"], ["up"], ["status"], ["jobs"], ["wallet"], ["offers"], ["models"], ["models", "add", "m"], ["models", "show", "m"],
     ["run", "m", "--text", "a"]],
)  # fmt: skip
def test_a_home_that_cannot_be(home: Path, path: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    place = path if path.startswith("~") else str(home.parent / path)
    assert main([*words, "--home", place]) == 2
    error, hint = lines(capsys.readouterr().err)
    assert error.startswith("cocoon-node: error: cannot use the home folder ")
    assert len(error) < 300
    assert hint == "cocoon-node: hint: name another: --home DIR"


def test_hints_quote_a_home_with_a_space(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = home.parent / "my home"
    assert main(["init", "--home", str(other)]) == 0
    assert f"cocoon-node models add PATH --home '{other}', then" in capsys.readouterr().err
    (other / "identity.pem").chmod(0o644)
    assert main(["init", "--home", str(other)]) == 2
    assert lines(capsys.readouterr().err)[1] == f"cocoon-node: hint: chmod 600 '{other / 'identity.pem'}'"


@pytest.mark.parametrize("words", [["up"], ["run", "m", "--text", "a"], ["offers"], ["init"]])
def test_a_mistake_in_the_configuration(home: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "node.toml").write_text("[provider]\nslot = 3\n")
    assert main(words) == 2
    assert lines(capsys.readouterr().err) == [
        f"cocoon-node: error: {home / 'node.toml'}: [provider] slot: there is no such key",
        "cocoon-node: hint: did you mean 'slots'?",
    ]


@pytest.mark.parametrize("command", ["jobs", "receipts", "wallet"])
def test_history_without_a_home(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command]) == 2
    assert "there is no home folder" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["jobs", "receipts"])
def test_history_of_a_node_that_never_ran(home: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Home(home).init()
    assert main([command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {command: []}
    assert main([command]) == 0
    assert capsys.readouterr() == ("", f"cocoon-node: no {command} yet\n")
    assert not (home / "state.sqlite3").exists()


def test_history_from_the_disk(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Home(home).init()
    error = "the provider went away \x1b[31m"
    with open_store(home / "state.sqlite3") as store:
        store.jobs.insert(
            JobRecord(JOB, "client", MODEL, "minilm", PEER, Tier.SEALED, "failed", 0, 3, 1000, 2000, error)
        )
        store.receipts.put(ReceiptRecord(JOB, "client", PEER, MODEL, 110_000, 3, 2000, b"body", b"p" * 64))
    assert main(["jobs", "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (job["job_id"], job["tier"], job["state"], job["peer_id"]) == (JOB.hex(), "sealed", "failed", PEER)
    assert main(["receipts", "--json"]) == 0
    (receipt,) = json.loads(capsys.readouterr().out)["receipts"]
    assert (receipt["price_nanogram"], receipt["body"]) == (110_000, b"body".hex())
    assert (receipt["provider_signature"], receipt["client_signature"]) == ((b"p" * 64).hex(), None)
    assert main(["jobs"]) == main(["receipts"]) == 0
    out, err = capsys.readouterr()
    assert "abababab  client  minilm  12D3…Dz8e6N  failed" in out
    assert "0.00011" in out
    assert max(map(len, lines(out))) <= 80
    assert "\x1b" not in out + err
    assert "the provider went away" in err
    assert "test money, no value" in err


def test_the_wallet_from_the_disk(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Home(home)
    place.init()
    with open_local_settlement(place.ledger_file, place.identity(), place.channel_key()) as settlement:
        trio.run(settlement.reserve, PEER, JOB, 5_000)
    assert main(["wallet", "--json"]) == 0
    wallet = json.loads(capsys.readouterr().out)
    assert wallet["test_money"] is True
    assert wallet["available_nanogram"] + wallet["deposited_nanogram"] == 10_000_000_000
    assert [(c["role"], c["peer_id"], c["reserved_nanogram"]) for c in wallet["channels"]] == [("payer", PEER, 5_000)]
    assert main(["wallet"]) == 0
    out = capsys.readouterr().out
    assert "10,000,000,000" not in out
    assert out.count("test money, no value") >= 5
    assert "12D3…Dz8e6N" in out


def test_a_corrupt_database(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Home(home).init()
    (home / "state.sqlite3").write_bytes(b"no database" * 1000)
    assert main(["jobs"]) == 2
    error, hint = lines(capsys.readouterr().err)
    assert "state.sqlite3" in error
    assert hint.startswith("cocoon-node: hint: nothing was deleted")


def test_models(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = _write_model(home.parent)
    assert main(["models"]) == 0
    assert capsys.readouterr() == ("", "cocoon-node: no models here; cocoon-node models add PATH\n")
    assert main(["models", "add", str(model), "--name", "doubler", "--price-per-item", "5_000", "--json"]) == 0
    added = json.loads(capsys.readouterr().out)
    assert (added["name"], added["price_base"], added["price_per_item"]) == ("doubler", None, 5000)
    assert added["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    assert main(["models", "list", "--json"]) == 0
    state = {"offered": False, "loaded": False, "device": None, "jobs_served": 0}
    assert json.loads(capsys.readouterr().out) == {"models": [{**added, **state}], "unfinished": []}
    assert main(["models", "list"]) == main(["models", "show", "doubler"]) == 0
    out = capsys.readouterr().out
    assert "0.000005" in out
    assert "0.0001 GRAM a job + 0.000005 GRAM an item (test money, no value)" in out
    assert "x float32[?,2]" in out
    assert main(["models", "show", "dubler"]) == 1
    assert "doubler" in capsys.readouterr().err
    assert main(["models", "remove", "doubler", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": added["model_id"], "name": "doubler"}
    assert main(["models", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"models": [], "unfinished": []}


def test_adding_a_model_again_says_what_changed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(_write_model(home.parent))
    assert main(["models", "add", model, "--name", "mine", "--price-base", "7000"]) == 0
    assert "already" not in capsys.readouterr().err
    assert main(["models", "add", model]) == 0
    out, err = capsys.readouterr()
    assert "0.000007 GRAM a job" in out
    assert lines(err)[0] == "cocoon-node: these files were installed already, as mine; nothing was changed"
    assert main(["models", "add", model, "--name", "new", "--price-per-item", "9000", "--json"]) == 0
    out, err = capsys.readouterr()
    row = json.loads(out)
    assert (row["name"], row["price_base"], row["price_per_item"]) == ("new", 7000, 9000)
    assert lines(err)[0].endswith("installed already, as mine; the name is now new, an item is now 0.000009 GRAM")
    assert main(["models", "add", model, "--name", ""]) == 2
    assert "'' is not allowed as a model's name" in capsys.readouterr().err


def test_models_without_prices_of_their_own_show_the_configurations(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(_write_model(home.parent)), "--price-base", "7000"]) == 0
    (home / "node.toml").write_text("[provider]\nprice_per_item = 3000\n")
    capsys.readouterr()
    assert main(["models"]) == 0
    out, err = capsys.readouterr()
    assert "0.000007  0.000003*" in out
    assert err.endswith("test money, no value; * is the price in node.toml\n")


def test_adding_what_is_no_model(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "add", str(home.parent / "nowhere.onnx")]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not home.exists()
    (home.parent / "bad.onnx").write_bytes(b"no model")
    assert main(["models", "add", str(home.parent / "bad.onnx")]) == 2
    error, _ = lines(capsys.readouterr().err)
    assert "bad.onnx is not an ONNX model" in error


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    versions = json.loads(capsys.readouterr().out)
    assert versions["trio"]
    assert "libp2p" not in versions, "only the tests use it"
    assert main(["--version"]) == 0
    assert versions["cocoon-p2p"] in capsys.readouterr().out


def test_alone_it_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("usage: cocoon-node")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ConfigError("a", hint="b"), 2, "cocoon-node: error: a\ncocoon-node: hint: b\n"),
        (CocoonError("a"), 1, "cocoon-node: error: a\n"),
        (ExceptionGroup("g", [ExceptionGroup("g", [ConfigError("a")])]), 2, "cocoon-node: error: a\n"),
        (ExceptionGroup("g", [CocoonError("a"), ValueError("v")]), 1, "cocoon-node: error: a bug in this program: Val"),
        (BaseExceptionGroup("g", [CocoonError("a"), KeyboardInterrupt()]), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "cocoon-node: error: cannot write: No space left on device\n",
        ),
        (OSError(errno.EROFS, "Read-only", "/x"), 1, "cocoon-node: error: cannot write /x: Read-only\n"),
        (ZeroDivisionError("x"), 1, "cocoon-node: error: a bug in this program: ZeroDivisionError: x\n"),
    ],
)
def test_what_goes_wrong_becomes_a_line_and_a_status(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(options: object) -> int:
        raise error

    module = types.ModuleType("cocoon_p2p.cli.version")
    module.__dict__["run"] = run
    monkeypatch.setitem(sys.modules, "cocoon_p2p.cli.version", module)
    monkeypatch.delenv("COCOON_DEBUG", raising=False)
    assert main(["version"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert "Traceback" not in err


def test_a_stream_that_the_shell_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        patch.setattr(sys, "stdin", None)
        assert main(["version"]) == 0
        assert sys.stdin.read() == ""
        assert main(["status", "--home", str(home)]) == 2
        sys.stdout.close()
        sys.stderr.close()
        sys.stdin.close()


def _write_model(folder: Path) -> Path:
    """y = x + x, float32[batch,2]."""
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubler", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(folder / "doubler.onnx"))
    return folder / "doubler.onnx"


def test_what_is_refused_for_what_is_in_it_is_not_called_no_model(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = hostile_models.write(home.parent, hostile_models.python_operator())
    assert main(["models", "add", str(path)]) == 2
    error, hint = lines(capsys.readouterr().err)
    assert f"{path} is not added, for what is in it: " in error
    assert "not an ONNX model" not in error
    assert "standard operators" in hint
    assert main(["models", "add", "/dev/zero"]) == 2
    assert "/dev/zero is neither a file nor a folder" in capsys.readouterr().err
