"""Who waits at a terminal is told what for; who reads a file is not."""

from __future__ import annotations

import io
import sys
import threading

import pytest

from cocoon_p2p.cli import waiting
from cocoon_p2p.cli.waiting import told_after_a_moment


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    event = threading.Event()

    def note(text: str) -> None:
        print(text, file=sys.stderr)
        event.set()

    monkeypatch.setattr(waiting, "print_note", note)
    return event


def test_a_long_wait_is_explained_once(monkeypatch: pytest.MonkeyPatch, told: threading.Event) -> None:
    screen = Screen(terminal=True)
    monkeypatch.setattr(sys, "stderr", screen)
    with told_after_a_moment("counting sheep", after_s=0):
        assert told.wait(10)
    assert screen.getvalue() == "counting sheep\n"


def test_a_short_one_is_not(monkeypatch: pytest.MonkeyPatch, told: threading.Event) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(terminal=True))
    before = threading.active_count()
    with told_after_a_moment("counting sheep", after_s=3600):
        assert threading.active_count() == before + 1
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(10)
    assert not told.is_set()


def test_a_file_is_told_nothing(monkeypatch: pytest.MonkeyPatch, told: threading.Event) -> None:
    monkeypatch.setattr(sys, "stderr", Screen(terminal=False))
    before = threading.active_count()
    with told_after_a_moment("counting sheep", after_s=0):
        assert threading.active_count() == before
    assert not told.is_set()
