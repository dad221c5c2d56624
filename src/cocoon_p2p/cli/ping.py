"""`cocoon-node ping PEER`: round trips by way of the running node, and what they amount to."""

from __future__ import annotations

import argparse
import time
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.interrupts import sigterm_as_ctrl_c
from cocoon_p2p.cli.output import print_json, print_note
from cocoon_p2p.cli.peer_names import find_peer
from cocoon_p2p.cli.peers import known_peers, via, where
from cocoon_p2p.cli.place import find_home, running_node
from cocoon_p2p.cli.words import milliseconds, short_ids, short_peer
from cocoon_p2p.errors import CocoonError, ConfigError, TransportError

INTERVAL_S = 1.0
FAILED = 1
HOPELESS = ("NO_ADDRESS", "BANNED")
"""What will not be otherwise in a second."""


def run(options: argparse.Namespace) -> int:
    """0 when at least one came back. Ctrl-C and SIGTERM end it with the summary."""
    api = running_node(find_home(options))
    peer = find_peer(options.peer, known_peers(api))
    times: list[float | None] = []
    failure: CocoonError | None = None
    try:
        with sigterm_as_ctrl_c():
            failure = _ping(api, peer, options.count, times, quiet=options.json)
    except KeyboardInterrupt:
        print_note("stopped")
    row = _found(api, peer)
    if failure is not None and not any(each is not None for each in times):
        raise failure
    answered = [each for each in times if each is not None]
    if options.json:
        print_json(_summary(peer, times, answered, row))
    else:
        print(_summary_line(peer, times, answered))
    return 0 if answered or not times else FAILED


def _ping(api: LocalApi, peer: str, count: int, times: list[float | None], *, quiet: bool) -> CocoonError | None:
    """Fill `times`, None for what did not come back; the last failure."""
    failure = None
    while not count or len(times) < count:
        if times:
            time.sleep(INTERVAL_S)
        try:
            times.append(float(api.post("/v1/ping", {"peer_id": peer})["latency_ms"]))
        except (ConfigError, TransportError):  # ours to mend, or the node has gone
            raise
        except CocoonError as error:
            if error.code in HOPELESS:
                raise
            failure = error
            times.append(None)
        if not quiet:
            _say(api, peer, times, failure)
    return failure


def _say(api: LocalApi, peer: str, times: list[float | None], failure: CocoonError | None) -> None:
    if len(times) == 1 and times[0] is not None:
        row = _found(api, peer)
        if row:
            print_note(f"{short_peer(peer)} at {where(row)} ({via(row)})")
    took = times[-1]
    if took is not None:
        print(f"{len(times)}: {milliseconds(took)}", flush=True)
    else:
        print_note(f"{len(times)}: {short_ids(failure.message) if failure else 'no answer'}")


def _found(api: LocalApi, peer: str) -> dict[str, Any]:
    return next((row for row in api.get("/v1/peers").get("peers", []) if row["peer_id"] == peer), {})


def _summary(peer: str, times: list[float | None], answered: list[float], row: dict[str, Any]) -> dict[str, Any]:
    return {
        "peer_id": peer,
        "sent": len(times),
        "answered": len(answered),
        "latencies_ms": times,
        "min_ms": min(answered, default=None),
        "mean_ms": round(sum(answered) / len(answered), 3) if answered else None,
        "max_ms": max(answered, default=None),
        "address": next(iter(row.get("addresses") or ()), None),
        "relayed": row.get("relayed"),
    }


def _summary_line(peer: str, times: list[float | None], answered: list[float]) -> str:
    lost = 100 * (len(times) - len(answered)) / len(times) if times else 0
    line = f"{short_peer(peer)}: {len(times)} sent, {len(answered)} answered, {lost:.0f} % lost"
    if not answered:
        return line
    mean = sum(answered) / len(answered)
    return f"{line}; min/mean/max {min(answered):.2f}/{mean:.2f}/{max(answered):.2f} ms"
