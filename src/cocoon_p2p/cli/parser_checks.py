"""The arguments of the commands about wrong answers: canary jobs and evidence."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cocoon_p2p.cli.parser_network import PEER_HELP, Commands, unicode_text
from cocoon_p2p.limits import AUDIT_COUNT_MAX, QUORUM_MAX


def add_check_commands(
    commands: Commands, network_options: Callable[[argparse.ArgumentParser], None], nanogram: Callable[[str], int]
) -> None:
    """`network_options` adds --bootstrap and --config; `nanogram` reads an amount."""
    audit = commands.add(
        "audit", "cocoon_p2p.cli.audit:run", "give providers jobs whose answer is known, and see who is right",
        epilog="Each job is paid like any other and looks like any other. With the model installed here the answer is known "
        "by running it; else by what most of the providers say. Exit status 1 when an answer was wrong.",
    )  # fmt: skip
    audit.add_argument("model", metavar="MODEL", type=unicode_text, help="name or id of a model")
    audit.add_argument("--provider", metavar="PEER", action="append", default=[],
                       help=f"this one, and no others; repeatable; {PEER_HELP} (default: up to {QUORUM_MAX} that offer it)")  # fmt: skip
    audit.add_argument("--count", metavar="N", type=_count, default=1, help="jobs for each provider (default: 1)")
    audit.add_argument("--max-price", metavar="NANOGRAM", type=nanogram,
                       help="the most that each job may cost (default: node.toml)")  # fmt: skip
    audit.add_argument("--tier", choices=("sealed", "open"), help="kind of job (default: node.toml)")
    network_options(audit)
    evidence = commands.add(
        "evidence", "cocoon_p2p.cli.evidence:run_list", "evidence of wrong answers that providers gave"
    )
    actions = commands.below(evidence)
    actions.add("list", "cocoon_p2p.cli.evidence:run_list", "what evidence this node has")
    show = actions.add(
        "show", "cocoon_p2p.cli.evidence:run_show", "whom a file accuses of what; its content is not shown"
    )
    show.add_argument("file", metavar="FILE")
    check = actions.add(
        "check", "cocoon_p2p.cli.evidence:run_check", "what a file proves, whoever made it",
        epilog="Checks every signature and hash, and runs the model where it is here. Exit status: 0 the answer is proven "
        "wrong, 1 it is not, 2 the file is no evidence.",
    )  # fmt: skip
    check.add_argument("file", metavar="FILE")
    check.add_argument("--model", metavar="PATH",
                       help="the model, where it is not installed here: an .onnx file, or a folder with one")  # fmt: skip
    check.add_argument("--config", metavar="FILE", help="configuration to use instead of HOME/node.toml")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= AUDIT_COUNT_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {AUDIT_COUNT_MAX}")
    return int(text)
