"""`cocoon-node join INVITE`: into the running node, or into the home folder for the next start."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.output import print_json, print_note
from cocoon_p2p.cli.place import home_option, load_place
from cocoon_p2p.cli.words import short_peer
from cocoon_p2p.config_edit import add_bootstrap
from cocoon_p2p.drivers.invites import Invitation, read_invite, require_usable
from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.home import Home, PrivateNetwork
from cocoon_p2p.rows import joined_row


def run(options: argparse.Namespace) -> int:
    """A node that runs connects at once; without one, and with --later, the addresses go into node.toml."""
    home, _ = load_place(options)
    text = "".join(options.invite).strip()  # a terminal may have folded it
    file = Path(options.config) if options.config else None
    api = connect(home.api_socket())
    if api is None or not text or options.later:
        _join_later(options, home, file, text, runs=api is not None)
        return 0
    row = _join_now(api, home, text)
    if file is not None:
        invitation = read_invite(text, now_ms=_now_ms())
        add_bootstrap(file, invitation.entries, private=bool(invitation.fingerprint))
    if options.json:
        print_json({**row, "connected": True, "entered_private_network": False})
    else:
        print_note(f"connected to {short_peer(row['peer_id'])}, and remembered for the next start")
        print_note(f"look around: cocoon-node peers{home_option(home)}, cocoon-node offers{home_option(home)}")
    return 0


def _join_now(api: LocalApi, home: Home, text: str) -> dict[str, Any]:
    """Raises CocoonError that says what has become of the invite."""
    try:
        return api.post("/v1/join", {"invite": text})
    except (ConfigError, TransportError):  # an invite that is of no use here; the node has gone
        raise
    except CocoonError as error:
        later = f"nothing was remembered; to enter by it from the next start on: cocoon-node join --later{home_option(home)} INVITE"
        hint = f"{error.hint}; {later}" if error.hint else later
        raise CocoonError(error.message, code=error.code, retryable=error.retryable, hint=hint) from error


def _join_later(options: argparse.Namespace, home: Home, file: Path | None, text: str, *, runs: bool) -> None:
    invitation = read_invite(text, now_ms=_now_ms())
    entered = join_home(home, invitation, file)
    row = joined_row(invitation, file or home.config_file)
    if options.json:
        print_json({**row, "connected": False, "entered_private_network": entered})
        return
    if entered:
        print_note(f"this home is in the private network {network_title(row)} from now on")
    print_note(f"from the next start on this node enters by {short_peer(invitation.peer)}, now in {row['written_to']}")
    if runs:
        print_note("the node that runs here now does not know of it")
        return
    config = f" --config {options.config}" if options.config else ""
    print_note(f"next: cocoon-node up{config}{home_option(home)}")


def join_home(home: Home, invitation: Invitation, file: Path | None = None) -> bool:
    """Make the home if needed, take the network key over if the invite holds one, and write the addresses into `file` (the
    home's node.toml); whether this home entered a private network by that. Raises ConfigError."""
    own = home.identity().peer_id if home.initialised else None
    network = home.network_label()
    fingerprint, name = ("", "") if network is None else (network.fingerprint, network.name)
    enters = invitation.network_key is not None and network is None
    if enters:
        _require_right_key(invitation)
        fingerprint = invitation.fingerprint
    require_usable(invitation, own=own, fingerprint=fingerprint, network_name=name)
    home.init()
    if enters and invitation.network_key is not None:
        home.enter_private_network(PrivateNetwork(invitation.network_key, invitation.network_name))
    add_bootstrap(file or home.config_file, invitation.entries, private=bool(fingerprint))
    return enters


def network_title(row: dict[str, Any]) -> str:
    """ "büro (3f2a91c0…)"."""
    fingerprint = f"{str(row.get('network_fingerprint') or '')[:8]}…"
    name = row.get("network_name")
    return f"{name} ({fingerprint})" if name else fingerprint


def _require_right_key(invitation: Invitation) -> None:
    if PrivateNetwork(invitation.network_key or b"").fingerprint != invitation.fingerprint:
        raise ConfigError(
            "this invite contradicts itself: its key is not that of the network it names",
            code="INVITE",
            hint="ask for a new one: cocoon-node invite --with-network-key",
        )


def _now_ms() -> int:
    return int(time.time() * 1000)
