"""`cocoon-node models add`: copies a model into the home, and has the running node offer it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.cli.interrupts import sigterm_as_ctrl_c
from cocoon_p2p.cli.models import config_of, model_pairs
from cocoon_p2p.cli.output import print_json, print_note, print_pairs
from cocoon_p2p.cli.place import find_home, home_option
from cocoon_p2p.cli.transfer_progress import TransferBar
from cocoon_p2p.cli.waiting import told_after_a_moment
from cocoon_p2p.cli.words import gram
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.execution.memory import advice_on_size
from cocoon_p2p.home import Home

if TYPE_CHECKING:
    from cocoon_p2p.models.registry import InstalledModel, ModelRegistry

HUB_PREFIX = "hf:"


def run_add(options: argparse.Namespace) -> int:
    """Install a model: offered at once when a node runs here. When it cannot be offered, all is as it was before."""
    from cocoon_p2p.rows import model_row

    home = find_home(options)
    path = options.path if options.path.startswith(HUB_PREFIX) else Path(os.path.expanduser(options.path)).absolute()
    if isinstance(path, Path) and not os.path.exists(path):  # before a home folder is made for nothing
        raise ConfigError(
            f"{path} does not exist", hint="give the path of an .onnx file, of a folder with one, or hf:OWNER/REPO"
        )
    _check_options(options)
    api = connect(home.api_socket())
    if api is None:
        home.init()
    elif not api.get("/v1/status").get("serve", True):
        raise ConfigError(
            "the node that runs here serves nobody: [provider] serve is false",
            hint="set serve = true in node.toml and start the node again",
        )
    with sigterm_as_ctrl_c():
        model, present = _install(home, path, options, api)
    row = model_row(model)
    if present is not None:
        print_note(f"these files were installed already, as {present.name}; {_changes(present, row)}")
    if options.json:
        print_json(row)
        return 0
    config = config_of(options)
    print_pairs(model_pairs(row, config))
    for beside in _left_beside(path):
        print_note(f"added as a model of tensors: {beside} is not used; to use it add the folder")
    too_large = None if api else advice_on_size(model.manifest.size, config.execution.memory_budget)
    if too_large:
        print_note(f"it will not be served on this machine: {too_large}")
    else:
        print_note("the running node offers it now" if api else f"serve it: cocoon-node up{home_option(home)}")
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raises ConfigError for options that say nothing about what is to be added."""
    given = [name for name, value in (("--offline", options.offline), ("--hub-root", options.hub_root)) if value]
    if given and not options.path.startswith(HUB_PREFIX):
        raise ConfigError(
            f"{options.path} is on this machine: {given[0]} does not fit it",
            hint=f"leave {given[0]} out; it is for repositories of a hub: hf:OWNER/REPO",
        )


def _left_beside(path: Path | str) -> list[Path]:
    """What would make more of a model of which only the .onnx file was named; one file at most."""
    if isinstance(path, str) or path.is_dir():
        return []
    found = (path.parent / name for name in ("genai_config.json", "tokenizer.json"))
    return [file for file in found if file.exists()][:1]


def _install(
    home: Home, path: Path | str, options: argparse.Namespace, api: LocalApi | None
) -> tuple[InstalledModel, InstalledModel | None]:
    """The model, and what was here of it before."""
    from cocoon_p2p.models.gathering import Wishes
    from cocoon_p2p.models.hub import HubPlace
    from cocoon_p2p.models.registry import ModelRegistry

    registry = ModelRegistry(home.path)
    before = {model.model_id: model for model in registry.list()}
    with TransferBar() as bar:
        model = registry.add(
            path,
            name=options.name,
            price_base=options.price_base,
            price_per_item=options.price_per_item,
            wishes=Wishes(pooling=options.pooling, state=tuple(options.state or ())),
            file=options.file,
            hub=HubPlace(Path(options.hub_root) if options.hub_root else None, options.offline),
            progress=bar,
        )
    present = before.get(model.model_id)
    if api is not None:
        with _taken_back(registry, model, present, api), told_after_a_moment(f"the running node loads {model.name}"):
            api.post("/v1/models/serve", {"model": model.model_id}, timeout_s=None)
    return model, present


@contextmanager
def _taken_back(
    registry: ModelRegistry, model: InstalledModel, present: InstalledModel | None, api: LocalApi
) -> Iterator[None]:
    """Unless the block ends well, undo the installation."""
    done = False
    try:
        yield
        done = True
    finally:
        if not done and present is not None:
            registry.set_offer(present.model_id, present.offer)
        elif not done:
            _unload(api, model.model_id)
            registry.remove(model.model_id)


def _unload(api: LocalApi, model_id: str) -> None:
    try:
        api.post("/v1/models/unload", {"model": model_id})
    except CocoonError as error:  # the node is gone, and with it what it had loaded
        print_note(f"the running node was not told: {error.message}")


def _changes(present: InstalledModel, row: dict[str, Any]) -> str:
    """What adding a model again has changed."""
    changes = [
        f"{what} is now {row[key] if key == 'name' else gram(row[key])}"
        for what, key in (("the name", "name"), ("a job", "price_base"), ("an item", "price_per_item"))
        if row[key] != getattr(present.offer, key)
    ]
    return ", ".join(changes) or "nothing was changed"
