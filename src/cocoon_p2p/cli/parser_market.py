"""The arguments of the commands about the market: who offers what at which price, now and in the past."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from datetime import datetime

from cocoon_p2p.cli.parser_network import Commands, unicode_text
from cocoon_p2p.ids import Tier
from cocoon_p2p.limits import DOCTOR_IN_ALL_MAX_S, DOCTOR_IN_ALL_S, MARKET_HOURS_MAX

HISTORY_HOURS_DEFAULT = 24.0
MARKET_ACTIONS = ("history", "export", "replay", "-h", "--help")
TIERS = tuple(tier.name.lower() for tier in sorted(Tier, reverse=True))


def add_market_commands(commands: Commands, network_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """`network_options` adds --bootstrap and --config."""
    _add_offers(commands, network_options)
    _add_market(commands)
    _add_doctor(commands)


def _add_offers(commands: Commands, network_options: Callable[[argparse.ArgumentParser], None]) -> None:
    offers = commands.add(
        "offers", "cocoon_p2p.cli.offers:run", "who runs which model at which price: the order book, or one model's offers",
        epilog="Works through the node that runs on this home; without one, give --bootstrap.",
    )  # fmt: skip
    offers.add_argument(
        "model", metavar="MODEL", nargs="?", type=unicode_text, help="each offer of this model, by name or id"
    )
    offers.add_argument("--tier", choices=TIERS, help="jobs of this kind only")
    offers.add_argument("--watch", action="store_true", help="go on showing what changes, until Ctrl-C")
    network_options(offers)


def _add_market(commands: Commands) -> None:
    market = commands.add(
        "market", "cocoon_p2p.cli.market:run_history", "prices of the past, and the signed announcements behind them",
        epilog="cocoon-node market MODEL --history is short for cocoon-node market history MODEL",
    )  # fmt: skip
    actions = commands.below(market)
    history = actions.add(
        "history", "cocoon_p2p.cli.market:run_history", "price and depth of a model over time",
        epilog="From what the node of this home has seen; it needs not run now.",
    )  # fmt: skip
    history.add_argument("model", metavar="MODEL", type=unicode_text, help="name or id")
    history.add_argument("--history", action="store_true", help=argparse.SUPPRESS)
    history.add_argument("--tier", choices=TIERS, default="sealed", help="jobs of this kind (default: sealed)")
    _add_hours(history)
    history.add_argument("--png", metavar="FILE", help="draw it into this file, too")
    export = actions.add(
        "export", "cocoon_p2p.cli.market:run_export", "write the signed announcements that this node heard into a file",
        epilog="Whoever has the file can replay it: cocoon-node market replay FILE",
    )  # fmt: skip
    export.add_argument("file", metavar="FILE")
    _add_hours(export)
    replay = actions.add(
        "replay", "cocoon_p2p.cli.market:run_replay", "the order book that follows from exported announcements",
        epilog="Each signature is checked, and the book made as a node makes its own. Needs no node and no network.",
    )  # fmt: skip
    replay.add_argument("file", metavar="FILE", help="what cocoon-node market export wrote")
    replay.add_argument("--at", metavar="TIME", type=_moment,
                        help="the book of then: 2026-03-01T12:30 in local time, or with a zone, or Unix milliseconds "
                        "(default: when the file was written)")  # fmt: skip
    replay.add_argument("--model", metavar="MODEL", help="each offer of this model, by name or id")


def _add_doctor(commands: Commands) -> None:
    doctor = commands.add(
        "doctor", "cocoon_p2p.cli.doctor:run", "examine the running node, and buy from it as a stranger would",
        epilog="Costs nothing: the stranger is made for the purpose and has play money. Exit status: 0 nothing failed, 1 "
        "something did, 2 no node runs here.",
    )  # fmt: skip
    doctor.add_argument("--no-canary", action="store_true", help="run and buy nothing: look only")
    doctor.add_argument("--timeout", metavar="S", type=_patience, default=DOCTOR_IN_ALL_S,
                        help=f"give up what is not done after so many seconds (default: {DOCTOR_IN_ALL_S:.0f})")  # fmt: skip


def _patience(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= DOCTOR_IN_ALL_MAX_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds above 0 and up to {DOCTOR_IN_ALL_MAX_S:.0f}"
        )
    return seconds


def with_history(arguments: Sequence[str]) -> list[str]:
    """`market MODEL …` as `market history MODEL …`; all else as it is."""
    words = list(arguments)
    place = _after_options(words, 0)
    if words[place : place + 1] == ["market"]:
        action = _after_options(words, place + 1)
        if action == len(words) or words[action] not in MARKET_ACTIONS:
            words.insert(place + 1, "history")
    return words


def _after_options(words: Sequence[str], place: int) -> int:
    """The first place from here on where none of the options stands that every command takes."""
    while place < len(words) and words[place].startswith(("--home", "--json")):
        place += 2 if words[place] == "--home" else 1
    return place


def _add_hours(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", metavar="N", type=_hours, default=HISTORY_HOURS_DEFAULT,
                        help=f"of the last so many hours (default: {HISTORY_HOURS_DEFAULT:.0f})")  # fmt: skip


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= MARKET_HOURS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of hours above 0 and up to {MARKET_HOURS_MAX:,}")
    return hours


def _moment(text: str) -> int:
    """Unix milliseconds."""
    if text.isascii() and text.isdigit() and len(text) <= 15:
        return int(text)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1000)  # without a zone: local time
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2026-03-01T12:30, 2026-03-01T12:30+01:00 or 1772364600000"
        ) from None
