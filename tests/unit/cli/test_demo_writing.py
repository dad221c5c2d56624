"""The demo's language model on the screen: words as they come, on lines that fit."""

from __future__ import annotations

import pytest

from cocoon_p2p.cli.demo_screen import show_writing, title_writing
from cocoon_p2p.cli.demo_writing import Pulled, WrappedText, Writing

PULLED = Pulled("ab" * 32, "provider-2", "provider-1", 40_200, 0.31)
WRITING = Writing(PULLED, "A provider", " is paid.", 2, 60, 0.048, 647.2, 584_000)


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_words_wrap_and_none_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    shown = WrappedText()
    said = "A provider" + " is paid, and paid\x1b[2J again." * 12 + " " + "x" * 100
    for place in range(0, len(said), 7):  # pieces end where they like
        shown(said[place : place + 7])
    assert capsys.readouterr().out.startswith("A provider is paid,"), "shown before the end"
    shown = WrappedText()
    shown(said)
    shown.end()
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines) == said.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[-1] == "x" * 100


def test_what_it_cost_fits_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    title_writing("provider-2")
    show_writing(WRITING, (150_000, 7_000))
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    for expected in (
        "40.2 kB from provider-1",
        "60 tokens, the first after 48 ms, then 647 a second",
        "0.000007 GRAM a token",
    ):
        assert expected in out
