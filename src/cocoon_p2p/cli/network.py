"""`cocoon-node network`: private networks, which only those with their key can enter."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.join import join_home
from cocoon_p2p.cli.output import Whole, print_hint, print_json, print_note, print_pairs
from cocoon_p2p.cli.place import home_option, load_place
from cocoon_p2p.drivers.invites import is_invite, read_invite
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home, NetworkLabel, PrivateNetwork
from cocoon_p2p.limits import NAME_CHARS_MAX

PUBLIC = "the public network"


def run_show(options: argparse.Namespace) -> int:
    """Which network this home is in, and whether a running node is in the same."""
    home, _ = load_place(options)
    network = home.network_label()
    running = _of_running(home)
    row = _row(home, network) | {"running_fingerprint": None if running is None else running.fingerprint}
    if options.key:
        row["key"] = _key_text(home.private_network())
    if options.json:
        print_json(row)
    elif options.key:
        print(row["key"], end="")
        print_hint("whoever has this key can enter the network and read who is in it")
    else:
        print_pairs(_pairs(row))
        _say_restart(home, network, running)
    return 0


def run_create(options: argparse.Namespace) -> int:
    """A new key, kept in the home."""
    from cocoon_p2p.net.transport.private import generate_network_key

    network = PrivateNetwork(generate_network_key(), _name(options.name))
    home, _ = load_place(options)
    if home.network_file.exists():
        raise _in_one_already(home)
    home.init()
    home.enter_private_network(network)
    running = _say_entered(options, home, network.label, "made the private network")
    if not options.json:
        key = (
            f"what `cocoon-node network show --key{home_option(home)}` prints" if home.encrypted else home.network_file
        )
        print_note(f"others join by a copy of {key}: cocoon-node network join KEYFILE")
        when = "while this node runs" if running is None else "once this node runs in it"
        invite = f"cocoon-node invite --with-network-key{home_option(home)}"
        print_note(f"or, {when}, by an invite that holds the key: {invite}")
    return 0


def run_join(options: argparse.Namespace) -> int:
    """By a key file, or by an invite that holds the key."""
    home, _ = load_place(options)
    text = "".join(options.key)
    if is_invite(text) and not Path(options.key[0]).exists():
        network = _join_by_invite(home, text, options.name)
    else:
        network = PrivateNetwork(_key_in(home, options.key), _name(options.name))
        home.init()
        home.enter_private_network(network)
    _say_entered(options, home, network.label, "this home is in the private network")
    return 0


def run_leave(options: argparse.Namespace) -> int:
    """Back to the public network; the key stays in the home under another name."""
    home, _ = load_place(options)
    network, running = home.network_label(), _of_running(home)
    kept = home.leave_private_network()
    if options.json:
        print_json(_row(home, None) | {"key_kept_in": str(kept)})
        return 0
    print_note(f"this home is in {PUBLIC} from the next start on; private_bootstrap in node.toml stays as it is")
    name = f" --name {shlex.quote(network.name)}" if network is not None and network.name else ""
    print_note(f"to come back: cocoon-node network join {shlex.quote(str(kept))}{name}{home_option(home)}")
    if network is not None and running is not None and running.fingerprint == network.fingerprint:
        print_hint(f"a node runs here and stays in {_title(network)} until it is started again")
    return 0


def _join_by_invite(home: Home, text: str, name: str) -> PrivateNetwork:
    invitation = read_invite(text, now_ms=int(time.time() * 1000))
    if invitation.network_key is None:
        raise ConfigError(
            "this invite holds no network key",
            code="INVITE",
            hint="ask for one made with `cocoon-node invite --with-network-key`, or for the key file",
        )
    if home.network_file.exists():
        raise _in_one_already(home)
    join_home(home, invitation)
    network = home.private_network()
    assert network is not None
    return network


def _key_in(home: Home, words: list[str]) -> bytes:
    file = Path(" ".join(words)).expanduser()
    if home.network_file.exists():
        raise _in_one_already(home)
    return home.read_network_key(file)


def _in_one_already(home: Home) -> ConfigError:
    return ConfigError(
        f"this node is in a private network already: {home.network_file}",
        code="IN_PRIVATE_NETWORK",
        hint=f"leave it first: cocoon-node network leave{home_option(home)}",
    )


def _say_entered(options: argparse.Namespace, home: Home, network: NetworkLabel, what: str) -> NetworkLabel | None:
    """The network that the running node is in; None when none runs."""
    running = _of_running(home)
    if options.json:
        print_json(_row(home, network))
        return running
    print_note(f"{what} {_title(network)}")
    if running is None:
        print_note(f"next: cocoon-node up{home_option(home)}")
    _say_restart(home, network, running)
    return running


def _say_restart(home: Home, network: NetworkLabel | None, running: NetworkLabel | None) -> None:
    """When a node runs here in another network than its home is in."""
    if running is not None and running.fingerprint != ("" if network is None else network.fingerprint):
        where = _title(running) if running.fingerprint else PUBLIC
        print_hint(f"the node that runs here is in {where} until it is started again")


def _of_running(home: Home) -> NetworkLabel | None:
    """The network that the running node is in, without a fingerprint if it is the public one; None when none runs."""
    api = connect(home.api_socket())
    if api is None:
        return None
    row = api.get("/v1/network")
    return NetworkLabel(str(row.get("fingerprint") or ""), str(row.get("name") or ""))


def _row(home: Home, network: NetworkLabel | None) -> dict[str, Any]:
    return {
        "private": network is not None,
        "name": network.name or None if network else None,
        "fingerprint": network.fingerprint if network else None,
        "key_file": str(home.network_file) if network else None,
    }


def _pairs(row: dict[str, Any]) -> list[tuple[str, Any]]:
    if not row["private"]:
        return [
            ("network", PUBLIC),
            ("make one", Whole("cocoon-node network create")),
            ("enter one", Whole("cocoon-node network join KEYFILE|INVITE")),
        ]
    return [
        ("network", f"private, called {row['name']}" if row["name"] else "private"),
        ("fingerprint", row["fingerprint"]),
        ("key", Whole(row["key_file"])),
    ]


def _key_text(network: PrivateNetwork | None) -> str:
    from cocoon_p2p.net.transport.private import format_network_key

    if network is None:
        raise ConfigError(
            "this home is in no private network", code="NO_PRIVATE_NETWORK", hint="cocoon-node network create"
        )
    return format_network_key(network.key)


def _title(network: NetworkLabel) -> str:
    return f"{network.name} ({network.fingerprint[:8]}…)" if network.name else f"{network.fingerprint[:8]}…"


def _name(text: str) -> str:
    name = text.strip()
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise ConfigError(f"a network's name has at most {NAME_CHARS_MAX} characters, all of them printable")
    return name
