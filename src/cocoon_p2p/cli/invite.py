"""`cocoon-node invite`: what another machine joins by."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from cocoon_p2p.cli.output import print_hint, print_json, print_note, terminal_columns, terminal_lines
from cocoon_p2p.cli.place import find_home, running_node
from cocoon_p2p.cli.words import short_until, width_of


def run_invite(options: argparse.Namespace) -> int:
    """The invite on stdout; what should be known about it on stderr."""
    api = running_node(find_home(options))
    invite = api.get("/v1/invite", hours=options.hours, with_network_key=1 if options.with_network_key else None)
    reachability = api.get("/v1/status").get("reachability") or {}
    if options.json:
        print_json(invite)
        return 0
    print(invite["invite"], flush=True)
    _say_use(invite)
    _warn(invite, reachability)
    if options.qr:
        _draw(invite["invite"])  # last, so that nothing pushes its top out of the window
    return 0


def _draw(text: str) -> None:
    from cocoon_p2p.cli.qr import qr_lines

    terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    lines = qr_lines(text.upper(), coloured=terminal)  # capitals: QR's alphanumeric mode
    wide, high = len(qr_lines(text.upper(), coloured=False)[0]), len(lines) + 1  # and the prompt
    if terminal and (wide > terminal_columns() or high > terminal_lines()):
        print_note(
            f"for the QR code the window must be {wide} columns wide and {high} lines high: make it larger, and ask again"
        )
        return
    print("\n".join(lines))


def _say_use(invite: dict[str, Any]) -> None:
    network = invite.get("network_fingerprint")
    print_note("on the other machine: cocoon-node join INVITE, then cocoon-node up")
    if invite.get("expires_at_ms"):
        print_note(f"to be used within {short_until(invite['expires_at_ms'])}")
    if network and not invite.get("has_network_key"):
        name = invite.get("network_name") or network[:8]
        print_note(
            f"it is for the private network {name}; who joins needs its key first, or an invite made with --with-network-key"
        )


def _warn(invite: dict[str, Any], reachability: dict[str, Any]) -> None:
    if invite.get("has_network_key"):
        print_hint("this invite holds the private network's key: whoever sees it can enter the network for ever")
    widths = {width_of(each) for each in invite.get("addresses") or ()}
    if widths == {"loopback"}:
        print_hint(
            "this node knows no address of its own but this machine's loopback, so the invite works on this machine only"
        )
    elif reachability.get("state") == "private":
        advice = reachability.get("advice") or "see nodes/REACHABILITY.md"
        print_hint(f"machines outside the local network cannot reach this node: {advice}")
    elif widths <= {"local", "loopback"}:
        print_hint(
            "this invite holds addresses of the local network only, and works there only; `cocoon-node status` says how this "
            "node is reached"
        )
    elif reachability.get("state") == "unknown":
        print_hint(
            "whether other machines reach this node is not known yet: look at `cocoon-node status` before you rely on it"
        )
