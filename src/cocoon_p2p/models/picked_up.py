"""Which models this node picked up by itself, and may therefore remove again: <home>/models/picked-up.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cocoon_p2p.ids import ModelId, is_model_id
from cocoon_p2p.models.layout import models_folder, write_atomically
from cocoon_p2p.policy.auto_serve import PickedUp

NAME = "picked-up.json"


def read_picked_up(home: Path) -> dict[ModelId, PickedUp]:
    """() where nothing, or nothing readable, is there: what is not known to be picked up is the operator's."""
    try:
        rows: list[dict[str, Any]] = json.loads((models_folder(home) / NAME).read_bytes())
        found = [
            PickedUp(ModelId(row["model_id"]), int(row["size"]), float(row["picked_at"]), float(row["used_at"]))
            for row in rows
            if is_model_id(row["model_id"])
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return {}
    return {each.model_id: each for each in found}


def write_picked_up(home: Path, models: Iterable[PickedUp]) -> None:
    """Raises OSError."""
    rows = [
        {"model_id": each.model_id, "size": each.size, "picked_at": each.picked_at, "used_at": each.used_at}
        for each in models
    ]
    models_folder(home).mkdir(parents=True, exist_ok=True)
    write_atomically(models_folder(home) / NAME, json.dumps(rows, indent=1).encode() + b"\n")
