"""`cocoon-node models add | list | show | remove`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.output import Column, Whole, print_error, print_json, print_note, print_pairs, print_table
from cocoon_p2p.cli.place import find_home, home_option, load_place
from cocoon_p2p.cli.words import TEST_MONEY, gram, short_id, size, spec
from cocoon_p2p.config import NodeConfig
from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home

if TYPE_CHECKING:
    from cocoon_p2p.models.registry import InstalledModel

PRICES = ("price_base", "price_per_item")

CONFIGURED = "*"
"""Marks a price that is the configuration's."""
COLUMNS = (
    Column("NAME", elastic=True),
    Column("ID"),
    Column("KIND"),
    Column("SIZE", right=True),
    Column("A JOB", right=True),
    Column("AN ITEM", right=True),
    Column("INPUTS", elastic=True),
)


def run_add(options: argparse.Namespace) -> int:
    """Install a model: through the node when one runs here, so that it is offered at once."""
    home = find_home(options)
    path = Path(os.path.expanduser(options.path)).absolute()
    given = {"name": options.name, "price_base": options.price_base, "price_per_item": options.price_per_item}
    before = _installed(home)
    api = connect(home.api_socket())
    if api is None:
        row = _add_to_disk(home, path, given)
    else:
        row = api.post("/v1/models", {"path": str(path), **given})
    present = before.get(row["model_id"])
    if present is not None:
        print_note(f"these files were installed already, as {present.name}; {_changes(present, row)}")
    if options.json:
        print_json(row)
        return 0
    print_pairs(_pairs(row, _config_of(options)))
    print_note("the running node offers it now" if api else f"serve it: cocoon-node up{home_option(home)}")
    return 0


def run_list(options: argparse.Namespace) -> int:
    """The installed models, read from the disk: the same whether a node runs or not."""
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    home = find_home(options)
    registry = ModelRegistry(home.path)
    rows = [model_row(model) for model in registry.list()]
    for problem in registry.problems():
        print_error(problem)
    if options.json:
        print_json({"models": rows})
    elif rows:
        print_table(COLUMNS, [_cells(row, _config_of(options)) for row in rows])
        configured = any(row[key] is None for row in rows for key in PRICES)
        print_note(f"prices in GRAM: {TEST_MONEY}{f'; {CONFIGURED} is the price in node.toml' if configured else ''}")
    else:
        print_note(f"no models here; cocoon-node models add PATH{home_option(home)}")
    return 0


def run_show(options: argparse.Namespace) -> int:
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    row = model_row(ModelRegistry(find_home(options).path).get(options.model))
    if options.json:
        print_json(row)
    else:
        print_pairs(_pairs(row, _config_of(options)))
    return 0


def run_remove(options: argparse.Namespace) -> int:
    """Delete a model from the disk. Not under a running node, which has promised it to others."""
    from cocoon_p2p.models.registry import ModelRegistry

    home = find_home(options)
    registry = ModelRegistry(home.path)
    model = registry.get(options.model)
    if connect(home.api_socket()) is not None:
        raise ConfigError(f"a node runs on {home.path} and may be serving {model.name}", hint="stop it first")
    registry.remove(model.model_id)
    if options.json:
        print_json({"removed": model.model_id, "name": model.name})
    else:
        print_note(f"removed {model.name} ({short_id(model.model_id)})")
    return 0


def _installed(home: Home) -> dict[str, InstalledModel]:
    from cocoon_p2p.models.registry import ModelRegistry

    return {model.model_id: model for model in ModelRegistry(home.path).list()}


def _changes(present: InstalledModel, row: dict[str, Any]) -> str:
    """What adding a model again has changed."""
    changes = [
        f"{what} is now {row[key] if key == 'name' else gram(row[key])}"
        for what, key in (("the name", "name"), ("a job", "price_base"), ("an item", "price_per_item"))
        if row[key] != getattr(present.offer, key)
    ]
    return ", ".join(changes) or "nothing was changed"


def _add_to_disk(home: Home, path: Path, given: dict[str, Any]) -> dict[str, Any]:
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    if not os.path.exists(path):  # before a home folder is made for nothing
        raise ConfigError(f"{path} does not exist", hint="give the path of an .onnx file, or of a folder with one")
    home.init()
    return model_row(ModelRegistry(home.path).add(path, **given))


def _config_of(options: argparse.Namespace) -> NodeConfig:
    return load_place(options)[1]


def _cells(row: dict[str, Any], config: NodeConfig) -> list[Any]:
    prices = [_price(row[key], getattr(config.provider, key)) for key in PRICES]
    inputs = "text" if row["takes_text"] else ", ".join(spec(tensor) for tensor in row["inputs"])
    return [row["name"], short_id(row["model_id"]), row["kind"], size(row["bytes"]), *prices, inputs]


def _price(own: int | None, configured: int) -> str:
    return f"{gram(configured)[:-5]}{CONFIGURED}" if own is None else gram(own)[:-5]


def _pairs(row: dict[str, Any], config: NodeConfig) -> list[tuple[str, Any]]:
    base, per_item = row.get("price_base"), row.get("price_per_item")
    prices = (
        f"{gram(config.provider.price_base if base is None else base)} a job + "
        f"{gram(config.provider.price_per_item if per_item is None else per_item)} an item ({TEST_MONEY})"
    )
    pairs = [
        ("name", row.get("name")),
        ("model id", row.get("model_id")),
        ("kind", row.get("kind")),
        ("size", size(row.get("bytes"))),
        ("price", prices),
    ]
    if row.get("takes_text"):
        pairs.append(("takes", "texts: cocoon-node run " + str(row.get("name")) + ' --text "…"'))
    pairs += _tensor_pairs("inputs", row) + _tensor_pairs("outputs", row)
    return [*pairs, ("license", row.get("license") or "not stated"), ("folder", Whole(row["folder"]))]


def _tensor_pairs(kind: str, row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(kind if i == 0 else "", spec(tensor)) for i, tensor in enumerate(row.get(kind) or ())]
