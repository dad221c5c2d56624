"""What people get wrong: one clear line, the right exit status, no traceback, and nobody else notices."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from towns import NODE_TOML, Town, explained

pytestmark = pytest.mark.processes

X = np.ones((2, 4), np.float32)
STRANGER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"


@pytest.fixture(autouse=True, scope="module")
def the_network_goes_on(market_town: Town) -> Iterator[None]:
    """After all of this the same processes still do jobs, and none of them wrote of a bug."""
    before = {name: node.process.pid for name, node in market_town.nodes.items()}
    yield
    _, outputs = market_town.nodes["client"].run("matmul", {"x": X})
    assert outputs["y"].tolist() == [[18, 22, 26]] * 2
    assert {name: node.process.pid for name, node in market_town.nodes.items()} == before
    assert all(node.running for node in market_town.nodes.values())
    for text in market_town.texts():
        assert "Traceback" not in text


@pytest.fixture
def home(market_town: Town) -> Path:
    """The running client's."""
    return market_town.nodes["client"].home


def saved(folder: Path, name: str, array: np.ndarray) -> str:
    np.save(folder / f"{name}.npy", array)
    return f"{name}={folder / f'{name}.npy'}"


def array_of(name: str) -> np.ndarray:
    return {
        "float64": X.astype(np.float64),
        "three columns": np.ones((2, 3), np.float32),
        "one dimension": np.ones(4, np.float32),
        "right": X,
    }[name]


