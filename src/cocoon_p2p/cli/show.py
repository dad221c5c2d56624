"""`cocoon-node status | offers`: what the running node knows at this moment."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.output import Column, print_json, print_note, print_pairs, print_table
from cocoon_p2p.cli.place import find_home, load_place, running_node
from cocoon_p2p.cli.reach import (
    bootstrap_pairs,
    clock_pairs,
    counter_pairs,
    network_pairs,
    reachability_pairs,
    refused_pairs,
)
from cocoon_p2p.cli.serving import serving_pairs
from cocoon_p2p.cli.words import duration, gram, money_note, short_id, short_peer, size, widest_first

OFFER_COLUMNS = (
    Column("MODEL", elastic=True),
    Column("ID"),
    Column("PROVIDER"),
    Column("A JOB", right=True),
    Column("AN ITEM", right=True),
    Column("TIERS", elastic=True),
    Column("FREE", right=True),
    Column("DEVICE", elastic=True),
)


def run_status(options: argparse.Namespace) -> int:
    with running_node(find_home(options)) as api:
        status = api.get("/v1/status")
    if options.json:
        print_json(status)
    else:
        counters = counter_pairs(status) if options.verbose else refused_pairs(status)
        print_pairs(_status_pairs(status, verbose=options.verbose) + counters)
    return 0


def run_offers(options: argparse.Namespace) -> int:
    """Through the running node, or through one that joins the network for this question."""
    home, config = load_place(options)
    api = connect(home.api_socket())
    if api is not None:
        with api:
            offers = api.get("/v1/offers", model=options.model).get("offers", [])
    else:
        from cocoon_p2p.cli.guest import offers_as_guest

        offers = offers_as_guest(home, config, options.bootstrap, options.model)
    if options.json:
        print_json({"offers": offers})
    elif offers:
        print_table(OFFER_COLUMNS, [_offer_cells(offer) for offer in offers])
        print_note(f"prices in GRAM: {money_note(offers[0].get('settlement_network'))}; full ids with --json")
    else:
        print_note("nobody else offers that" if options.model else "nobody else offers anything yet")
    return 0


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
    if status.get("memory_bytes"):
        pairs.append(("memory", size(status["memory_bytes"])))
    return pairs


def _offer_cells(offer: dict[str, Any]) -> list[Any]:
    free, total = offer.get("slots_free"), offer.get("slots_total")
    return [
        offer.get("name"),
        short_id(offer.get("model_id")),
        short_peer(offer.get("peer_id")),
        gram(offer.get("price_base")).removesuffix(" GRAM"),
        gram(offer.get("price_per_item")).removesuffix(" GRAM"),
        ",".join(str(tier) for tier in offer.get("tiers") or ()),
        f"{free}/{total}",
        offer.get("device") or "-",
    ]
