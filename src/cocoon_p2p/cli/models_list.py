"""`cocoon-node models list`: what is installed here, and what the running node does with it."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.models import CONFIGURED, PRICES, config_of, usual_prices
from cocoon_p2p.cli.output import Column, print_error, print_json, print_note, print_table
from cocoon_p2p.cli.place import find_home, home_option
from cocoon_p2p.cli.words import TEST_MONEY, gram, short_id, size
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.home import Home

COLUMNS: tuple[Column, ...] = (
    Column("NAME", elastic=True),
    Column("ID"),
    Column("KIND", elastic=True),
    Column("SIZE", right=True),
    Column("LOADED"),
    Column("JOBS", right=True),
    Column("A JOB", right=True),
    Column("AN ITEM", right=True),
)


def run_list(options: argparse.Namespace) -> int:
    """The installed models with what the running node, if one runs, says of each. Status 1 when a folder holds none that can be read."""
    from cocoon_p2p.models.partial import unfinished
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    home = find_home(options)
    registry = ModelRegistry(home.path)
    models = registry.list()
    live, served = _live(home) if models else ({}, {})
    rows = [{**model_row(model), **_state(live.get(model.model_id), served.get(model.model_id, 0))} for model in models]
    problems = registry.problems()
    for problem in problems:
        print_error(problem, f"what to do about it: cocoon-node models verify{home_option(home)}")
    if options.json:
        kept = [{"model_id": each.model_id, "bytes": each.size} for each in unfinished(home.path)]
        print_json({"models": rows, "unfinished": kept})
    elif rows:
        columns, cells = COLUMNS, [_cells(row, config_of(options)) for row in rows]
        if not live:  # no node runs that could have loaded them
            columns, cells = _without(columns, cells, ("LOADED",))
        print_table(columns, cells)
        configured = any(row[key] is None for row in rows for key in PRICES)
        print_note(f"prices in GRAM: {TEST_MONEY}{f'; {CONFIGURED} is the price in node.toml' if configured else ''}")
    elif not problems:
        print_note(f"no models here; cocoon-node models add PATH{home_option(home)}")
    if not options.json:
        for each in unfinished(home.path):
            print_note(
                f"a part of model {short_id(each.model_id)} has come ({size(each.size)} are kept for it): `cocoon-node models pull "
                f"{each.model_id}{home_option(home)}` goes on, `models remove` ends it"
            )
    return 1 if problems else 0


def _without(
    columns: tuple[Column, ...], cells: list[list[Any]], titles: tuple[str, ...]
) -> tuple[tuple[Column, ...], list[list[Any]]]:
    kept = [number for number, column in enumerate(columns) if column.title not in titles]
    return tuple(columns[number] for number in kept), [[row[number] for number in kept] for row in cells]


def _live(home: Home) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """What the running node offers, by model id; and how many jobs were done for others on each model."""
    api = connect(home.api_socket())
    if api is not None:
        offered = {row["model_id"]: row for row in api.get("/v1/models").get("models", [])}
        return offered, api.get("/v1/models/served").get("served", {})
    if not home.state_file.exists():
        return {}, {}
    from cocoon_p2p.store import open_store

    with open_store(home.state_file, read_only=True) as store:
        return {}, {str(model_id): count for model_id, count in store.jobs.served().items()}


def _state(live: dict[str, Any] | None, served: int) -> dict[str, Any]:
    return {
        "offered": live is not None,
        "loaded": bool(live and live.get("loaded")),
        "device": live.get("device") if live else None,
        "jobs_served": served,
    }


def _cells(row: dict[str, Any], config: NodeConfig) -> list[Any]:
    prices = [_price(row[key], usual) for key, usual in zip(PRICES, usual_prices(row, config), strict=True)]
    loaded = f"on {row['device']}" if row["loaded"] else "on demand" if row["offered"] else "no"
    name, kind = row["name"], row["kind"]
    return [name, short_id(row["model_id"]), kind, size(row["bytes"]), loaded, row["jobs_served"], *prices]  # fmt: skip


def _price(own: int | None, configured: int) -> str:
    return f"{gram(configured)[:-5]}{CONFIGURED}" if own is None else gram(own)[:-5]