@pytest.mark.parametrize(
    ("name", "array", "pattern"),
    [
        ("x", "float64", r"must be float32\[batch,4\], got float64\[2,4\]"),
        ("x", "three columns", r"must be float32\[batch,4\], got float32\[2,3\]"),
        ("x", "one dimension", r"must be float32\[batch,4\], got float32\[4\]"),
        ("z", "right", r"x.*float32\[batch,4\]"),
    ],
    ids=["dtype", "shape", "rank", "missing input"],
)
def test_wrong_inputs_say_what_the_model_wants(
    market_town: Town, tmp_path: Path, name: str, array: str, pattern: str
) -> None:
    client = market_town.nodes["client"]
    before = client.wallet()
    ended = market_town.cli("run", "matmul", "--input", saved(tmp_path, name, array_of(array)), home=client.home)
    assert re.search(pattern, explained(ended, 1)), ended.err
    assert client.wallet() == before, "found before anybody was paid"


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--input", "x=missing.npy"], r"--input x: cannot read missing\.npy: No such file"),
        (["--input", "x=/dev/null"], r"/dev/null is no \.npy file"),
        (["--input", "x"], r"'x' must look like NAME=FILE\.npy"),
        ([], r"a model needs an input"),
        (["--text", "a", "--tier", "secret"], r"invalid choice: 'secret'"),
        (["--text", "a", "--max-price", "cheap"], r"'cheap' is no amount of nanogram"),
        (["--text", "a", "--provider", "me"], r"no peer 'me'"),
        (["--text", "a", "--timeout", "0"], r"'0' is no number of seconds"),
        (["--text", "a", "--output", "/dev/null"], r"--output /dev/null is a file"),
        (["--text", "a", "--outptu", "x"], r"unrecognized arguments: --outptu.*did you mean --output\?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_of_run(market_town: Town, home: Path, arguments: list[str], pattern: str) -> None:
    assert re.search(pattern, explained(market_town.cli("run", "letters", *arguments, home=home), 2))


@pytest.mark.slow
def test_an_unknown_model(market_town: Town, home: Path) -> None:
    ended = market_town.cli("run", "gpt-17", "--text", "a", home=home)
    assert re.search(r"gpt-17", explained(ended, 1))
    assert ended.seconds < 30, "DISCOVERY_TIMEOUT_S, and the start of the command on a busy machine"


def test_an_unknown_provider(market_town: Town, home: Path) -> None:
    ended = market_town.cli("run", "letters", "--text", "a", "--provider", STRANGER, home=home)
    assert f"provider {STRANGER} does not offer letters" in explained(ended, 1)


def test_a_price_above_the_limit_names_the_lowest_offer(market_town: Town, home: Path) -> None:
    ended = market_town.cli("run", "letters", "--text", "a", "--max-price", "109999", home=home)
    line = explained(ended, 1)
    assert "the lowest is 110,000 nanogram" in line
    assert "--max-price 110000" in line
    ended = market_town.cli("run", "letters", "--text", "a", "--max-price", "110000", home=home)
    assert ended.status == 0, "the number that was named is enough"


def test_a_job_that_takes_too_long(market_town: Town, home: Path, tmp_path: Path) -> None:
    endless = saved(tmp_path, "turns", np.array(10**12))
    ended = market_town.cli("run", "slow", "--input", endless, "--timeout", "0.5", home=home)
    assert "did not finish within 0.5 s" in explained(ended, 1)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 no model at all" * 99, b"\x08\x0a\x12"], ids=["empty", "zip", "cut"]
)
@pytest.mark.parametrize("running", [True, False], ids=["running node", "no node"])
def test_a_file_that_is_no_onnx_model(market_town: Town, tmp_path: Path, content: bytes, running: bool) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    provider = market_town.nodes["provider"]
    shop = provider.home if running else market_town.home("shop")
    line = explained(market_town.cli("models", "add", str(file), home=shop), 2)
    assert str(file) in line
    assert "ONNX" in line
    assert "model" not in {row["name"] for row in provider.status()["models"]}


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["dance"], r"invalid choice: 'dance'"),
        (["statsu"], r"did you mean status\?"),
        (["status", "--jsn"], r"unrecognized arguments: --jsn.*did you mean --json\?"),
        (["up", "--listen", "127.0.0.1:4601"], r"127\.0\.0\.1:4601"),
        (["up", "--listen", "/ip4/300.0.0.1/tcp/1"], r"--listen: .*300\.0\.0\.1"),
        (["up", "--bootstrap", "/ip4/127.0.0.1/tcp/4601"], r"must end in the peer id"),
        (["up", "--bootstrap", "/ip4/127.0.0.1/tcp/4601/p2p/12D3"], r"12D3"),
        (["up", "--model", "not-here"], r"not-here"),
        (["up", "--config", "not-here.toml"], r"cannot read the configuration not-here\.toml: No such file"),
        (["models", "add", "not-here.onnx"], r"not-here\.onnx does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], pattern: str) -> None:
    with Town(tmp_path) as town:
        command_home = None if arguments[0] in ("dance", "statsu") else town.home("h")
        status = 1 if arguments[-1] == "not-here" else 2
        assert re.search(pattern, explained(town.cli(*arguments, home=command_home), status))


# --- homes ---


def spoil(home: Path, how: str) -> None:
    match how:
        case "state database":
            spoil_file(home / "state.sqlite3")
        case "ledger":
            spoil_file(home / "ledger.sqlite3")
        case "identity key":
            (home / "identity.pem").write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        case "channel key":
            (home / "channel.pem").write_bytes(b"\0" * 100)
        case "key that others can read":
            (home / "identity.pem").chmod(0o644)
        case "unknown key in node.toml":
            (home / "node.toml").write_text("[provider]\nprice_per_itm = 1\n")
        case "unknown section in node.toml":
            (home / "node.toml").write_text("[clinet]\ntimeout_s = 1\n")
        case "wrong value in node.toml":
            (home / "node.toml").write_text('[provider]\nslots = "many"\n')
        case "node.toml that is no TOML":
            (home / "node.toml").write_text("[provider\n")


def spoil_file(file: Path) -> None:
    """As a failing disk does: some pages in the middle, the header untouched."""
    content = bytearray(file.read_bytes())
    assert len(content) > 3 * 4096
    for wal in file.parent.glob(f"{file.name}-*"):
        wal.unlink()
    content[4096 : len(content)] = bytes(b ^ 0xFF for b in content[4096:])
    file.write_bytes(content)


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory, market_town: Town) -> Path:
    """A home with databases that have been written to."""
    home = tmp_path_factory.mktemp("used") / "home"
    join = ["--bootstrap", market_town.nodes["bootstrap"].address]
    assert market_town.cli("run", "letters", "--text", "a", *join, home=home).status == 0
    (home / "node.toml").write_text(NODE_TOML.format(level="info"))
    return home


