"""The arguments of every command. Checked here as far as it goes without loading anything."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from cocoon_p2p.cli.parser_checks import add_check_commands
from cocoon_p2p.cli.parser_jobs import add_job_commands, nanogram
from cocoon_p2p.cli.parser_market import add_market_commands, with_history
from cocoon_p2p.cli.parser_models import add_models_commands
from cocoon_p2p.cli.parser_network import add_network_commands
from cocoon_p2p.limits import API_LIST_ROWS_MAX

PROGRAM = "cocoon-node"
LIST_ROWS_DEFAULT = 20
_INVALID_CHOICE = re.compile(r"invalid choice: '(?P<given>[^']*)' \(choose from (?P<choices>.*)\)$")
_UNRECOGNISED = re.compile(r"unrecognized arguments: (?P<given>--[\w-]+)")


class Parser(argparse.ArgumentParser):
    """argparse, with this program's form of error and a suggestion."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**(named | {"allow_abbrev": False}))

    def error(self, message: str) -> NoReturn:
        from cocoon_p2p.cli.output import print_error

        print_error(message, self._hint(message))
        raise SystemExit(2)

    def _hint(self, message: str) -> str:
        if match := _INVALID_CHOICE.search(message):
            nearest = _nearest(match["given"], re.findall(r"[\w-]+", match["choices"]))
        elif match := _UNRECOGNISED.search(message):
            given = match["given"]
            if given in _options_of(self):
                return f"{given} goes behind the command: {self.prog} {given}"
            if takers := [name for name, below in _commands_of(self).items() if given in _options_of(below)]:
                return (
                    f"{given} goes behind a command: {self.prog} {takers[0] if len(takers) == 1 else 'COMMAND'} {given}"
                )
            nearest = _nearest(given, _options_of(self))
        else:
            nearest = None
        return f"did you mean {nearest}?" if nearest else f"{self.prog} --help"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a command; `function` names what carries it out, as "module:function". Raises SystemExit."""
    parser = build_parser()
    options, unknown = parser.parse_known_args(with_history(arguments))
    if unknown:  # said by the command's own parser, which knows its options
        getattr(options, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if not hasattr(options, "home"):
        options.home = None
    return options


def build_parser() -> Parser:
    """The parser of `cocoon-node`."""
    parser = Parser(
        prog=PROGRAM,
        description="A node of the cocoon_p2p network: runs ONNX models for others, or has them run by others; "
        "sealed, paid, without a server.",
        epilog=f"First steps: `{PROGRAM} demo` shows a whole network on this machine; `{PROGRAM} COMMAND --help` "
        "explains a command.",
    )
    home = argparse.ArgumentParser(add_help=False)
    home.add_argument(
        "--home", metavar="DIR", default=argparse.SUPPRESS,
        help="folder of keys, models and databases (default: $COCOON_HOME, else ~/.cocoon)",
    )  # fmt: skip
    parser.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--version", action="store_const", const="cocoon_p2p.cli.version:run", dest="function",
                        help="show the version and exit")  # fmt: skip
    parser.set_defaults(json=False)
    commands = _Commands(parser.add_subparsers(metavar="COMMAND", title="commands", required=False), home)
    _add_node_commands(commands)
    add_models_commands(commands, nanogram, _add_network_options)
    add_job_commands(commands, _add_network_options)
    _add_lists(commands)
    add_market_commands(commands, _add_network_options)
    add_check_commands(commands, _add_network_options, nanogram)
    add_network_commands(commands, _add_config_option)
    _add_demo(commands)
    commands.add("version", "cocoon_p2p.cli.version:run", "show the version of the program and of what it is made of")
    parser.set_defaults(parser=parser)
    return _with_required_command(parser)


class _Commands:
    """Adds subcommands that all take --home and --json."""

    def __init__(self, commands: Any, home: argparse.ArgumentParser) -> None:
        self.actions = commands
        self._home = home

    def add(self, name: str, function: str, about: str, *, json: bool = True, **more: Any) -> Parser:
        parser: Parser = self.actions.add_parser(
            name, help=about, description=f"{about[0].upper()}{about[1:]}.", parents=[self._home], **more
        )
        if json:
            parser.add_argument("--json", action="store_true", help="print one JSON value on stdout")
        parser.set_defaults(function=function, parser=parser)
        return parser

    def below(self, parser: Parser) -> _Commands:
        """The actions of a command."""
        return _Commands(parser.add_subparsers(metavar="ACTION", title="actions"), self._home)


def _with_required_command(parser: Parser) -> Parser:
    parser.set_defaults(function="cocoon_p2p.cli.version:help_text")
    return parser


def _add_node_commands(commands: _Commands) -> None:
    commands.add("init", "cocoon_p2p.cli.init:run", "make an identity and a node.toml in which every key is explained")
    up = commands.add("up", "cocoon_p2p.cli.up:run", "start this node and keep it running until Ctrl-C or SIGTERM")
    _add_network_options(up)
    up.add_argument("--listen", metavar="MULTIADDR", action="append", type=_listen_address,
                    help="accept connections here instead of where node.toml says, such as /ip4/0.0.0.0/tcp/4601; repeatable")  # fmt: skip
    up.add_argument(
        "--model",
        metavar="PATH_OR_ID",
        action="append",
        default=[],
        help="serve this model, and of the installed ones only those named so: a path (.onnx file or folder), a name or an id; repeatable",
    )
    up.add_argument("--until-stdin-closes", action="store_true",
                    help="stop, too, when standard input ends: for a program that starts a node, so that the node does not outlive it")  # fmt: skip


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bootstrap", metavar="MULTIADDR", action="append", default=[],
                        type=_dial_address,
                        help="enter the network by this node: /ip4/…/tcp/…/p2p/PEER_ID; repeatable")  # fmt: skip
    _add_config_option(parser)


def _add_config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="configuration to use instead of HOME/node.toml")


def _add_lists(commands: _Commands) -> None:
    status = commands.add("status", "cocoon_p2p.cli.show:run_status", "what the running node does")
    status.add_argument("--verbose", action="store_true", help="all counters of what was dropped or refused, too")
    for name, about in (("jobs", "the newest jobs, asked for or done"), ("receipts", "the newest receipts")):
        rows = commands.add(name, f"cocoon_p2p.cli.history:run_{name}", about)
        rows.add_argument("--limit", metavar="N", type=_rows, default=LIST_ROWS_DEFAULT,
                          help=f"at most so many (default: {LIST_ROWS_DEFAULT})")  # fmt: skip
    commands.add("wallet", "cocoon_p2p.cli.history:run_wallet", "money: available, locked in channels, spent, earned")


def _add_demo(commands: _Commands) -> None:
    home = argparse.ArgumentParser(add_help=False)
    home.add_argument("--home", metavar="DIR", default=argparse.SUPPRESS,
                      help="make the nodes' folders in DIR and leave them there (default: a temporary folder, removed at the end)")  # fmt: skip
    demo = _Commands(commands.actions, home).add(
        "demo", "cocoon_p2p.cli.demo:run", "a real network on this machine: a semantic search, sealed and paid"
    )
    demo.add_argument("--file", metavar="FILE", help="text to search in (default: the project's README)")
    demo.add_argument("--question", metavar="TEXT",
                      help="what to search for (default: how do I earn money with my computer?)")  # fmt: skip
    demo.add_argument("--listen", metavar="MULTIADDR", type=_listen_address, default="/ip4/127.0.0.1/tcp/0",
                      help="where the bootstrap node listens; with /ip4/0.0.0.0/tcp/0 other machines can join (default: %(default)s)")  # fmt: skip
    demo.add_argument("--keep", action="store_true", help="let the network run until Ctrl-C")


def _rows(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= API_LIST_ROWS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {API_LIST_ROWS_MAX}")
    return int(text)


def _listen_address(text: str) -> str:
    from cocoon_p2p.config import problem_of_listen_address

    return _address(text, problem_of_listen_address(text))


def _dial_address(text: str) -> str:
    from cocoon_p2p.config import problem_of_dial_address

    return _address(text, problem_of_dial_address(text))


def _address(text: str, problem: str | None) -> str:
    if problem:
        raise argparse.ArgumentTypeError(problem)
    return text


def _nearest(given: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(given, known, n=1)), None)


def _commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: below
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, below in action.choices.items()
    }


def _options_of(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
