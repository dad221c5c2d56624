"""`cocoon-node status`: what the running node is and does at this moment."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.output import print_json, print_pairs
from cocoon_p2p.cli.place import find_home, running_node
from cocoon_p2p.cli.reach import (
    bootstrap_pairs,
    clock_pairs,
    counter_pairs,
    network_pairs,
    reachability_pairs,
    refused_pairs,
)
from cocoon_p2p.cli.serving import serving_pairs
from cocoon_p2p.cli.words import damaged_text, duration, size, widest_first


def run_status(options: argparse.Namespace) -> int:
    api = running_node(find_home(options))
    status = api.get("/v1/status")
    if options.json:
        print_json(status)
    else:
        counters = counter_pairs(status) if options.verbose else refused_pairs(status)
        print_pairs(_status_pairs(status, verbose=options.verbose) + counters)
    return 0


def audit_pairs(status: dict[str, Any]) -> list[tuple[str, Any]]:
    """What came of the jobs that second providers repeated, where that is configured."""
    audits = status.get("audits")
    if not audits:
        return []
    repeated, differed = audits["repeated"], audits["differed"]
    told = f"{repeated:,} job{'' if repeated == 1 else 's'} repeated by a second provider"
    if repeated:
        told += f", {differed:,} with another answer" if differed else ", all with the same answer"
    if differed:
        told += " (cocoon-node evidence list)"
    return [("audits", f"{told}; {audits['percent']:g} % of ours are")]


def _status_pairs(status: dict[str, Any], *, verbose: bool) -> list[tuple[str, Any]]:
    addresses = widest_first(status.get("addresses") or [])
    pairs: list[tuple[str, Any]] = [("peer id", status.get("peer_id"))]
    pairs += [("addresses" if i == 0 else "", address) for i, address in enumerate(addresses)]
    if status.get("uptime_s") is not None:
        pairs.append(("running for", duration(status["uptime_s"])))
    pairs.append(("peers", status.get("peers")))
    pairs += bootstrap_pairs(status) + network_pairs(status) + reachability_pairs(status) + clock_pairs(status)
    pairs += serving_pairs(status, verbose=verbose)
    jobs = status.get("jobs")
    if isinstance(jobs, dict):
        pairs.append(("jobs", ", ".join(f"{count} {state}" for state, count in jobs.items()) or "none yet"))
    pairs += audit_pairs(status)
    if status.get("damaged_rows"):
        pairs.append(("damaged", f"{damaged_text(status['damaged_rows'])} (cocoon-node doctor)"))
    if status.get("memory_bytes"):
        pairs.append(("memory", size(status["memory_bytes"])))
    return pairs
