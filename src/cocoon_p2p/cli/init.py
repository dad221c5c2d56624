"""`cocoon-node init`."""

from __future__ import annotations

import argparse

from cocoon_p2p.cli.output import Whole, print_json, print_note, print_pairs
from cocoon_p2p.cli.place import find_home, home_option
from cocoon_p2p.config import load_config
from cocoon_p2p.home import Home


def run(options: argparse.Namespace) -> int:
    """Make what is missing in the home folder. Run again, it changes nothing and says the same."""
    home = find_home(options)
    passphrase_file = load_config(None, home.path).identity.passphrase_file
    home = Home(home.path, passphrase_file=passphrase_file)
    made = home.init()
    peer_id = home.identity().peer_id
    home.channel_key()
    encrypted = home.encrypted
    if options.json:
        files = [str(file) for file in made]
        print_json({"peer_id": peer_id, "home": str(home.path), "made": files, "encrypted": encrypted})
        return 0
    if not made:
        print_note("everything was there already; nothing was changed")
    print_pairs(
        [
            ("peer id", peer_id),
            ("home", Whole(home.path)),
            ("keys", "encrypted with the passphrase" if encrypted else "readable by you alone, not encrypted"),
            ("configuration", Whole(home.config_file)),
        ]
    )
    print_note(f"next: cocoon-node models add PATH{home_option(home)}, then cocoon-node up{home_option(home)}")
    return 0
