"""The arguments of the commands about the network: invites, peers, private networks."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, Protocol

from cocoon_p2p.limits import BAN_MAX_S, INVITE_HOURS_MAX, PINGS_MAX

PING_COUNT_DEFAULT = 5
PEER_HELP = "a peer id, its beginning or end as tables show it"
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(?P<number>\d{1,9}(?:\.\d{1,3})?)(?P<unit>s|m|min|h|d)")


class Commands(Protocol):
    """Where commands are added (parser.py)."""

    def add(self, name: str, function: str, about: str, *, json: bool = True, **more: Any) -> Any: ...

    def below(self, parser: Any) -> Commands:
        """The actions of a command."""


def add_network_commands(commands: Commands, config_option: Callable[[argparse.ArgumentParser], None]) -> None:
    """`config_option` adds --config."""
    _add_invites(commands, config_option)
    _add_private_networks(commands)
    _add_peers(commands)
    ping = commands.add("ping", "cocoon_p2p.cli.ping:run", "how long a peer takes to answer")
    ping.add_argument("peer", metavar="PEER", help=PEER_HELP)
    ping.add_argument("--count", metavar="N", type=_count, default=PING_COUNT_DEFAULT,
                      help=f"so many times (default: {PING_COUNT_DEFAULT}); 0: until Ctrl-C")  # fmt: skip


def _add_invites(commands: Commands, config_option: Callable[[argparse.ArgumentParser], None]) -> None:
    invite = commands.add(
        "invite", "cocoon_p2p.cli.invite:run_invite", "a text or QR code by which another machine joins",
        epilog="On the other machine: cocoon-node join INVITE",
    )  # fmt: skip
    invite.add_argument("--qr", action="store_true", help="draw it as a QR code, too")
    invite.add_argument(
        "--hours", metavar="N", type=_hours, help="not to be used after so many hours (default: for ever)"
    )
    invite.add_argument("--with-network-key", action="store_true",
                        help="put the private network's key into it: whoever sees it can enter the network for ever")  # fmt: skip
    join = commands.add(
        "join", "cocoon_p2p.cli.join:run", "enter the network by an invite, now or at the next start",
        epilog="Makes the home folder if there is none. If a node runs here it connects at once.",
    )  # fmt: skip
    join.add_argument("invite", metavar="INVITE", nargs="+", help="what `cocoon-node invite` showed on another machine")
    join.add_argument("--later", action="store_true",
                      help="only write it down for the next start, also where a node runs")  # fmt: skip
    config_option(join)


def _add_private_networks(commands: Commands) -> None:
    about = "the network that this node is in: the public one, or a private one with a key"
    network = commands.add("network", "cocoon_p2p.cli.network:run_show", about)
    network.set_defaults(key=False)
    actions = commands.below(network)
    show = actions.add("show", "cocoon_p2p.cli.network:run_show", about)
    show.add_argument("--key", action="store_true", help="show the key itself, as other libp2p programs take it")
    create = actions.add(
        "create", "cocoon_p2p.cli.network:run_create", "make a new private network, with this node in it"
    )
    create.add_argument("--name", default="", help="what you call it; others see it in your invites")
    join = actions.add("join", "cocoon_p2p.cli.network:run_join", "enter a private network by its key")
    join.add_argument("key", metavar="KEYFILE|INVITE", nargs="+",
                      help="a swarm.key file, or an invite made with --with-network-key")  # fmt: skip
    join.add_argument("--name", default="", help="what you call it")
    actions.add("leave", "cocoon_p2p.cli.network:run_leave", "go back to the public network; the key is put aside")


def _add_peers(commands: Commands) -> None:
    peers = commands.add("peers", "cocoon_p2p.cli.peers:run_list", "whom the running node is connected to")
    peers.add_argument("--banned", action="store_true", help="whom it refuses, instead")
    actions = commands.below(peers)
    ban = actions.add("ban", "cocoon_p2p.cli.peers:run_ban", "cut a peer off and refuse it for a while")
    ban.add_argument("peer", metavar="PEER", help=PEER_HELP)
    ban.add_argument("--for", metavar="TIME", dest="duration_s", type=_duration, default=None,
                     help="for how long: 90s, 10m, 1h, 7d (default: 1d)")  # fmt: skip
    unban = actions.add("unban", "cocoon_p2p.cli.peers:run_unban", "end a ban before its time")
    unban.add_argument("peer", metavar="PEER", help=PEER_HELP)
    connect = actions.add("connect", "cocoon_p2p.cli.peers:run_connect", "connect to a peer now")
    connect.add_argument("target", metavar="MULTIADDR|INVITE|PEER",
                         help="/ip4/…/tcp/…/p2p/PEER_ID, an invite, or a peer whose address is known")  # fmt: skip


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= PINGS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {PINGS_MAX:,}")
    return int(text)


def unicode_text(text: str) -> str:
    """What is looked up or sent. Bytes that are not UTF-8 are right in names of files alone."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise argparse.ArgumentTypeError(f"{text!r} is no text in UTF-8")
    return text


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= INVITE_HOURS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours above 0 and up to {INVITE_HOURS_MAX:,.0f}")
    return hours


def _duration(text: str) -> float:
    match = _DURATION.fullmatch(text.strip().lower())
    duration_s = float(match["number"]) * _UNITS[match["unit"]] if match else 0.0
    if not 0 < duration_s <= BAN_MAX_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 90s, 10m, 1h or 7d; the longest is {BAN_MAX_S / 86_400:.0f}d"
        )
    return duration_s
