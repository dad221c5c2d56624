"""Who used the machine when, by answers in the form of loginctl (systemd 252) and ioreg, written by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from cocoon_p2p.machine.user_idle import (
    idle_by_ioreg,
    idle_by_last_input,
    idle_by_logind,
    idle_by_terminals,
    user_idle_s,
)

NOW = 1_760_000_000.0
BOOTED = NOW - 86_400

LISTED = """\
      2 1000 ada  seat0 tty2
     c1   42 gdm  seat0 tty1
      7 1000 ada        pts/3
"""


def session(kind: str, idle_hint: str, since_s_ago: float, *, owner: str = "user", state: str = "active") -> str:
    since = 0 if since_s_ago < 0 else int((NOW - since_s_ago) * 1e6)
    return f"Type={kind}\nClass={owner}\nState={state}\nIdleHint={idle_hint}\nIdleSinceHint={since}\n"


class Programs:
    """Answers as programs do; what is not there has no answer."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers
        self.asked: list[list[str]] = []

    async def __call__(self, command: Sequence[str]) -> str | None:
        self.asked.append(list(command))
        return self.answers.get(command[1].lstrip("-").replace("-", "_"))


async def logind(*sessions: str, listed: str = LISTED) -> float | None:
    ask = Programs(list_sessions=listed, show_session="\n".join(sessions))
    return await idle_by_logind(ask, now=NOW, booted=BOOTED)


async def test_a_desktop_says_itself_that_it_idles() -> None:
    assert await logind(session("wayland", "yes", 700)) == pytest.approx(700)
    # while it is in use, the time is that at which it began to be
    assert await logind(session("wayland", "no", 700)) == 0
    assert await logind(session("x11", "no", -1)) == 0


async def test_of_a_terminal_the_time_counts_that_it_was_used_last() -> None:
    assert await logind(session("tty", "no", 300)) == pytest.approx(300)
    assert await logind(session("tty", "yes", 4000)) == pytest.approx(4000)


async def test_the_session_that_was_used_last_counts_of_people_who_are_here() -> None:
    assert await logind(
        session("wayland", "yes", 900),
        session("wayland", "no", -1, owner="greeter"),
        session("tty", "no", 30, state="closing"),
        session("tty", "no", 800),
    ) == pytest.approx(800)


async def test_nobody_logged_in_is_idle_since_the_start_of_the_machine() -> None:
    assert await logind(listed="") == 86_400
    assert await logind(session("wayland", "no", -1, owner="greeter")) == 86_400


async def test_logind_is_asked_for_all_sessions_at_once() -> None:
    ask = Programs(list_sessions=LISTED, show_session=session("tty", "no", 5))
    assert await idle_by_logind(ask, now=NOW, booted=BOOTED) == pytest.approx(5)
    assert ask.asked[1][-3:] == ["2", "c1", "7"]
    assert ask.asked[1][:4] == ["loginctl", "show-session", "-p", "Type"]


async def test_without_logind_nothing_is_known_by_it() -> None:
    assert await idle_by_logind(Programs(), now=NOW, booted=BOOTED) is None
    assert await idle_by_logind(Programs(list_sessions=LISTED), now=NOW, booted=BOOTED) is None


def terminal(folder: Path, name: str, used_s_ago: float) -> str:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    os.utime(folder / name, (NOW - used_s_ago, NOW))
    return name


def test_the_terminal_that_was_used_last_counts(tmp_path: Path) -> None:
    names = [terminal(tmp_path, "tty1", 5000), terminal(tmp_path, "pts/3", 120)]
    assert idle_by_terminals(lambda: names, tmp_path, now=NOW, booted=BOOTED) == pytest.approx(120)
    assert idle_by_terminals(list, tmp_path, now=NOW, booted=BOOTED) == 86_400


@pytest.mark.parametrize("names", [None, [":0"], ["pts/9"], ["bad\0name"]])
def test_of_a_desktop_a_terminal_tells_nothing(names: list[str] | None, tmp_path: Path) -> None:
    assert idle_by_terminals(lambda: names, tmp_path, now=NOW, booted=BOOTED) is None


IOREG = """\
+-o IOHIDSystem  <class IOHIDSystem, id 0x100000474, registered, matched, active, busy 0 (0 ms), retain 29>
  | {
  |   "HIDParameters" = {"HIDClickTime"=500000000,"HIDScrollZoomModifierMask"=0}
  |   "HIDIdleTime" = 92410335625
  |   "NOREMOTEWAKE" = 0
"""


async def test_macos_counts_nanoseconds() -> None:
    ask = Programs(c=IOREG)
    assert await idle_by_ioreg(ask) == pytest.approx(92.41, abs=0.01)
    assert ask.asked == [["ioreg", "-c", "IOHIDSystem"]]
    assert await idle_by_ioreg(Programs(c="nothing of the kind")) is None
    assert await idle_by_ioreg(Programs()) is None


async def test_each_system_in_its_own_way(tmp_path: Path) -> None:
    names = [terminal(tmp_path, "tty1", 60)]

    async def on(platform: str, **answers: str) -> float | None:
        ask = Programs(**answers)
        return await user_idle_s(ask, lambda: names, now=NOW, booted=BOOTED, devices=tmp_path, platform=platform)

    assert await on("linux", list_sessions=LISTED, show_session=session("tty", "no", 9)) == pytest.approx(9)
    assert await on("linux") == pytest.approx(60)
    assert await on("darwin", c=IOREG) == pytest.approx(92.41, abs=0.01)
    assert await on("win32") is None  # there is no such call here


def test_the_call_of_windows_is_not_there_on_others() -> None:
    assert idle_by_last_input() is None
