"""Arguments: what is taken, and what a person reads who mistyped."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cocoon_p2p.cli.parser import build_parser, parse

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
ADDRESS = f"/ip4/127.0.0.1/tcp/4601/p2p/{PEER}"
COMMANDS = {
    "init": [], "up": [], "models": [], "models add": ["m.onnx"], "models list": [], "models show": ["m"], "models verify": [],
    "models remove": ["m"], "run": ["m", "--text", "a"], "status": [], "peers": [], "offers": [], "jobs": [],
    "market history": ["m"], "market export": ["f"], "market replay": ["f"],
    "receipts": [], "wallet": [], "demo": [], "version": [],
}  # fmt: skip
HEAVY = ("trio", "libp2p", "numpy", "cryptography", "httpx", "starlette", "hypercorn", "onnx", "sqlite3", "tomllib")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_home_and_json(command: str) -> None:
    options = parse([*command.split(), *COMMANDS[command], "--home", "/h", "--json"])
    assert (options.home, options.json) == ("/h", True)
    assert options.function.startswith("cocoon_p2p.cli.")


@pytest.mark.parametrize("command", COMMANDS)
def test_home_may_come_first_or_not_at_all(command: str) -> None:
    words = [*command.split(), *COMMANDS[command]]
    assert parse(["--home", "/h", *words]).home == "/h"
    assert parse(words).home is None
    assert parse(words).json is False


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_eighty_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        parse([*command.split(), "--help"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: cocoon-node {command}".rstrip())


def test_help_of_the_program_names_every_command() -> None:
    text = build_parser().format_help()
    for command in COMMANDS:
        assert command.split()[0] in text


def test_options_of_up() -> None:
    options = parse(
        ["up", "--listen", "/ip4/0.0.0.0/tcp/0", "--bootstrap", ADDRESS, "--bootstrap", ADDRESS, "--model", "a"]
    )
    assert (options.listen, options.bootstrap, options.model) == (["/ip4/0.0.0.0/tcp/0"], [ADDRESS, ADDRESS], ["a"])
    assert (parse(["up"]).listen, parse(["up"]).bootstrap, parse(["up"]).model) == (None, [], [])


def test_options_of_run() -> None:
    words = (
        "run m --input a/b=x=y.npy --input c=d.npy --max-price 1_000 --tier open --timeout 2.5 --output o --provider"
    )
    options = parse([*words.split(), PEER])
    assert options.input == [("a/b", "x=y.npy"), ("c", "d.npy")]
    assert (options.max_price, options.tier, options.timeout, options.provider) == (1000, "open", 2.5, PEER)


@pytest.mark.parametrize(
    ("words", "error", "hint"),
    [
        ("modles", "invalid choice: 'modles'", "did you mean models?"),
        ("models ad x", "invalid choice: 'ad'", "did you mean add?"),
        ("zzz", "invalid choice", "cocoon-node --help"),
        ("--json", "unrecognized arguments: --json", "--json goes behind a command: cocoon-node COMMAND --json"),
        (
            "--json status",
            "unrecognized arguments: --json",
            "--json goes behind the command: cocoon-node status --json",
        ),
        (
            "--verbose",
            "unrecognized arguments: --verbose",
            "--verbose goes behind a command: cocoon-node status --verbose",
        ),
        ("up --lisen x", "unrecognized arguments: --lisen x", "did you mean --listen?"),
        ("up --list /ip4/0.0.0.0/tcp/0", "unrecognized arguments: --list", "did you mean --listen?"),
        ("run", "the following arguments are required: MODEL", "cocoon-node run --help"),
        ("models add", "the following arguments are required: PATH", "cocoon-node models add --help"),
        ("run m --tier best", "argument --tier: invalid choice: 'best'", "cocoon-node run --help"),
        ("run m --input x", "'x' must look like NAME=FILE.npy", None),
        ("run m --input =x", "must look like NAME=FILE.npy", None),
        ("run m --max-price 1.5", "'1.5' is no amount of nanogram", None),
        ("run m --max-price 9223372036854775808", "is no amount of nanogram", None),
        ("run m --timeout nan", "'nan' is no number of seconds", None),
        ("run m --timeout 0", "'0' is no number of seconds", None),
        ("run m --prefer best", "argument --prefer: invalid choice: 'best'", "cocoon-node run --help"),
        ("run m --prefer fast", "argument --prefer: invalid choice: 'fast'", "did you mean fastest?"),
        ("up --listen localhost:80", "'localhost:80' is no TCP address", "cocoon-node up --help"),
        ("up --bootstrap /ip4/1.2.3.4/tcp/1", "must end in the peer id", None),
        ("jobs --limit 0", "'0' is no whole number from 1", None),
        ("run m --text \udcff", "argument --text: '\\udcff' is no text in UTF-8", None),
        ("offers \udcff", "is no text in UTF-8", None),
        ("why \udcff", "is no text in UTF-8", None),
        ("jobs extra", "unrecognized arguments: extra", "cocoon-node jobs --help"),
    ],
)
def test_mistakes_end_with_status_2_and_say_what_would_be_right(
    words: str, error: str, hint: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        parse(words.split())
    assert end.value.code == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2
    assert lines[0].startswith("cocoon-node: error: ")
    assert error in lines[0]
    assert lines[1].startswith("cocoon-node: hint: ")
    assert hint is None or lines[1].removeprefix("cocoon-node: hint: ") == hint


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from cocoon_p2p.cli import main; status = main(['run', '--help']); "
        f"print(status, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr == "0 []\n"
    assert "--max-price" in ran.stdout
