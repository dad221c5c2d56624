"""`cocoon-node audit`: jobs whose answer is known, for providers that do not know it."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.output import Column, print_json, print_note, print_table
from cocoon_p2p.cli.peer_names import provider_at
from cocoon_p2p.cli.place import load_place
from cocoon_p2p.cli.waiting import told_after_a_moment
from cocoon_p2p.cli.words import TEST_MONEY, gram, short_peer
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.home import Home

COLUMNS = (
    Column("PROVIDER"),
    Column("ANSWER"),
    Column("DEVIATION", right=True),
    Column("PRICE", right=True),
    Column("JOB"),
    Column("", elastic=True),
)


def run(options: argparse.Namespace) -> int:
    """1 when an answer was wrong."""
    home, config = load_place(options)
    given = {"model": options.model, "count": options.count, "max_price": options.max_price, "tier": options.tier}
    wanted = {key: value for key, value in given.items() if value is not None}
    api = connect(home.api_socket())
    with told_after_a_moment("looking for providers, and waiting for their answers; Ctrl-C ends it"):
        rows = _audited(options, home, config, api, wanted)
    if options.json:
        print_json({"audited": rows})
    else:
        _print(rows)
    return int(any(row["verdict"] == "wrong" for row in rows))


def _audited(
    options: argparse.Namespace, home: Home, config: NodeConfig, api: LocalApi | None, wanted: dict[str, Any]
) -> list[dict[str, Any]]:
    """What the running node says, or one that lives as long as this."""
    if api is not None:
        if options.provider:
            wanted["providers"] = [provider_at(api, each, options.model) for each in options.provider]
        rows: list[dict[str, Any]] = api.post("/v1/audit", wanted, timeout_s=None)["audited"]
        return rows
    from cocoon_p2p.cli.guest import audit_as_guest

    return audit_as_guest(home, config, options.bootstrap, wanted, options.provider)


def _print(rows: list[dict[str, Any]]) -> None:
    print_table(COLUMNS, [_cells(row) for row in rows])
    spent = sum(row["price_nanogram"] for row in rows)
    wrong = sum(row["verdict"] == "wrong" for row in rows)
    some = "1 answer" if len(rows) == 1 else f"{len(rows)} answers"
    print_note(f"{some}, {wrong} wrong; {gram(spent)} spent ({TEST_MONEY})")
    for row in rows:
        if row["evidence"]:
            print_note(f"evidence of a wrong answer; check it: cocoon-node evidence check {row['evidence']}")


def _cells(row: dict[str, Any]) -> list[Any]:
    deviation = "-" if row["deviation"] is None else f"{row['deviation']:.1e}"
    price = gram(row["price_nanogram"]).removesuffix(" GRAM")
    return [
        short_peer(row["provider"]),
        row["verdict"],
        deviation,
        price,
        (row["job_id"] or "-")[:12],
        row["error"] or "",
    ]
