"""`cocoon-node audit`: jobs whose answer is known, for providers that do not know it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.history import rows_of
from cocoon_p2p.cli.interrupts import sigterm_as_ctrl_c
from cocoon_p2p.cli.output import Column, print_json, print_note, print_table
from cocoon_p2p.cli.peer_names import provider_at
from cocoon_p2p.cli.place import load_place
from cocoon_p2p.cli.waiting import told_after_a_moment
from cocoon_p2p.cli.words import TEST_MONEY, gram, short_peer
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home
from cocoon_p2p.limits import API_LIST_ROWS_MAX

SETTLED_S = 2.0
"""How long jobs under way may take to end after Ctrl-C, before what was paid is told."""
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
    waits = told_after_a_moment("looking for providers, and waiting for their answers; Ctrl-C ends it")
    with sigterm_as_ctrl_c(), _told_when_interrupted(home), waits:
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


@contextmanager
def _told_when_interrupted(home: Home) -> Iterator[None]:
    """After Ctrl-C within the block: what was done and paid since it began. The answers are lost with it."""
    newest = next((row["job_id"] for row in _newest_jobs(home, 1)), None)
    try:
        yield
    except (KeyboardInterrupt, BaseExceptionGroup) as error:
        if isinstance(error, KeyboardInterrupt) or error.subgroup(KeyboardInterrupt):
            print_note(_stopped(_jobs_since(home, newest)))
        raise


def _jobs_since(home: Home, newest: str | None) -> list[dict[str, Any]]:
    """The jobs that this node gave to others after the one with the id `newest`, once none of them goes on any more."""
    until = time.monotonic() + SETTLED_S
    while True:
        later = takewhile(lambda row: row["job_id"] != newest, _newest_jobs(home, API_LIST_ROWS_MAX))
        rows = [row for row in later if row["role"] == "client"]
        if time.monotonic() > until or all(row["state"] != "running" for row in rows):
            return rows
        time.sleep(SETTLED_S / 40)


def _newest_jobs(home: Home, limit: int) -> list[dict[str, Any]]:
    with suppress(CocoonError):  # a guest's first job makes the database
        return rows_of(home, "jobs", limit)
    return []


def _stopped(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "stopped before a job was given to anybody; nothing is paid"
    done = sum(row["state"] == "done" for row in rows)
    running = sum(row["state"] == "running" for row in rows)
    spent = sum(row["price_nanogram"] for row in rows if row["state"] != "running")
    jobs = "1 job was" if len(rows) == 1 else f"{len(rows)} jobs were"
    still = f", {running} still under way" if running else ""
    return (
        f"stopped: {jobs} given out meanwhile, {done} done{still}; {gram(spent)} spent ({TEST_MONEY}); "
        "each of them: cocoon-node jobs"
    )


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
