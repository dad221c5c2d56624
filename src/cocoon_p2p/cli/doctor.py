"""`cocoon-node doctor`: examine the running node from within and, as a stranger, from outside; say what to do."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.doctor_checks import Check, totals
from cocoon_p2p.cli.interrupts import run_async, until_interrupted
from cocoon_p2p.cli.output import paint, print_json, print_note, printable, terminal_columns
from cocoon_p2p.cli.place import home_option, load_place, running_node
from cocoon_p2p.home import Home

INTERRUPTED = 130
FAILED = 1
INDENT = 6
STYLES = {"pass": "green", "warn": "yellow", "fail": "red", "skip": "dim"}


def run(options: argparse.Namespace) -> int:
    """0: nothing failed; 1: something did; 2: no node runs here."""
    home, _ = load_place(options)
    api = running_node(home)
    checks = run_async(until_interrupted, partial(_examine, options, home, api))
    if checks is None:
        print_note("stopped")
        return INTERRUPTED
    failed, warned = (sum(check.state == state for check in checks) for state in ("fail", "warn"))
    if options.json:
        print_json({"checks": [asdict(check) for check in checks], "failed": failed, "warned": warned})
    else:
        print(totals(checks))
    return FAILED if failed else 0


async def _examine(options: argparse.Namespace, home: Home, api: LocalApi) -> list[Check]:
    from cocoon_p2p.cli.doctor_rounds import Rounds  # loads the network

    logging.getLogger("cocoon_p2p").setLevel(logging.CRITICAL)  # what the stranger meets stands in the checks
    say = _remember if options.json else _show
    rounds = Rounds(
        api,
        home,
        home_option(home),
        say=say,
        canary=not options.no_canary,
        timeout_s=options.timeout,
        rng=random.SystemRandom(),
    )
    return await rounds.run()


def _remember(check: Check) -> None:
    """With --json nothing is said before the end."""


def _show(check: Check) -> None:
    print("\n".join(lines_of(check, terminal_columns(), paint=partial(paint, stream=sys.stdout))), flush=True)


def lines_of(check: Check, width: int, *, paint: Callable[[str, str], str] = lambda text, style: text) -> list[str]:
    """The lines of a check: its state as a word, what was seen, and what to do. `paint` puts a text into a style."""
    seen = textwrap.wrap(
        printable(f"{check.name}: {check.seen}"),
        max(width - INDENT, 20),
        break_long_words=False,
        break_on_hyphens=False,
    )
    first = paint(check.state, STYLES[check.state]) + " " * (INDENT - len(check.state))
    lines = [first + seen[0], *(" " * INDENT + line for line in seen[1:])]
    if check.advice:  # in one line, so that a command in it can be copied
        lines.append(f"{' ' * INDENT}do: {printable(check.advice)}")
    return lines
