"""How far a copy is, on a terminal and nowhere else, and not for what is over in a moment."""

from __future__ import annotations

import io

import pytest

from cocoon_p2p.cli.transfer_progress import TransferBar, transfer_line

MB = 1_000_000


class Screen(io.StringIO):
    def __init__(self, *, terminal: bool = True) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


class Hands:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def copied(screen: Screen, clock: Hands, seconds: float) -> str:
    """100 MB in that time, a tenth at a time."""
    with TransferBar(screen, now=clock) as bar:
        bar.begin("copying model.onnx", 100 * MB)
        for _ in range(10):
            clock.now += seconds / 10
            bar.advance(10 * MB)
    return screen.getvalue()


def test_a_long_copy_shows_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = copied(Screen(), Hands(), 20.0).split("\r\x1b[K")
    assert any("50%" in line and "50.0 of 100.0 MB  5.0 MB/s  11 s left" in line for line in shown), shown
    assert shown[-1] == "", "the line is cleared in the end"


@pytest.mark.parametrize(("terminal", "seconds"), [(True, 0.9), (False, 20.0)])
def test_a_moment_or_no_terminal_shows_nothing(terminal: bool, seconds: float) -> None:
    assert copied(Screen(terminal=terminal), Hands(), seconds) == ""


def test_the_speed_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    screen, clock = Screen(), Hands()
    with TransferBar(screen, now=clock) as bar:
        bar.begin("x", 1000 * MB)
        for rate in (*[100] * 20, *[1] * 20):
            clock.now += 1
            bar.advance(rate * MB)
    assert "100.0 MB/s" in screen.getvalue()
    assert "1.0 MB/s" in screen.getvalue().split("\r\x1b[K")[-2]


@pytest.mark.parametrize("width", [0, 10, 40, 60, 79, 200])
def test_a_line_fits_and_no_name_moves_the_cursor(width: int) -> None:
    line = transfer_line("copying \x1b[2Jx\n", 3 * MB, 7 * MB, 1.5 * MB, width)
    assert len(line) <= width
    assert line.isprintable()
    assert width < 60 or line.endswith(" left")


def test_a_transfer_of_unknown_length_has_no_end_to_tell() -> None:
    assert transfer_line("x", MB, 0, 0, 80) == "x  1.0 MB"
    assert transfer_line("looking", 0, 0, 0, 80) == "looking"
