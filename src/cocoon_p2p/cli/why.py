"""`cocoon-node why`: who was considered for an order, what each said, and what would make it a yes."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.output import print_json, print_pairs
from cocoon_p2p.cli.place import existing_home
from cocoon_p2p.cli.words import age, gram, milliseconds, short_id, short_peer
from cocoon_p2p.home import Home
from cocoon_p2p.units import format_nanogram


def run(options: argparse.Namespace) -> int:
    home = existing_home(options)
    api = connect(home.api_socket())
    if api is None:
        row = _from_disk(home, options.job)
    else:
        row = api.get(f"/v1/why/{options.job}")
    if options.json:
        print_json(row)
    else:
        print_consideration(row)
    return 0


def print_consideration(row: dict[str, Any]) -> None:
    """What `Node.why` and `Node.consider` return; of a quorum, all its answers."""
    legs = row.get("legs") or [row]
    if len(legs) > 1:
        print_pairs([("quorum", f"{len(legs)} answers were asked for; each is a job of its own")])
    for number, leg in enumerate(legs):
        if number or len(legs) > 1:
            print()
        _print_leg(leg)


def _print_leg(row: dict[str, Any]) -> None:
    providers = row.get("providers") or []
    pairs: list[tuple[str, Any]] = [
        ("order", f"{short_id(row.get('job_id'), 12)}, {age(row.get('at_ms'))} ago" + _kind(row)),
        ("model", f"{row.get('model')} ({short_id(row.get('model_id'))}), tier {row.get('tier')}"),
    ]
    if row.get("error"):
        pairs.append(("failed", row["error"]))
    if not providers:
        pairs.append(("providers", "none was known"))
    print_pairs(pairs)
    for entry in providers:
        print()
        print_pairs(
            _provider_pairs(entry, chosen=entry.get("peer_id") == row.get("chosen"), dry=bool(row.get("dry_run")))
        )


def _kind(row: dict[str, Any]) -> str:
    return "; a dry run: nothing was run or paid" if row.get("dry_run") else ""


def _provider_pairs(entry: dict[str, Any], *, chosen: bool, dry: bool) -> list[tuple[str, Any]]:
    mark = (": would be taken" if dry else ": taken") if chosen else ""
    pairs: list[tuple[str, Any]] = [(short_peer(entry.get("peer_id")), f"{_said(entry)}{mark}")]
    if entry.get("detail"):
        pairs.append(("", entry["detail"]))
    if entry.get("would_be_yes"):
        pairs.append(("", f"→ {entry['would_be_yes']}"))
    return pairs


def _said(entry: dict[str, Any]) -> str:
    price, queue = entry.get("price_nanogram"), entry.get("queue_ms")
    offer = "" if price is None else f" {gram(price)} ({format_nanogram(price)})"
    offer += f", {milliseconds(queue)} to wait" if queue else ""
    match entry.get("answer"):
        case "quote":
            return f"quoted{offer}"
        case "refusal":
            return f"refused, {entry.get('reason')}" + (", signed" if entry.get("signed") else "")
        case "error":
            return f"failed, {entry.get('reason')}"
        case _ if entry.get("reason"):
            return f"not asked, {entry.get('reason')}"
        case _:
            return f"not asked; announced{offer}" if offer else "not asked"


def _from_disk(home: Home, job_id: str) -> dict[str, Any]:
    """No node runs: what the last one left. Raises ConfigError."""
    from cocoon_p2p.drivers.clock import SystemClock
    from cocoon_p2p.drivers.considerations import ConsiderationKeeper
    from cocoon_p2p.store import open_store

    with open_store(home.state_file, read_only=True) as store:
        return ConsiderationKeeper(store, SystemClock()).find(job_id)
