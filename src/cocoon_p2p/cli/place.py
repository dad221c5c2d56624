"""Where a command works: the home folder, its configuration, and the node that may be running there."""

from __future__ import annotations

import argparse
import logging
import re
import shlex
import sys
from pathlib import Path

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.config import NodeConfig, load_config
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home, locate_home


def load_place(options: argparse.Namespace) -> tuple[Home, NodeConfig]:
    """The home folder and configuration of a command with --home and, some, --config. Raises ConfigError."""
    file = getattr(options, "config", None)
    config = load_config(Path(file)) if file else NodeConfig()
    path = locate_home(options.home, config.node.home)
    if not file:
        config = load_config(None, path)
    return Home(path, passphrase_file=config.identity.passphrase_file), config


def find_home(options: argparse.Namespace) -> Home:
    """The home folder of a command that needs no configuration."""
    return Home(locate_home(options.home))


def existing_home(options: argparse.Namespace) -> Home:
    """The same, for a command that reads what a node left there. Raises ConfigError when there is none."""
    home = find_home(options)
    if not home.path.is_dir():
        raise _no_home(home)
    return home


def running_node(home: Home) -> LocalApi:
    """The node that runs on this home. Raises ConfigError when none does."""
    if not home.path.is_dir() and home.path != Path("~/.cocoon").expanduser():  # without the default one: a newcomer
        raise _no_home(home)
    api = connect(home.api_socket())
    if api is None:
        raise ConfigError(
            f"no node runs on {home.path}", code="NO_NODE", hint=f"start it: cocoon-node up{home_option(home)}"
        )
    return api


def _no_home(home: Home) -> ConfigError:
    return ConfigError(
        f"there is no home folder {home.path}",
        code="NO_HOME",
        hint=f"check --home and COCOON_HOME; to make this one: cocoon-node init{home_option(home)}",
    )


def home_option(home: Home) -> str:
    """` --home DIR` for a command that is shown, when this is not the home that it would take by itself."""
    return "" if home.path == locate_home() else f" --home {shlex.quote(str(home.path))}"


_COMMAND = re.compile(r"cocoon-node (?P<name>[a-z]+)\b(?P<rest>[^;`,)]*)")
_OF_ANY_HOME = ("demo", "invite", "market", "version")
"""Commands that a hint has for no home at all, or for somebody else's."""


def with_home(hint: str, given: str | None) -> str:
    """A hint with ` --home DIR` in the commands that lack it, when `given` (what stood behind --home) is not the home
    that they would take by themselves: a node does not know how its commands are called."""
    option = "" if given is None else home_option(Home(locate_home(given)))

    def complete(match: re.Match[str]) -> str:
        name, rest = match["name"], match["rest"]
        elsewhere = "other machine" in rest or hint.startswith("` on that machine", match.end())
        if name in _OF_ANY_HOME or " --home" in rest or elsewhere:
            return match[0]
        return f"cocoon-node {name}{option}{rest}"

    return _COMMAND.sub(complete, hint) if option else hint


def set_up_logging(config: NodeConfig) -> None:
    """Our own log at the configured level, on stderr; of libraries only warnings."""
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format=form)
    logging.getLogger("cocoon_p2p").setLevel(config.log.level.upper())
