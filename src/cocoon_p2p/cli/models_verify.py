"""`cocoon-node models verify | remove`: is every byte what it was, and away with what is not wanted."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.api_client import connect
from cocoon_p2p.cli.models import config_of
from cocoon_p2p.cli.output import Column, print_error, print_json, print_note, print_table
from cocoon_p2p.cli.place import find_home, home_option
from cocoon_p2p.cli.transfer_progress import TransferBar
from cocoon_p2p.cli.words import short_id, size
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.home import Home
from cocoon_p2p.ids import is_model_id

if TYPE_CHECKING:
    from cocoon_p2p.models.registry import InstalledModel, ModelRegistry

_DIGITS_MIN = 8
"""Of an id that stand for the whole."""
VERIFY_COLUMNS = (Column("NAME", elastic=True), Column("ID"), Column("SIZE", right=True), Column("STATE"))


def run_verify(options: argparse.Namespace) -> int:
    """Read every byte of one model, or of all. Status 1 when something is damaged."""
    from cocoon_p2p.models.registry import ModelRegistry

    home = find_home(options)
    registry = ModelRegistry(home.path)
    models = registry.list() if options.model is None else (registry.get(options.model),)
    rows = []
    with TransferBar() as bar:
        for model in models:
            rows.append(_verified(registry, model, bar))
    if options.model is None:
        rows += [{"model_id": None, "name": None, "bytes": None, "ok": False, "error": p} for p in registry.problems()]
    if options.json:
        print_json({"models": rows})
    elif rows:
        print_table(VERIFY_COLUMNS, [_cells(row) for row in rows])
    else:
        print_note(f"no models here; cocoon-node models add PATH{home_option(home)}")
    for row in rows:
        if not row["ok"]:
            print_error(row["error"], _remedy(row, home))
    return 0 if all(row["ok"] for row in rows) else 1


def run_remove(options: argparse.Namespace) -> int:
    """Delete a model from the disk, after the running node, if one runs, has let go of it."""
    from cocoon_p2p.models.registry import ModelRegistry

    home = find_home(options)
    registry = ModelRegistry(home.path)
    try:
        model = registry.get(options.model)
        model_id, name = model.model_id, model.name
    except CocoonError:
        if _removed_unfinished(home, options):
            return 0
        if not is_model_id(options.model):  # an id may name a folder whose manifest is damaged
            raise
        model_id = name = options.model
    said = _unload(home, model_id) if model_id != name else None
    registry.remove(model_id)
    if options.json:
        print_json({"removed": model_id, "name": name})
    else:
        print_note(f"removed {name if model_id != name else 'a damaged model'} ({short_id(model_id)}){said or ''}")
    wanted = config_of(options).provider.models
    if name in wanted or model_id in wanted:
        print_note(f"node.toml still names it: take {name} out of [provider] models, or the node will not start")
    return 0


def _removed_unfinished(home: Home, options: argparse.Namespace) -> bool:
    """Whether that was a model of which a part has come; it is gone then, and its pull is ended."""
    from cocoon_p2p.models.partial import remove_partial, unfinished

    wanted: str = options.model
    found = [
        each.model_id
        for each in unfinished(home.path)
        if len(wanted) >= _DIGITS_MIN and each.model_id.startswith(wanted)
    ]
    if len(found) != 1:
        return False
    (model_id,) = found
    api = connect(home.api_socket())
    if api is not None:
        api.post("/v1/pulls/stop", {"model_id": model_id})
    remove_partial(home.path, model_id)
    if options.json:
        print_json({"removed": model_id, "name": None})
    else:
        print_note(f"removed what had come of model {short_id(model_id)}")
    return True


def _unload(home: Home, model_id: str) -> str | None:
    """Have the running node end it; what to tell of that."""
    api = connect(home.api_socket())
    if api is None:
        return None
    answer = api.post("/v1/models/unload", {"model": model_id}, timeout_s=None)
    if not answer.get("was_offered"):
        return "; the running node was not offering it"
    return "; the running node offers it no more, and jobs on it that were under way failed unpaid"


def _verified(registry: ModelRegistry, model: InstalledModel, bar: TransferBar) -> dict[str, Any]:
    row: dict[str, Any] = {
        "model_id": model.model_id, "name": model.name, "bytes": model.manifest.size, "ok": True, "error": None
    }  # fmt: skip
    bar.begin(f"reading {model.name}", model.manifest.size)
    try:
        registry.verify(model.model_id, progress=bar.advance)
    except CocoonError as error:
        row |= {"ok": False, "error": error.message}
    return row


def _cells(row: dict[str, Any]) -> list[Any]:
    return [row["name"] or "?", short_id(row["model_id"]), size(row["bytes"]), "whole" if row["ok"] else "damaged"]


def _remedy(row: dict[str, Any], home: Home) -> str:
    at = home_option(home)
    if row["model_id"] is None:
        return f"remove that folder: cocoon-node models remove ID{at}, where ID is its name; then add the model again"
    model_id = row["model_id"]
    return (
        f"cocoon-node models remove {row['name']}{at}, then add it again from where it came, or have it from other nodes: "
        f"cocoon-node models pull {model_id}{at}"
    )
