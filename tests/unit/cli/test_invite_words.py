"""What `invite` says beside the invite, and whether its QR code fits; and what becomes of an invite that nobody answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.cli import join as join_command
from cocoon_p2p.cli import main
from cocoon_p2p.cli.invite import _draw, _warn
from cocoon_p2p.config import load_config
from cocoon_p2p.drivers.invites import Invitation, write_invite
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import peer_id_from_public_key

PEER = peer_id_from_public_key(bytes(range(32)))
LOOPBACK, LOCAL, PUBLIC = "/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.5/tcp/1", "/ip4/9.9.9.9/tcp/1"
RELAYED = f"/ip4/9.9.9.9/tcp/2/p2p/{PEER}/p2p-circuit"
INVITE = write_invite(Invitation(PEER, (PUBLIC,)))

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("addresses", "state", "warning"),
    [
        ([LOOPBACK], "unknown", "works on this machine only"),
        ([LOCAL], "unknown", "addresses of the local network only"),
        ([LOCAL], "reachable", "addresses of the local network only"),
        ([LOCAL], "private", "cannot reach this node: forward a port"),
        ([PUBLIC], "private", "cannot reach this node: forward a port"),
        ([PUBLIC, LOCAL], "unknown", "is not known yet"),
        ([PUBLIC, LOCAL], "reachable", None),
        ([LOCAL, RELAYED], "relayed", None),
    ],
)
def test_who_cannot_come_by_an_invite_is_said(
    addresses: list[str], state: str, warning: str | None, capsys: Captured
) -> None:
    _warn({"addresses": addresses}, {"state": state, "advice": "forward a port"})
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (0 if warning is None else 1)
    assert warning is None or warning in said[0]


@pytest.mark.parametrize(("columns", "lines", "drawn"), [(80, 40, True), (80, 12, False), (20, 40, False)])
def test_a_code_that_does_not_fit_the_window_is_not_drawn(
    columns: int, lines: int, drawn: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", str(lines))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _draw(INVITE)
    out, err = capsys.readouterr()
    assert bool(out) == drawn
    assert ("lines high" in err) == (not drawn)


class Running:
    """The API of a node that cannot reach who wrote the invite."""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def post(self, address: str, value: dict[str, Any]) -> dict[str, Any]:
        raise CocoonError("cannot connect", code="UNREACHABLE", hint="is it running?")


def test_a_failed_join_says_that_nothing_was_remembered_and_how_it_would_be(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(join_command, "connect", lambda path: Running())
    home = tmp_path / "home"
    Home(home).init()
    assert main(["join", INVITE, "--home", str(home)]) == 1
    hint = capsys.readouterr().err.splitlines()[1]
    assert hint.startswith("cocoon-node: hint: is it running?; nothing was remembered; ")
    assert f"cocoon-node join --later --home {home} INVITE" in hint
    assert load_config(None, home).network.bootstrap == ()
    assert main(["join", "--later", INVITE, "--home", str(home)]) == 0
    said = capsys.readouterr().err
    assert "from the next start on" in said
    assert "next: cocoon-node up" not in said, "one runs"
    assert load_config(None, home).network.bootstrap == (f"{PUBLIC}/p2p/{PEER}",)
