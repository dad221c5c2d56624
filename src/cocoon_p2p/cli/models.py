"""`cocoon-node models show`, and what the commands about models share (models_add.py, models_list.py, models_verify.py)."""

from __future__ import annotations

import argparse
from typing import Any

from cocoon_p2p.cli.output import Whole, print_json, print_pairs
from cocoon_p2p.cli.place import find_home, load_place
from cocoon_p2p.cli.words import TEST_MONEY, price, size, spec
from cocoon_p2p.config import NodeConfig

PRICES = ("price_base", "price_per_item")
CONFIGURED = "*"
"""Marks a price that is the configuration's."""


def run_show(options: argparse.Namespace) -> int:
    """All that is known of one installed model."""
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    row = model_row(ModelRegistry(find_home(options).path).get(options.model))
    if options.json:
        print_json(row)
    else:
        print_pairs(model_pairs(row, config_of(options)))
    return 0


def config_of(options: argparse.Namespace) -> NodeConfig:
    """The configuration of the node whose models these are."""
    return load_place(options)[1]


def usual_prices(row: dict[str, Any], config: NodeConfig) -> tuple[int, int]:
    """Nanogram a job and an item (or a token) of a model without prices of its own."""
    section = config.provider
    return section.price_base, section.price_per_token if row.get("generation") else section.price_per_item


def model_pairs(row: dict[str, Any], config: NodeConfig) -> list[tuple[str, Any]]:
    """A model for people: names and values of `rows.model_row`."""
    base, per_item = (
        usual if row.get(key) is None else row[key]
        for key, usual in zip(PRICES, usual_prices(row, config), strict=True)
    )
    prices = f"{price(base, per_item, tokens=bool(row.get('generation')))} ({TEST_MONEY})"
    pairs = [
        ("name", row.get("name")),
        ("model id", row.get("model_id")),
        ("kind", row.get("kind")),
        ("size", size(row.get("bytes"))),
        ("price", prices),
        ("shared", _shared(row, config)),
    ]
    if row.get("takes_text"):
        pairs.append(("takes", "texts: cocoon-node run " + str(row.get("name")) + ' --text "…"'))
    for number, given in enumerate(row.get("text_outputs") or ()):
        made = f": {given['made']}" if given["made"] else ""
        pairs.append(("" if number else "gives", f"{given['name']}{made}"))
    if row.get("labels"):
        pairs.append(("labels", ", ".join(row["labels"])))
    if row.get("generation"):
        pairs.append(("generates", f"text: cocoon-node generate {row.get('name')} " + '"…"'))
        pairs.append(("context", f"{row['generation']['context']:,} tokens"))
    else:
        pairs += _tensor_pairs("inputs", row) + _tensor_pairs("outputs", row)
    pairs += [("state" if i == 0 else "", " → ".join(pair)) for i, pair in enumerate(row.get("state") or ())]
    return [*pairs, ("license", row.get("license") or "not stated"), ("folder", Whole(row["folder"]))]


def _shared(row: dict[str, Any], config: NodeConfig) -> str:
    """Whether others may fetch its files here."""
    if not config.models.share:
        return "no: [models] share is false"
    return "yes: others may fetch it here" if row.get("share", True) else "no"


def _tensor_pairs(kind: str, row: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(kind if i == 0 else "", spec(tensor)) for i, tensor in enumerate(row.get(kind) or ())]
