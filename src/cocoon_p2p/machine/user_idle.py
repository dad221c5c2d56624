"""For how long nobody has used keyboard, mouse or a terminal.

Linux: what logind says of each session, else when each terminal was last read from. macOS: the age of the last event of
the input devices. Windows: the age of the last input. Nobody logged in counts as idle since the machine was started."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import trio

from cocoon_p2p.machine.commands import Ask

SESSIONS_MAX = 256
"""Sessions that logind is asked about; a login server with more is never idle."""
_LIVE = frozenset({"active", "online", "opening"})
_GRAPHICAL = frozenset({"x11", "wayland", "mir"})
_HID_IDLE = re.compile(r'"HIDIdleTime"\s*=\s*(\d+)')
_PROPERTIES = ("Type", "Class", "State", "IdleHint", "IdleSinceHint")

Terminals = Callable[[], Sequence[str] | None]
"""Terminals with somebody logged in ("pts/0", "tty1", ":0"); None when that is not recorded here."""


async def idle_by_logind(ask: Ask, *, now: float, booted: float, program: str = "loginctl") -> float | None:
    """Seconds; None when no logind answers. `now` and `booted` are Unix seconds."""
    listed = await ask([program, "list-sessions", "--no-legend"])
    if listed is None:
        return None
    ids = [line.split()[0] for line in listed.splitlines() if line.split()]
    if not ids:
        return now - booted
    if len(ids) > SESSIONS_MAX:
        return 0.0
    options = [option for name in _PROPERTIES for option in ("-p", name)]
    shown = await ask([program, "show-session", *options, *ids])
    if shown is None:
        return None
    return min(
        (idle for each in _sessions(shown) if (idle := _session_idle(each, now)) is not None), default=now - booted
    )


def _sessions(shown: str) -> Iterable[Mapping[str, str]]:
    """`loginctl show-session A B`: lines of key=value, a blank line between sessions."""
    for block in re.split(r"\n\s*\n", shown.strip()):
        pairs = (line.partition("=") for line in block.splitlines())
        yield {name: value.strip() for name, _, value in pairs}


def _session_idle(session: Mapping[str, str], now: float) -> float | None:
    """None for a session that is no person's, or ended."""
    if not session.get("Class", "user").startswith("user") or session.get("State", "active") not in _LIVE:
        return None
    since = session.get("IdleSinceHint", "0")
    idle = max(0.0, now - int(since) / 1e6) if since.isdigit() and int(since) else 0.0
    # A desktop says itself that it idles, and when it began to; of a terminal logind gives the last time that it was used.
    if session.get("Type") in _GRAPHICAL and session.get("IdleHint") != "yes":
        return 0.0
    return idle


def idle_by_terminals(terminals: Terminals, devices: Path, *, now: float, booted: float) -> float | None:
    """Seconds since a terminal was last typed into. None when logins are not recorded here, or somebody sits at a desktop,
    of which a terminal tells nothing. Reads files: call it in a thread."""
    names = terminals()
    if names is None:
        return None
    idles = []
    for name in names:
        try:
            idles.append(max(0.0, now - (devices / name).stat().st_atime))
        except (OSError, ValueError):
            return None
    return min(idles, default=now - booted)


async def idle_by_ioreg(ask: Ask, program: str = "ioreg") -> float | None:
    """macOS: nanoseconds since the last event of any input device."""
    shown = await ask([program, "-c", "IOHIDSystem"])
    if shown is None:
        return None
    return min((int(text) / 1e9 for text in _HID_IDLE.findall(shown)), default=None)


def idle_by_last_input() -> float | None:
    """Windows: GetLastInputInfo, milliseconds since the machine was started, in 32 bits that wrap around."""
    if sys.platform == "win32":
        import ctypes

        class LastInput(ctypes.Structure):
            _fields_ = [("size", ctypes.c_uint), ("ticks", ctypes.c_uint)]

        last = LastInput(ctypes.sizeof(LastInput), 0)
        if ctypes.windll.user32.GetLastInputInfo(ctypes.byref(last)):
            return ((ctypes.windll.kernel32.GetTickCount() - last.ticks) & 0xFFFF_FFFF) / 1000
    return None


async def user_idle_s(
    ask: Ask, terminals: Terminals, *, now: float, booted: float, devices: Path, platform: str
) -> float | None:
    """Seconds since somebody used this machine; None when it cannot tell."""
    if platform == "win32":
        return idle_by_last_input()
    if platform == "darwin":
        return await idle_by_ioreg(ask)
    by_logind = await idle_by_logind(ask, now=now, booted=booted)
    if by_logind is not None:
        return by_logind

    def by_terminals() -> float | None:
        return idle_by_terminals(terminals, devices, now=now, booted=booted)

    return await trio.to_thread.run_sync(by_terminals)
