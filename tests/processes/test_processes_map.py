"""`cocoon-node map` through a running node: order, spread, providers that die, wrong texts, Ctrl-C, and going on."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from towns import NodeProcess, RunningCommand, Town, eventually

from cocoon_p2p.testing import models

pytestmark = [pytest.mark.processes, pytest.mark.slow]

COUNT = 300
WORDS = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """A bootstrap node, two providers of a text model, and a client that knows both."""
    letters = models.embedding_model(tmp_path_factory.mktemp("text") / "letters")
    with Town(tmp_path_factory.mktemp("map")) as town:
        join = [town.start("bootstrap").address]
        for name in ("one", "two"):
            town.launch(name, "--model", str(letters), bootstrap=join)
        town.launch("client", bootstrap=join)
        for node in town.nodes.values():
            node.wait_ready()
        knows_both(town)
        yield town


def knows_both(town: Town) -> None:
    peers = {town.nodes[name].peer_id for name in ("one", "two")}
    client = town.nodes["client"]
    eventually(lambda: {each["peer_id"] for each in client.offers("letters")} == peers, "both are known")


def texts(folder: Path, count: int = COUNT) -> Path:
    """Line n has n % 7 + 1 words, all of them n's letter."""
    file = folder / "texts.txt"
    file.write_text("".join(" ".join([WORDS[n % 4]] * (n % 7 + 1)) + "\n" for n in range(count)))
    return file


def rows(file: Path) -> list[dict[str, Any]]:
    """What was written: whole lines only."""
    content = file.read_text()
    assert content == "" or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def assert_right(written: list[dict[str, Any]]) -> None:
    """The embedding is (sum of the token ids, their number): every answer belongs to its text."""
    for number, row in enumerate(written):
        words = number % 7 + 1
        assert row["index"] == number
        assert row["error"] is None
        assert row["outputs"]["sentence_embedding"] == [[float((2 + number % 4) * words), float(words)]]


def started(town: Town, file: Path, out: Path, *options: str) -> RunningCommand:
    client = town.nodes["client"]
    return town.cli_started("map", "letters", "--texts", str(file), "--out", str(out), *options, home=client.home)


def lines_in(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def test_in_order_from_both_providers(town: Town, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ended = started(town, texts(tmp_path), out).wait()
    assert ended.status == 0, ended.err
    written = rows(out)
    assert len(written) == COUNT
    assert_right(written)
    by = [row["provider"] for row in written]
    assert all(by.count(town.nodes[name].peer_id) > COUNT // 20 for name in ("one", "two")), "spread over both"
    assert f"{COUNT} texts, 0 failed" in ended.err
    assert "\r" not in ended.err, "no bar where nobody watches"


def test_the_bar_on_a_terminal(town: Town, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "cocoon_p2p", "map", "letters", "--texts", str(texts(tmp_path, 40)), "--out",
               str(out), "--home", str(town.nodes["client"].home)]  # fmt: skip
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=town.environment, start_new_session=True
    )
    os.close(theirs)
    shown = read_terminal(ours)
    assert process.wait(30) == 0, shown
    bars = shown.replace("\r\n", "\n").split("\n")[0].split("\r")
    assert bars[0] == ""
    assert bars[-1] == "█" * 30 + " 40/40"
    assert max(map(len, bars)) < 80
    assert len(bars) == 41


def read_terminal(descriptor: int) -> str:
    """Until the other side is closed."""
    shown = b""
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:  # EIO: nobody holds it any more
            break
        if not piece:
            break
        shown += piece
    os.close(descriptor)
    return shown.decode()


def test_wrong_texts_fail_one_by_one(town: Town, tmp_path: Path) -> None:
    out, file = tmp_path / "out.jsonl", texts(tmp_path, 20)
    given = file.read_text().split("\n")
    given[7] = "a " * 600_000  # longer than a text may be
    file.write_text("\n".join(given))
    ended = started(town, file, out).wait()
    assert ended.status == 1
    written = rows(out)
    assert [row["index"] for row in written] == list(range(20))
    assert [row["index"] for row in written if row["error"] is not None] == [7]
    assert written[7]["outputs"] is None
    assert written[7]["error"]["code"] != "BUSY"
    assert "20 texts, 1 failed" in ended.err


def test_ctrl_c_leaves_whole_lines_and_the_next_run_goes_on(town: Town, tmp_path: Path) -> None:
    out, file = tmp_path / "out.jsonl", texts(tmp_path, 1000)
    command = started(town, file, out)
    eventually(lambda: lines_in(out) >= 50, "it has begun")
    os.killpg(command.process.pid, signal.SIGINT)
    ended = command.wait()
    assert ended.status == 130, ended.err
    done = rows(out)
    assert 50 <= len(done) < 1000
    assert_right(done)
    assert f"{len(done)} of 1000 are in" in ended.err
    assert "Traceback" not in ended.err
    with open(out, "a") as half:  # as a crash leaves it
        half.write('{"index": 9')
    ended = started(town, file, out, "--resume").wait()
    assert ended.status == 0, ended.err
    written = rows(out)
    assert written[: len(done)] == done
    assert len(written) == 1000
    assert_right(written)
    assert f"{1000 - len(done)} texts, 0 failed" in ended.err
    assert "all 1000 texts are in" in started(town, file, out, "--resume").wait().err


def test_a_provider_that_is_killed_costs_nothing(town: Town, tmp_path: Path) -> None:
    client, victim = town.nodes["client"], town.nodes["one"]
    out = tmp_path / "out.jsonl"
    command = started(town, texts(tmp_path, 600), out)
    eventually(lambda: lines_in(out) >= 100, "it has begun")
    victim.kill()
    assert lines_in(out) < 600
    ended = command.wait()
    assert ended.status == 0, ended.err
    written = rows(out)
    assert len(written) == 600
    assert_right(written)
    assert {row["provider"] for row in written[-100:]} == {town.nodes["two"].peer_id}
    eventually(lambda: settled(client), "nothing is reserved")


def settled(client: NodeProcess) -> bool:
    return all(channel["reserved_nanogram"] == 0 for channel in client.wallet()["channels"])


def test_who_hangs_is_waited_for_until_the_deadline(town: Town, tmp_path: Path) -> None:
    """The last test: the other provider was killed."""
    out = tmp_path / "out.jsonl"
    town.nodes["two"].send(signal.SIGSTOP)
    thaw = threading.Timer(20, town.nodes["two"].send, (signal.SIGCONT,))
    thaw.start()
    try:
        ended = started(town, texts(tmp_path, 3), out, "--timeout", "3").wait()
        assert ended.seconds < 15
    finally:
        thaw.cancel()
        town.nodes["two"].send(signal.SIGCONT)
    assert ended.status == 1
    assert all(row["error"] is not None for row in rows(out))
