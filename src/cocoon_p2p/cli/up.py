"""`cocoon-node up`: the node, its local API, and what it says once it is ready."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from cocoon_p2p.cli.interrupts import run_async
from cocoon_p2p.cli.output import Whole, paint, print_json, print_note, print_pairs
from cocoon_p2p.cli.place import home_option, load_place, set_up_logging
from cocoon_p2p.cli.reach import network_pairs
from cocoon_p2p.cli.serving import serving_pairs
from cocoon_p2p.cli.version import version_of
from cocoon_p2p.cli.words import best_address
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.home import Home

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

INTERRUPTED = 130
STDIN_PIECE_BYTES = 4096
HANG_UP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""None on Windows."""


def run(options: argparse.Namespace) -> int:
    """Run until SIGTERM, Ctrl-C or the end of the terminal (or, with --until-stdin-closes, the end of stdin): 0 when the node
    was ready by then, 130 when it was interrupted before."""
    home, config = load_place(options)
    set_up_logging(config)
    without_core_files()
    made = home.init()
    if home.identity_file in made:
        print_note(f"made a new identity in {home.path}")
    if home.network_file.exists() and config.network.bootstrap and not config.network.private_bootstrap:
        print_note("in a private network the addresses of private_bootstrap are used, and those of bootstrap are not")
    return run_async(partial(_up, options, home, config))


def without_core_files() -> None:
    """A core file of this process would hold keys, and what others' jobs say."""
    # SPEC job/1 §3.5
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


async def _up(options: argparse.Namespace, home: Home, config: NodeConfig) -> int:
    ending = _Ending()
    with trio.open_signal_receiver(*ending_signals()) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ending.watch, signals)
            if options.until_stdin_closes:
                nursery.start_soon(ending.watch_stdin)
            with ending.opening:
                await _serve(options, home, config, ending)
            nursery.cancel_scope.cancel()
    return ending.status


def ending_signals() -> list[signal.Signals]:
    """Those that end a node: SIGHUP, the end of its terminal, among them unless it is ignored, as nohup has it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if HANG_UP is not None and signal.getsignal(HANG_UP) is not signal.SIG_IGN:
        numbers.append(HANG_UP)
    return numbers


class _Ending:
    """What signals do. The first ends the node cleanly: while it starts by cancelling that, later by `stop`, which lets
    requests under way end. The second ends the process at once; not SIGHUP, which comes from the shell and from the kernel
    when a terminal is closed, and from systemd right after SIGTERM."""

    def __init__(self) -> None:
        self.opening = trio.CancelScope()
        self.stop = trio.Event()
        self.ready = False
        self.status = 0

    async def watch(self, signals: AsyncIterator[int]) -> None:
        number = await anext(signals)
        if number != HANG_UP:  # nobody is there any more to read it
            print_note("stopping; the same again stops at once")
        self._end(INTERRUPTED if number == signal.SIGINT else 0)
        while (number := await anext(signals)) == HANG_UP:
            pass
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    async def watch_stdin(self) -> None:
        """End when nobody holds the other end of stdin any more, which the kernel sees to however that process died."""
        async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stream:
            while await stream.receive_some(STDIN_PIECE_BYTES):
                pass
        self._end(0)  # without a word: whoever read our stderr has probably gone too

    def _end(self, status_unless_ready: int) -> None:
        self.stop.set()
        if not self.ready:
            self.status = status_unless_ready
            self.opening.cancel()


async def _serve(options: argparse.Namespace, home: Home, config: NodeConfig, ending: _Ending) -> None:
    from cocoon_p2p.gateway.local_api import serve_local_api
    from cocoon_p2p.node import Node

    await trio.lowlevel.checkpoint()  # a signal may have come during the imports, which take a second or two
    models = [model_or_path(text) for text in options.model]
    opened = Node.open(home.path, config=config, bootstrap=options.bootstrap, listen=options.listen, models=models)
    async with opened as node:
        with home.api_socket_place() as place:
            async with trio.open_nursery() as nursery:
                await nursery.start(partial(serve_local_api, node, place, stop=ending.stop))
                ending.ready = True
                await node.resume_pulls()
                _say_ready(options, home, node)


def model_or_path(text: str) -> str:
    """A file or folder that exists as an absolute path, which the node takes for one; anything else is a name or id."""
    path = Path(os.path.expanduser(text))
    return str(path.absolute()) if os.path.exists(path) else text  # pathlib's raises for what is too long a name


def _say_ready(options: argparse.Namespace, home: Home, node: Node) -> None:
    addresses = list(node.addresses())
    if options.json:
        print_json({"event": "ready", "peer_id": node.peer_id, "addresses": addresses})
        return
    print(paint(f"cocoon-node {version_of('cocoon-p2p')}", "bold", sys.stdout), "is ready")
    print_pairs(ready_pairs(node.status(), addresses, home_option(home)), flush=True)


def ready_pairs(status: dict[str, Any], addresses: list[str], home_part: str) -> list[tuple[str, Any]]:
    """What a person wants to know of a node that just started."""
    pairs: list[tuple[str, Any]] = [("peer id", status.get("peer_id"))]
    pairs += [("listening" if i == 0 else "", address) for i, address in enumerate(addresses)]
    if not addresses:
        pairs.append(("listening", "nowhere: this node only dials others"))
    pairs += network_pairs(status)
    pairs += serving_pairs(status)
    address = best_address(addresses)
    if address is not None and (status.get("network") or {}).get("private"):
        pairs.append(("others join", Whole(f"by what `cocoon-node invite --with-network-key{home_part}` shows")))
        pairs.append(("", Whole(f"or, with the network's key: cocoon-node up --bootstrap {address}")))
    elif address is not None:
        pairs.append(("others join", Whole(f"cocoon-node up --bootstrap {address}")))
        pairs.append(("", Whole(f"or by what `cocoon-node invite{home_part}` shows")))
    pairs.append(("use it", Whole(f"cocoon-node offers{home_part}")))
    pairs.append(("", Whole(f"cocoon-node run MODEL …{home_part}")))
    return pairs