@pytest.mark.parametrize(
    ("how", "status", "pattern"),
    [
        ("state database", 2, r"state\.sqlite3.*(damaged|corrupt)"),
        ("ledger", 2, r"ledger\.sqlite3.*(damaged|corrupt)"),
        ("identity key", 2, r"cannot read the key in .*identity\.pem: the file is damaged"),
        ("channel key", 2, r"cannot read the key in .*channel\.pem: the file is damaged"),
        ("key that others can read", 2, r"identity\.pem can be read by others \(mode 0644\).*chmod 600"),
        ("unknown key in node.toml", 2, r"\[provider\] price_per_itm: there is no such key.*'price_per_item'"),
        ("unknown section in node.toml", 2, r"\[clinet\].*client"),
        ("wrong value in node.toml", 2, r"\[provider\] slots: got \"many\".*whole number"),
        ("node.toml that is no TOML", 2, r"node\.toml is not TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() and "\\" not in value else "",
)
def test_spoiled_homes(tmp_path: Path, used_home: Path, how: str, status: int, pattern: str) -> None:
    with Town(tmp_path) as town:
        home = town.home("spoiled")
        for file in used_home.iterdir():
            if file.is_file():
                (home / file.name).write_bytes(file.read_bytes())
                (home / file.name).chmod(0o600)
        spoil(home, how)
        left = {file.name: file.read_bytes() for file in home.iterdir() if file.is_file()}
        line = explained(town.cli("up", "--json", home=home), status)
        assert re.search(pattern, line, re.IGNORECASE), line
        assert (home / "identity.pem").read_bytes() == left["identity.pem"], "nothing is replaced by itself"
        assert (home / "ledger.sqlite3").read_bytes() == left["ledger.sqlite3"]


def test_a_home_in_use(market_town: Town) -> None:
    client = market_town.nodes["client"]
    line = explained(market_town.cli("up", home=client.home), 2)
    assert f"{client.home} is in use by another node (pid {client.process.pid})" in line
    assert client.status()["peer_id"] == client.peer_id


def test_a_port_in_use(tmp_path: Path) -> None:
    with Town(tmp_path) as town, socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = town.cli("up", "--listen", f"/ip4/127.0.0.1/tcp/{port}", home=town.home("late"))
        line = explained(ended, 2)
        assert str(port) in line
        assert "in use" in line


def test_an_unreachable_bootstrap(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Town(tmp_path) as town:
        ended = town.cli("up", "--bootstrap", f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}", home=town.home("lonely"))
        line = explained(ended, 1)
        assert "no bootstrap node could be reached" in line
        assert str(port) in line
        assert ended.seconds < 30, "2 to 5 on an idle machine; not the minutes that TCP takes"


def test_a_bootstrap_that_is_somebody_else(market_town: Town, tmp_path: Path) -> None:
    address = market_town.nodes["bootstrap"].address.rpartition("/")[0] + "/" + STRANGER
    with Town(tmp_path) as town:
        line = explained(town.cli("up", "--bootstrap", address, home=town.home("misled")), 1)
        assert "no bootstrap node could be reached" in line


@pytest.mark.slow
def test_a_bootstrap_that_does_not_speak(tmp_path: Path) -> None:
    """A socket that accepts and says nothing must not hold the start up for long."""
    with socket.create_server(("127.0.0.1", 0)) as silent, Town(tmp_path) as town:
        port = silent.getsockname()[1]
        ended = town.cli("up", "--bootstrap", f"/ip4/127.0.0.1/tcp/{port}/p2p/{STRANGER}", home=town.home("waiting"))
        assert "no bootstrap node could be reached" in explained(ended, 1)
        assert ended.seconds < 30, "2 to 5 on an idle machine; not the minutes that TCP takes"
