"""The arguments of the commands that have models run by others: run, map, generate, why."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from cocoon_p2p.cli.parser_network import PEER_HELP, Commands, unicode_text
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    GENERATION_LOGPROBS_MAX,
    GENERATION_SEED_BITS,
    GENERATION_TOKENS_MAX,
    HEDGE_MAX,
    JOB_TIMEOUT_MAX_S,
    MAP_IN_FLIGHT_MAX,
    QUORUM_MAX,
)
from cocoon_p2p.policy.preference import PREFERENCES

NetworkOptions = Callable[[argparse.ArgumentParser], None]
"""Adds --bootstrap and --config."""
_THROUGH_NODE = "Works through the node that runs on this home; without one, give --bootstrap."


def add_job_commands(commands: Commands, network_options: NetworkOptions) -> None:
    _add_run(commands, network_options)
    _add_map(commands, network_options)
    _add_generate(commands, network_options)
    why = commands.add(
        "why", "cocoon_p2p.cli.why:run", "who was considered for a job, what each said, and what would make it a yes",
        epilog="Of the newest orders of this home's node, done or failed; the node need not run.",
    )  # fmt: skip
    why.add_argument(
        "job",
        metavar="JOB_ID",
        type=unicode_text,
        help="the id of a job or the beginning of it: cocoon-node jobs, or a hint",
    )


def _add_run(commands: Commands, network_options: NetworkOptions) -> None:
    run = commands.add(
        "run", "cocoon_p2p.cli.run:run", "have a model run by a provider, sealed and paid, and get its outputs",
        epilog=_THROUGH_NODE,
    )  # fmt: skip
    run.add_argument(
        "model", metavar="MODEL", type=unicode_text, help="name or id of a model; `cocoon-node offers` lists them"
    )
    run.add_argument("--input", metavar="NAME=FILE.npy", action="append", default=[], type=_input,
                     help="an input tensor; repeatable; FILE.npy:bfloat16 for bits of a type that numpy lacks")  # fmt: skip
    run.add_argument("--text", metavar="TEXT", action="append", default=[], type=unicode_text,
                     help="a text for a model that takes texts; repeatable")  # fmt: skip
    run.add_argument("--output", metavar="DIR", help="write each output to DIR/<output name>.npy")
    _add_limits(run)
    run.add_argument("--hedge", metavar="N", type=_count("providers", HEDGE_MAX),
                     help=f"when a provider is late, one more does it, up to N at once, at most {HEDGE_MAX}; only one is paid")  # fmt: skip
    run.add_argument("--quorum", metavar="N", type=_count("answers", QUORUM_MAX),
                     help=f"compare the answers of N providers, at most {QUORUM_MAX}; each is paid")  # fmt: skip
    run.add_argument("--evidence", metavar="DIR",
                     help="with --quorum: write evidence of wrong answers to DIR; it shows this job's input")  # fmt: skip
    run.add_argument("--dry-run", action="store_true",
                     help="ask all providers and show what each says; nothing is run or paid")  # fmt: skip
    network_options(run)


def _add_map(commands: Commands, network_options: NetworkOptions) -> None:
    many = commands.add(
        "map", "cocoon_p2p.cli.map_texts:run", "run a model over a file of texts, at many providers at once",
        json=False, epilog=_THROUGH_NODE,
    )  # fmt: skip
    many.add_argument("model", metavar="MODEL", type=unicode_text, help="name or id of a model that takes texts")
    many.add_argument("--texts", metavar="FILE", required=True, help="one text a line; - for standard input")
    many.add_argument("--out", metavar="FILE.jsonl", required=True,
                      help="one JSON object a line, in the order of the texts: index, outputs or error, provider, price_nanogram")  # fmt: skip
    many.add_argument("--in-flight", metavar="N", type=_count("texts", MAP_IN_FLIGHT_MAX),
                      help=f"texts under way at once, at most {MAP_IN_FLIGHT_MAX} (default: as many as there is room for)")  # fmt: skip
    many.add_argument("--resume", action="store_true",
                      help="go on where an earlier run with the same texts and FILE.jsonl was stopped")  # fmt: skip
    _add_limits(many)
    network_options(many)


def _add_generate(commands: Commands, network_options: NetworkOptions) -> None:
    generate = commands.add(
        "generate", "cocoon_p2p.cli.generate:run", "have a language model write text, and see it as it is made",
        epilog=f"{_THROUGH_NODE} Ctrl-C stops the worker; what came is paid.",
    )  # fmt: skip
    generate.add_argument("model", metavar="MODEL", type=unicode_text, help="name or id of a model that generates text")
    generate.add_argument("prompt", metavar="PROMPT", nargs="?", help="what is said to it; - for standard input")
    _add_question(generate)
    _add_sampling(generate)
    generate.add_argument("--stream", action=argparse.BooleanOptionalAction, default=None,
                          help="show it as it is made (default: on a terminal); with --json: a JSON object a line")  # fmt: skip
    _add_limits(generate, deadline="node.toml's for every 256 of --max-tokens")
    network_options(generate)


def _add_question(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("--raw", action="store_true",
                          help="let the model go on with PROMPT as it is, without its chat template")  # fmt: skip
    generate.add_argument("--chat", metavar="FILE.json", help="a chat that PROMPT, if there is one, is added to: "
                          'a list of {"role", "content"}')  # fmt: skip
    generate.add_argument("--system", metavar="TEXT", help="what the model is told before all else")
    generate.add_argument("--tools", metavar="FILE.json", help="a list of tool definitions, for the model's template")
    generate.add_argument("--json-schema", metavar="FILE.json", help="the answer is JSON of this schema")
    generate.add_argument("--regex", metavar="REGEX", help="the answer matches this expression")


def _add_sampling(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("--max-tokens", metavar="N", type=_count("tokens", GENERATION_TOKENS_MAX),
                          help="the most that it may write (default: 256)")  # fmt: skip
    generate.add_argument("--temperature", metavar="X", type=_number("temperature", 2),
                          help="0: always the likeliest token (default); up to 2")  # fmt: skip
    generate.add_argument(
        "--top-p", metavar="X", type=_number("share", 1), help="draw of the likeliest tokens with this share together"
    )
    generate.add_argument(
        "--top-k", metavar="N", type=_count("tokens", 2**31 - 1), help="draw of so many likeliest tokens"
    )
    generate.add_argument("--seed", metavar="N", type=_seed, help="repeats an answer (default: drawn)")
    generate.add_argument("--stop", metavar="TEXT", action="append", default=[],
                          help="end the answer before this text; repeatable")  # fmt: skip
    generate.add_argument("--logprobs", metavar="N", type=_logprobs,
                          help="with --json: each token's log-probability, and those of the N likeliest")  # fmt: skip


def _add_limits(parser: argparse.ArgumentParser, *, deadline: str = "node.toml") -> None:
    parser.add_argument("--max-price", metavar="NANOGRAM", type=nanogram,
                        help="the most a job may cost (default: node.toml)")  # fmt: skip
    parser.add_argument("--tier", choices=("sealed", "open"),
                        help="sealed: only the provider's process sees the input (default); open: its neighbours may")  # fmt: skip
    parser.add_argument("--provider", metavar="PEER", help=f"have it run by this provider only; {PEER_HELP}")
    parser.add_argument("--timeout", metavar="S", type=_seconds,
                        help=f"the deadline: give up after so many seconds (default: {deadline})")  # fmt: skip
    parser.add_argument("--min-reliability", metavar="SHARE", type=_share,
                        help="only providers that are so reliable in this node's experience, 0 to 1; strangers count as 0.5")  # fmt: skip
    parser.add_argument("--prefer", choices=tuple(PREFERENCES),
                        help="which of the fitting offers to take (default: node.toml, else balanced)")  # fmt: skip


def nanogram(text: str) -> int:
    """An amount on the command line."""
    digits = text.replace("_", "").replace(",", "")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and int(digits) <= AMOUNT_NANOGRAM_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of nanogram: a whole number, not negative")
    return int(digits)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= JOB_TIMEOUT_MAX_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0 and up to {JOB_TIMEOUT_MAX_S:.0f}")
    return value


def _number(what: str, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is no {what} from 0 to {high:g}")
        return value

    return number


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**GENERATION_SEED_BITS):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {2**GENERATION_SEED_BITS - 1}")
    return int(text)


def _logprobs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) <= GENERATION_LOGPROBS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {GENERATION_LOGPROBS_MAX}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return value


def _count(what: str, high: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no number of {what} from 1 to {high}")
        return int(text)

    return count


def _input(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r} must look like NAME=FILE.npy")
    return name, file
