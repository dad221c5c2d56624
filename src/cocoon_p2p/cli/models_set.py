"""`cocoon-node models set`: another name or price for an installed model, wherever it came from, and whether others may fetch it."""

from __future__ import annotations

import argparse
from dataclasses import replace

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.models import config_of, model_pairs
from cocoon_p2p.cli.output import print_json, print_note, print_pairs
from cocoon_p2p.cli.place import find_home
from cocoon_p2p.errors import ConfigError


def run_set(options: argparse.Namespace) -> int:
    """What is not given stays. A running node that offers the model announces it at once. Raises ConfigError, CocoonError."""
    from cocoon_p2p.models.registry import ModelRegistry
    from cocoon_p2p.rows import model_row

    given = {key: getattr(options, key) for key in ("name", "price_base", "price_per_item")}
    changes = {key: value for key, value in given.items() if value is not None}
    if options.share is not None:
        changes["share"] = options.share == "on"
    if not changes:
        raise ConfigError("there is nothing to change", hint="give --name, --price-base, --price-per-item or --share")
    home = find_home(options)
    registry = ModelRegistry(home.path)
    before = registry.get(options.model)
    model = registry.set_offer(before.model_id, replace(before.offer, **changes))
    row = model_row(model)
    api = connect(home.api_socket())
    offered = api is not None and any(
        each["model_id"] == model.model_id for each in api.get("/v1/models").get("models", [])
    )
    if api is not None and offered:
        api.post("/v1/models/serve", {"model": model.model_id}, timeout_s=None)
    if api is not None and options.share is not None:
        api.post("/v1/models/share", {"model": model.model_id})
    if options.json:
        print_json(row)
        return 0
    config = config_of(options)
    print_pairs(model_pairs(row, config))
    if offered:
        print_note("the running node offers it so now")
    if changes.get("share") and not config.models.share:
        print_note("nobody can fetch it yet: [models] share is false in node.toml")
    if before.name != model.name and before.name in config.provider.models:
        print_note(
            f"node.toml still says {before.name} in [provider] models: write {model.name}, or the node will not start"
        )
    return 0
