"""`cocoon-node peers`, and what one can do to one of them."""

from __future__ import annotations

import argparse
import re
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.output import Column, print_json, print_note, print_table, terminal_columns
from cocoon_p2p.cli.peer_names import find_peer
from cocoon_p2p.cli.place import find_home, home_option, running_node
from cocoon_p2p.cli.words import duration, short_peer, short_size, short_until
from cocoon_p2p.errors import ConfigError

WIDE_COLUMNS = 100
"""From here on there is room for the agent."""
COLUMNS = (
    Column("PEER"),
    Column("ADDRESS", elastic=True),
    Column("VIA"),
    Column("MS", right=True),
    Column("IN", right=True),
    Column("OUT", right=True),
    Column("OFFERS", right=True),
    Column("STANDING", right=True),
)
AGENT = Column("AGENT", elastic=True)
BANNED_COLUMNS = (Column("PEER"), Column("ENDS IN", right=True), Column("ADDRESS", elastic=True))
KINDS = {"websocket": "ws"}
_HOST_AND_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+):(?P<port>\d{1,5})")
_IP4 = re.compile(r"\d+\.\d+\.\d+\.\d+")


def run_list(options: argparse.Namespace) -> int:
    api = running_node(find_home(options))
    answer = api.get("/v1/peers", banned=1 if options.banned else None)
    if options.json:
        print_json(answer)
    elif options.banned:
        _show_banned(answer.get("banned", []))
    else:
        _show_peers(answer.get("peers", []))
    return 0


def run_ban(options: argparse.Namespace) -> int:
    home = find_home(options)
    api = running_node(home)
    peer = find_peer(options.peer, known_peers(api))
    answer = api.post("/v1/peers/ban", {"peer_id": peer, "duration_s": options.duration_s})
    if options.json:
        print_json(answer)
    else:
        print_note(f"{short_peer(peer)} is cut off and refused for {short_until(answer['banned_until_ms'])}")
        at = home_option(home)
        print_note(f"end it before its time: cocoon-node peers unban {peer[-6:]}{at}")
        print_note(f"all bans: cocoon-node peers --banned{at}")
    return 0


def run_unban(options: argparse.Namespace) -> int:
    api = running_node(find_home(options))
    banned = [row["peer_id"] for row in api.get("/v1/peers", banned=1).get("banned", [])]
    peer = find_peer(options.peer, banned or known_peers(api))
    answer = api.post("/v1/peers/unban", {"peer_id": peer})
    if options.json:
        print_json(answer)
    elif answer.get("was_banned"):
        print_note(f"{short_peer(peer)} may come back; its faults are forgotten")
    else:
        print_note(f"{short_peer(peer)} was not banned")
    return 0


def run_connect(options: argparse.Namespace) -> int:
    api = running_node(find_home(options))
    target = options.target.strip()
    if not target.startswith("/") and not target.lower().startswith("cocoon1"):
        _refuse_host_and_port(target)
        target = find_peer(target, known_peers(api))
    row = api.post("/v1/peers/connect", {"target": target})
    if options.json:
        print_json(row)
    else:
        print_note(f"connected to {short_peer(row.get('peer_id'))} {_over(row)}".rstrip())
    return 0


def _refuse_host_and_port(target: str) -> None:
    """What ADDRESS shows is not enough: a node is dialled by its id, and what else answers there is turned away."""
    match = _HOST_AND_PORT.fullmatch(target)
    if match is None:
        return
    host = match["host"].strip("[]")
    kind = "ip6" if ":" in host else "ip4" if _IP4.fullmatch(host) else "dns"
    raise ConfigError(
        f"{target!r} does not say which peer is there",
        code="NO_PEER",
        hint=f"an address looks like /{kind}/{host}/tcp/{match['port']}/p2p/PEER_ID; or give an invite, or the peer's id",
    )


def known_peers(api: LocalApi) -> list[str]:
    """Whom an abbreviation may stand for."""
    return [str(peer) for peer in api.get("/v1/peers", known=1).get("known", [])]


def where(peer: dict[str, Any]) -> str:
    """Where a peer is, short: of one that came to us, where it listens if it said so."""
    address = next(iter(peer.get("addresses") or ()), "")
    if peer.get("direction") == "inbound" and not peer.get("relayed"):
        listening = _listening_at(peer, address)
        if listening is None:
            return f"(inbound) {_host(address)}" if address else "-"
        address = listening
    return short_address(address) or "-"


def via(peer: dict[str, Any]) -> str:
    """ "tcp out", "relay in"."""
    kind = peer.get("transport") or "-"
    return f"{'relay' if peer.get('relayed') else KINDS.get(kind, kind)} {'in' if peer.get('direction') == 'inbound' else 'out'}"


def short_address(address: str) -> str:
    """ "203.0.113.5:4601", "relay 12D3…ab12Cd at 203.0.113.5:4601"."""
    parts = address.split("/")
    if len(parts) < 5 or parts[3] != "tcp":
        return address
    host = f"[{parts[2]}]" if parts[1] == "ip6" else parts[2]
    end = f"{host}:{parts[4]}"
    if "p2p-circuit" in parts and "p2p" in parts:
        return f"relay {short_peer(parts[parts.index('p2p') + 1])} at {end}"
    return end


def _listening_at(peer: dict[str, Any], seen: str) -> str | None:
    """Of the addresses that it says it listens on the one at the host that we see it at, else its first."""
    said = [each for each in peer.get("listens_on") or () if "/p2p-circuit" not in each]
    return next((each for each in said if _host(each) == _host(seen)), next(iter(said), None))


def _host(address: str) -> str:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else address


def _show_peers(peers: list[dict[str, Any]]) -> None:
    if not peers:
        print_note("connected to nobody at the moment; `cocoon-node status` says how this node is reached")
        return
    wide = terminal_columns() >= WIDE_COLUMNS
    rows = [[*_cells(peer), *([peer.get("agent") or "-"] if wide else [])] for peer in peers]
    print_table((*COLUMNS, AGENT) if wide else COLUMNS, rows)


def _cells(peer: dict[str, Any]) -> list[Any]:
    latency = peer.get("latency_ms")
    return [
        short_peer(peer.get("peer_id")),
        where(peer),
        via(peer),
        "-" if latency is None else f"{latency:.1f}",
        short_size(peer.get("bytes_received")),
        short_size(peer.get("bytes_sent")),
        peer.get("offers", "-"),
        peer.get("standing", "-"),
    ]


def _show_banned(rows: list[dict[str, Any]]) -> None:
    if not rows:
        print_note("nobody is banned")
        return
    print_table(BANNED_COLUMNS, [_banned_cells(row) for row in rows])


def _banned_cells(row: dict[str, Any]) -> list[Any]:
    address = next(iter(row.get("addresses") or ()), "")
    return [short_peer(row["peer_id"]), duration(row["left_s"] + 1), short_address(address) or "-"]


def _over(row: dict[str, Any]) -> str:
    return f"at {where(row)} ({via(row)})" if row.get("addresses") else ""
