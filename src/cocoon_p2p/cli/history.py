"""`cocoon-node jobs | receipts | wallet`: from the running node, or from what the last one left on the disk."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.output import Column, print_json, print_note, print_pairs, print_table
from cocoon_p2p.cli.place import existing_home
from cocoon_p2p.cli.words import TEST_MONEY, age, gram, money_note, short_id, short_peer
from cocoon_p2p.home import Home
from cocoon_p2p.units import format_money

JOB_COLUMNS = (
    Column("JOB"),
    Column("ROLE"),
    Column("MODEL", elastic=True),
    Column("PEER"),
    Column("STATE"),
    Column("GRAM", right=True),
    Column("ITEMS", right=True),
    Column("AGE", right=True),
)
RECEIPT_COLUMNS = (
    Column("JOB"),
    Column("ROLE"),
    Column("MODEL", elastic=True),
    Column("PEER"),
    Column("GRAM", right=True),
    Column("ITEMS", right=True),
    Column("SIGNED BY"),
    Column("AGE", right=True),
)
CHANNEL_COLUMNS = (
    Column("CHANNEL"),
    Column("ROLE"),
    Column("PEER"),
    Column("DEPOSIT", right=True),
    Column("SIGNED", right=True),
    Column("EARNED", right=True),
    Column("RESERVED", right=True),
    Column("STATE"),
)


def run_jobs(options: argparse.Namespace) -> int:
    rows = rows_of(existing_home(options), "jobs", options.limit)
    if options.json:
        print_json({"jobs": rows})
    elif rows:
        print_table(JOB_COLUMNS, [_job_cells(row) for row in rows])
        for row in rows:
            if row.get("error"):
                print_note(f"{short_id(row['job_id'])}: {row['error']}")
    else:
        print_note("no jobs yet")
    return 0


def run_receipts(options: argparse.Namespace) -> int:
    rows = rows_of(existing_home(options), "receipts", options.limit)
    if options.json:
        print_json({"receipts": rows})
    elif rows:
        print_table(RECEIPT_COLUMNS, [_receipt_cells(row) for row in rows])
        print_note(f"{TEST_MONEY}; the signed bytes with --json")
    else:
        print_note("no receipts yet")
    return 0


def run_wallet(options: argparse.Namespace) -> int:
    wallet = _wallet(existing_home(options))
    if options.json:
        print_json(wallet)
        return 0
    network = int(wallet.get("network_id") or 0)
    amounts = [("money", money_note(network))]
    for name in ("available", "deposited", "spent", "earned", "claimed"):
        amounts.append((name, format_money(int(wallet.get(f"{name}_nanogram") or 0), network_id=network)))
    print_pairs(amounts)
    channels = wallet.get("channels") or []
    if channels:
        print()
        print_table(CHANNEL_COLUMNS, [_channel_cells(channel) for channel in channels])
    return 0


def rows_of(home: Home, what: str, limit: int) -> list[dict[str, Any]]:
    """The newest "jobs" or "receipts", newest first. Raises CocoonError."""
    api = connect(home.api_socket())
    if api is not None:
        rows: list[dict[str, Any]] = api.get(f"/v1/{what}", limit=limit).get(what, [])
        return rows
    from cocoon_p2p.rows import job_row, receipt_rows
    from cocoon_p2p.store import open_store

    with open_store(home.state_file, read_only=True) as store:
        if what == "jobs":
            return [job_row(job) for job in store.jobs.newest(limit)]
        return receipt_rows(store, limit)


def _wallet(home: Home) -> dict[str, Any]:
    api = connect(home.api_socket())
    if api is not None:
        return api.get("/v1/wallet")
    from cocoon_p2p.rows import wallet_row
    from cocoon_p2p.settlement.local import read_local_settlement

    balance, channels = read_local_settlement(home.ledger_file)
    return wallet_row(balance, channels)


def _job_cells(row: dict[str, Any]) -> list[Any]:
    return [
        short_id(row["job_id"]),
        row["role"],
        row.get("model_name") or short_id(row.get("model_id")),
        short_peer(row["peer_id"]),
        row["state"],
        _amount(row["price_nanogram"]),
        row["items"],
        age(row.get("finished_at_ms") or row.get("created_at_ms")),
    ]


def _receipt_cells(row: dict[str, Any]) -> list[Any]:
    return [
        short_id(row["job_id"]),
        row["role"],
        row.get("model_name") or short_id(row["model_id"]),
        short_peer(row["peer_id"]),
        _amount(row["price_nanogram"]),
        row["items"],
        "both" if row.get("client_signature") else "provider",
        age(row["finished_at_ms"]),
    ]


def _channel_cells(row: dict[str, Any]) -> list[Any]:
    keys = ("deposit_nanogram", "cumulative_nanogram", "earned_nanogram", "reserved_nanogram")
    amounts = [_amount(row[key]) for key in keys]
    state = "closed" if row["closed"] else "open"
    return [short_id(row["channel"]), row["role"], short_peer(row["peer_id"]), *amounts, state]


def _amount(nanogram: Any) -> str:
    return gram(nanogram).removesuffix(" GRAM")
