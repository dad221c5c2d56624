"""`cocoon-node demo` as a person runs it: what it prints, and that nothing is left of it however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from towns import Lines, bearing, eventually

from cocoon_p2p.cli.demo import both_signed
from cocoon_p2p.cli.demo_folder import MARKER as MARKER_FILE
from cocoon_p2p.cli.demo_network import PRICES
from cocoon_p2p.config_sections import ProviderSection
from cocoon_p2p.home import Home

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="counts processes in /proc"),
]
MARKER = "PYTHON_TEST_DEMO"
LEFT_AFTER_KILL_S = 10.0
"""Nodes that are still importing see only then that their parent has died."""
TEXT = """\
# Three things

Bread is baked from flour, water, salt and a little yeast.

The moon takes a month to go round the earth, and always shows us the same side.

Whoever has a fast graphics card can rent it out at night and earn some money with it.
"""
KEYS = [
    "providers", "offers", "passages", "timeline_ms", "price_nanogram", "local_ms", "overhead_ms", "receipt",
    "writing", "handover", "join",
]  # fmt: skip

Start = Callable[..., "Demo"]


class Demo:
    """A running `cocoon-node demo`."""

    def __init__(self, arguments: tuple[str, ...], cache: Path, folder: Path) -> None:
        self.marker = f"{MARKER}={uuid.uuid4().hex}"
        self._sessions: set[int] = set()
        name, _, value = self.marker.partition("=")
        environment = {**os.environ, name: value, "XDG_CACHE_HOME": str(cache), "TMPDIR": str(folder), "COLUMNS": "80"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cocoon_p2p", "demo", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.err = Lines(self.process.stdout), Lines(self.process.stderr)

    def processes(self) -> dict[int, str]:
        """Those that bear our mark: process id and command line."""
        return bearing(self.marker, self._sessions)

    def has_started_another(self) -> bool:
        """Not one of those that Python's libraries run for a moment while they are imported (ldconfig)."""
        ours = ("cocoon_p2p.cli.demo_workshop", "cocoon_p2p up ")
        return any(name in command for command in self.processes().values() for name in ours)

    def wait_for(self, pattern: str) -> None:
        assert self.err.wait_for(pattern) is not None, self.err.text

    def kill(self) -> None:
        """All of it, should a test have left anything."""
        for pid in (self.process.pid, *self.processes()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def end(self) -> int:
        """Its exit status; by then no process may be left."""
        status = self.process.wait(60)
        left = self.processes()
        assert not left, left
        self.out.join()
        self.err.join()
        return status


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests, so that the model is built once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.md").write_text(TEXT)
    return str(tmp_path / "text.md")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For temporary files; empty again after the demo."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


@pytest.fixture
def start(cache: Path, folder: Path) -> Iterator[Start]:
    demos: list[Demo] = []

    def begin(*arguments: str) -> Demo:
        demos.append(Demo(arguments, cache, folder))
        return demos[-1]

    yield begin
    for demo in demos:
        demo.kill()


@pytest.fixture(scope="module")
def first(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Path]]:
    """A demo that has ended, told as JSON, and the folder in which its nodes' homes are left."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "text.md").write_text(TEXT)
    (folder / "tmp").mkdir()
    question = "how do I earn money with my computer?"
    arguments = ("--json", "--file", str(folder / "text.md"), "--question", question, "--home", str(folder / "nodes"))
    demo = Demo(arguments, cache, folder / "tmp")
    try:
        assert demo.end() == 0, demo.err.text
        assert not list((folder / "tmp").iterdir())
        yield demo, folder / "nodes"
    finally:
        demo.kill()


def test_json(first: tuple[Demo, Path]) -> None:
    demo, _ = first
    shown: dict[str, Any] = json.loads(demo.out.text)
    assert list(shown) == KEYS
    providers = {provider["peer_id"] for provider in shown["providers"]}
    assert len(providers) == 3
    assert {offer["peer_id"] for offer in shown["offers"]} == providers
    assert {tuple(offer["prices"]["sealed"].values()) for offer in shown["offers"]} == set(PRICES)
    assert "graphics card" in shown["passages"][0]["text"]
    scores = [passage["score"] for passage in shown["passages"]]
    assert scores == sorted(scores, reverse=True)
    legs = shown["timeline_ms"]
    total = legs.pop("total")
    assert list(legs) == ["discover", "quote", "seal", "queue", "execute", "return", "receipt"]
    assert sum(legs.values()) == pytest.approx(total, abs=0.01)
    receipt = shown["receipt"]
    assert receipt["peer_id"] in providers
    assert both_signed({"provider": receipt["peer_id"], "receipt": receipt})
    altered = receipt | {"client_signature": receipt["provider_signature"]}
    assert not both_signed({"provider": receipt["peer_id"], "receipt": altered})
    assert shown["price_nanogram"] == receipt["price_nanogram"] > 0
    assert 0 < shown["local_ms"] < total
    assert shown["overhead_ms"] == pytest.approx(total - shown["local_ms"], abs=0.002)
    writing = shown["writing"]
    assert (writing["pulled"]["by"], writing["pulled"]["origin"]) == ("provider-2", "provider-1")
    assert writing["text"].split()
    paid_tokens = writing["prompt_tokens"] + writing["tokens"]
    assert writing["price_nanogram"] == PRICES[1][0] + ProviderSection().price_per_token * paid_tokens
    handover = shown["handover"]
    assert handover["killed"] != handover["finished_by"]
    assert handover["providers_paid"] == 1
    assert handover["largest_difference"] < 1e-4
    assert handover["answer_after_ms"] >= handover["work_ms"] > 0
    assert re.fullmatch(r"cocoon-node up --bootstrap /ip4/127\.0\.0\.1/tcp/\d+/p2p/12D3KooW\w+", shown["join"])


def test_the_screen_and_the_second_run(first: tuple[Demo, Path], start: Start, text: str, folder: Path) -> None:
    """With the cached model, and with the same nodes."""
    _, home = first
    demo = start("--file", text, "--home", str(home))
    assert demo.end() == 0, demo.err.text
    assert "the models are installed" in demo.err.text
    assert "\r" not in demo.err.text
    screen = demo.out.text
    assert "\x1b" not in screen
    long = [line for line in screen.splitlines() if len(line) > 80]
    assert len(long) == 1  # the command to be copied
    assert long[0].startswith("  cocoon-node up --bootstrap /ip4/127.0.0.1/tcp/")
    for expected in ("bootstrap", "provider-3", "graphics card", "discover", "receipt", "test money", "overhead",
                     "is killed in the middle", "to one provider", "A provider", "a token", "from provider-1"):  # fmt: skip
        assert expected in screen
    assert "both signatures checked" in screen
    assert sorted(each.name for each in home.iterdir() if not each.name.startswith(".")) == [
        "bootstrap", "client", "provider-1", "provider-2", "provider-3",
    ]  # fmt: skip
    assert not list(folder.iterdir())


def test_keep_runs_until_ctrl_c(start: Start, text: str, folder: Path) -> None:
    demo = start("--keep", "--file", text)
    line = demo.out.wait_for(r"wallet --home \S+$")
    assert line is not None, demo.err.text
    assert len(demo.processes()) >= 5
    home = line[1].split()[-1]
    wallet = subprocess.run(
        [sys.executable, "-m", "cocoon_p2p", "wallet", "--json", "--home", home], capture_output=True, check=True
    )
    assert json.loads(wallet.stdout)["spent_nanogram"] > 0
    demo.process.send_signal(signal.SIGINT)
    assert demo.end() == 0
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (None, signal.SIGINT),
        ("the bootstrap node is ready", signal.SIGINT),
        (r"provider-\d is ready", signal.SIGINT),
        ("the first job is done", signal.SIGINT),
        (r"provider-\d is ready", signal.SIGTERM),
        ("the client is ready", signal.SIGHUP),
    ],
)
def test_a_signal_at_any_moment(
    start: Start, text: str, folder: Path, moment: str | None, number: signal.Signals
) -> None:
    demo = start("--file", text)
    if moment is None:  # as soon as there is a process that could be left behind
        eventually(demo.has_started_another, "the demo starts a process")
    else:
        demo.wait_for(moment)
    demo.process.send_signal(number)
    assert demo.end() == 128 + number
    assert demo.err.text.splitlines()[-1] == "cocoon-node: stopping"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("moment", [r"the bootstrap node is ready", r"provider-\d is ready", "the first job is done"])
def test_kill_9_leaves_no_process(start: Start, text: str, moment: str) -> None:
    demo = start("--file", text)
    demo.wait_for(moment)
    assert demo.processes()
    demo.process.kill()
    demo.process.wait()
    eventually(lambda: not demo.processes(), "every process of the demo ends", LEFT_AFTER_KILL_S)


def test_a_node_that_dies_ends_the_demo(start: Start, text: str) -> None:
    demo = start("--keep", "--file", text)
    demo.wait_for("the client is ready")
    victim = next(pid for pid, command in demo.processes().items() if "provider-2" in command)
    os.kill(victim, signal.SIGKILL)
    assert demo.end() == 1
    assert "error: provider-2 ended by itself (signal 9)" in demo.err.text


def test_a_node_that_cannot_start_says_why(start: Start, text: str, tmp_path: Path) -> None:
    home = tmp_path / "nodes"
    broken = Home(home / "provider-2")
    broken.init()
    broken.identity_file.chmod(0o644)
    (home / MARKER_FILE).touch()
    demo = start("--file", text, "--home", str(home))
    assert demo.end() == 1
    assert demo.err.wait_for(r"^  cocoon-node: hint: chmod 600 .*identity\.pem$") is not None, demo.err.text
    assert "error: provider-2 ended by itself (exit status 2)" in demo.err.text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--file", "/nowhere"], "cannot read /nowhere: No such file or directory"),
        (["--file", sys.executable], "is not a text file"),
        (["--file", os.devnull], "there is no text in"),
        (["--question", ""], "--question is empty"),
        (["--home", os.path.dirname(os.__file__)], "holds something else than a demo's nodes"),
    ],
)
def test_mistakes_are_found_before_anything_is_started(
    start: Start, text: str, arguments: list[str], error: str
) -> None:
    demo = start("--file", text, *arguments)
    assert demo.end() == 2
    assert error in demo.err.text
    assert demo.out.text == ""
    assert not re.search(r"\[1/", demo.err.text)
