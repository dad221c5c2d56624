"""What the demo prints, at 80 columns and narrower, and how it shows progress."""

from __future__ import annotations

import io
import sys

import pytest

from cocoon_p2p.cli.demo_progress import Progress
from cocoon_p2p.cli.demo_screen import (
    Comparison,
    show_job,
    show_join,
    show_kept,
    show_nodes,
    show_passages,
    show_price,
    timeline_lines,
)
from cocoon_p2p.cli.demo_search import Passage

PEER, OTHER = (
    "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N",
    "12D3KooWHzLJWKydMCzqv5Do9eWTbQwSHstrWQbUwo2g22VHQ7He",
)
LEGS = {"discover": 0.2, "quote": 4.0, "seal": 0.4, "queue": 0.0, "execute": 2.0, "return": 1.0, "receipt": 0.5}
NOW = LEGS | {"total": 8.1}
FIRST = LEGS | {"discover": 120.0, "total": 127.9}
OFFER = {
    "peer_id": PEER,
    "addresses": ["/ip4/127.0.0.1/tcp/4601"],
    "prices": {"sealed": {"base_nanogram": 60_000, "per_unit_nanogram": 25_000}},
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_bars_have_the_width_that_is_left_and_are_in_proportion() -> None:
    lines = timeline_lines(FIRST, NOW, 80)
    bars = {line.split()[0]: line.count("█") for line in lines}
    assert bars == {
        "discover": 3,
        "quote": 51,
        "seal": 5,
        "queue": 0,
        "execute": 26,
        "return": 13,
        "receipt": 6,
        "total": 0,
    }
    assert max(map(len, lines)) == 80
    assert lines[0].split()[:3] == ["discover", "120.0", "0.2"]
    assert lines[-1].split() == ["total", "127.9", "8.1"]


def test_a_timeline_of_zeros() -> None:
    zeros = dict.fromkeys(NOW, 0.0)
    assert not any("█" in line for line in timeline_lines(zeros, zeros, 80))


def test_bars_without_unicode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert "#" * 51 in timeline_lines(FIRST, NOW, 80)[1]


def test_overhead() -> None:
    assert Comparison(local_ms=2.1, runs=20, threads=2, total_ms=8.1).overhead_ms == 6.0


def test_nodes_and_offers(capsys: pytest.CaptureFixture[str]) -> None:
    peers = [{"peer_id": OTHER, "addresses": ["/ip4/127.0.0.1/tcp/1"]}]
    show_nodes({PEER: "provider-1", OTHER: "bootstrap"}, peers, [OFFER])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[3].split() == ["bootstrap", "12D3…VHQ7He", "/ip4/127.0.0.1/tcp/1", "-", "-", "-"]
    assert lines[4].split() == ["provider-1", "12D3…Dz8e6N", "/ip4/127.0.0.1/tcp/4601", "0.00006", "0.000025", "cpu"]
    assert "test money" in lines[5]


def test_everything_else_fits_too(capsys: pytest.CaptureFixture[str]) -> None:
    passages = [Passage(0.73456, 4, "a word " * 200), Passage(-0.1, 5, "a \x1b[31m colour")]
    show_passages("how?", "README.md", 57, passages)
    show_job(FIRST_JOB, JOB, "provider-1", Comparison(2.1, 20, 2, 8.1))
    show_price(JOB, OFFER, 8, 960_000, signed=True)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "0.73  a word" in out
    assert out.count("a word") < 200
    assert "\x1b" not in out
    assert "0.000085 GRAM: 0.00006 GRAM a job + 0.000025 GRAM an item" in out
    assert "85,000 nanogram; test money, no value" in out
    assert "8 jobs for 0.00096 GRAM" in out
    assert "overhead" in out


FIRST_JOB = {"timeline_ms": FIRST}
JOB = {"timeline_ms": NOW, "price_nanogram": 85_000}


@pytest.mark.parametrize(
    ("loopback", "keep", "says"),
    [
        (
            True,
            False,
            "listens on this machine only and ends now; `cocoon-node demo --keep --listen /ip4/0.0.0.0/tcp/0`",
        ),
        (True, True, "listens on this machine only; `cocoon-node demo --keep --listen /ip4/0.0.0.0/tcp/0`"),
        (False, False, "ends now; `cocoon-node demo --keep`"),
        (False, True, None),
    ],
)
def test_join_says_what_hinders(
    loopback: bool, keep: bool, says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    show_join("cocoon-node up --bootstrap X", loopback=loopback, keep=keep)
    out = capsys.readouterr().out
    assert "\n  cocoon-node up --bootstrap X\n" in out
    text = " ".join(out.split())
    if says is None:
        assert text.endswith("--bootstrap X")
    else:
        assert says in text


def test_commands_for_a_home_with_a_space_can_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    show_kept("/tmp/my demo/client")
    assert "  cocoon-node wallet --home '/tmp/my demo/client'\n" in capsys.readouterr().out


def test_progress_on_a_terminal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, times = Terminal(), iter(range(100))
    progress = Progress(4, terminal, clock=lambda: float(next(times)))
    progress.begin("starting " + "x" * 100)
    progress.done("started")
    assert "\n" not in terminal.getvalue()
    frames = terminal.getvalue().split("\r\x1b[K")
    assert frames[1].startswith("░" * 20 + "  1.0 s  starting")
    assert frames[2].startswith("█" * 5 + "░" * 15)
    assert [len(frame) for frame in frames[1:]] == [79, 79]
    progress.finish()
    progress.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert terminal.getvalue().count("\r") == 3


def test_progress_elsewhere_is_a_line_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    for stream in (io.StringIO(), Terminal()):
        progress = Progress(2, stream, clock=lambda: 0.0)
        progress.begin("starting")
        progress.done("started")
        progress.finish()
        assert stream.getvalue() == "cocoon-node: [1/2] started (0.0 s)\n"
