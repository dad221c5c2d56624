"""`cocoon-node models pull MODEL`: fetch a model from peers, by way of the running node, or by joining the network for it."""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.guest import guest_config
from cocoon_p2p.cli.interrupts import run_async, sigterm_as_ctrl_c, until_interrupted
from cocoon_p2p.cli.models import model_pairs
from cocoon_p2p.cli.output import print_json, print_note, print_pairs, terminal_columns
from cocoon_p2p.cli.peer_names import find_peer
from cocoon_p2p.cli.peers import known_peers
from cocoon_p2p.cli.place import home_option, load_place
from cocoon_p2p.cli.transfer_progress import transfer_line
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home

if TYPE_CHECKING:
    from cocoon_p2p.drivers.model_pull import PullProgress

POLL_S = 0.5
INTERRUPTED = 130
"""As a shell reports a command that Ctrl-C ended."""
_PHASES = {
    "searching": "looking for who has it",
    "checking": "checking what is here",
    "fetching": "fetching",
    "installing": "installing",
}
_CLEAR = "\r\x1b[K"


def run_pull(options: argparse.Namespace) -> int:
    """0 when the model is here, 130 after Ctrl-C: what came is kept."""
    home, config = load_place(options)
    api = connect(home.api_socket())
    line = ProgressLine()
    try:
        with sigterm_as_ctrl_c():
            if api is None:
                row = _as_guest(home, config, options, line)
            else:
                row = _by_node(api, options, line)
    except KeyboardInterrupt:
        line.clear()
        print_note(f"stopped; what came is kept: cocoon-node models pull {options.model}{home_option(home)} goes on")
        return INTERRUPTED
    finally:
        line.clear()
    _print(home, config, row, options, running=api is not None)
    return 0


def _print(home: Home, config: NodeConfig, row: dict[str, Any], options: argparse.Namespace, *, running: bool) -> None:
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    model = model_row(ModelRegistry(home.path).get(row["model_id"]))
    if options.json:
        print_json({**model, "pull": row})
        return
    print_pairs(model_pairs(model, config))
    print_note(row["note"] or ("it was here already" if running else f"serve it: cocoon-node up{home_option(home)}"))


def _by_node(api: LocalApi, options: argparse.Namespace, line: ProgressLine) -> dict[str, Any]:
    wanted = {"model": options.model, "name": options.name, "from": _source(api, options.source)}
    row = api.post("/v1/pulls", {key: value for key, value in wanted.items() if value is not None})
    model_id = row["model_id"]
    try:
        while row["phase"] not in ("done", "failed"):
            line.show(row)
            time.sleep(POLL_S)
            row = next(each for each in api.get("/v1/pulls")["pulls"] if each["model_id"] == model_id)
    except KeyboardInterrupt:
        api.post("/v1/pulls/stop", {"model_id": model_id})
        raise
    if row["error"]:
        raise CocoonError(row["error"]["message"], code=row["error"]["code"], hint=row["error"]["hint"])
    return row


def _source(api: LocalApi, given: str | None) -> str | None:
    return given if given is None or given.startswith("/") else find_peer(given, known_peers(api))


def _as_guest(home: Home, config: NodeConfig, options: argparse.Namespace, line: ProgressLine) -> dict[str, Any]:
    home.init()
    guest = guest_config(home, config, options.bootstrap)
    row = run_async(until_interrupted, partial(_pull, home, guest, options, line))
    if row is None:
        raise KeyboardInterrupt
    return row


async def _pull(home: Home, config: NodeConfig, options: argparse.Namespace, line: ProgressLine) -> dict[str, Any]:
    from cocoon_p2p.node import Node
    from cocoon_p2p.node_pull import pull_row

    last: dict[str, Any] = {}

    def progress(state: PullProgress) -> None:
        last.update(pull_row(state))
        line.show(last)

    async with Node.open(home.path, config=config) as node:
        source = options.source
        if source is not None and not source.startswith("/"):
            source = find_peer(source, node.known_peers())
        model = await node.pull(options.model, source=source, name=options.name, progress=progress)
    return {"model_id": model.model_id, "note": None, **last}


class ProgressLine:
    """One line on a terminal, over and over; nothing where stderr is none."""

    def __init__(self) -> None:
        self._watched = sys.stderr.isatty()
        self._shown = False

    def show(self, row: dict[str, Any]) -> None:
        """`row`: node_pull.pull_row."""
        if self._watched and row["phase"] in _PHASES:
            sys.stderr.write(f"{_CLEAR}{progress_text(row, terminal_columns() - 1)}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
            self._shown = False


def progress_text(row: dict[str, Any], width: int) -> str:
    """How far a pull is, in at most `width` characters."""
    what, fetching = _PHASES[row["phase"]], row["phase"] == "fetching"
    if fetching and row["holders"]:
        what += f" from {row['holders']} peer{'' if row['holders'] == 1 else 's'}"
    return transfer_line(what, row["done_bytes"], row["total_bytes"], row["bytes_s"] if fetching else 0, width)
