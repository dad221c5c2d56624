"""Models that a node was asked to fetch and that have not come yet: <home>/models/.wanted-<model id>, so that its next start
goes on with them. Gone when the model is here, or was given up."""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import BLOB_PARTIAL_KEPT_S, NAME_CHARS_MAX
from cocoon_p2p.models.layout import models_folder, write_atomically

_PREFIX = ".wanted-"
_NAME = re.compile(re.escape(_PREFIX) + "([0-9a-f]{64})")
_FILE_BYTES_MAX = 16 * 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """One model that was asked for."""

    model_id: ModelId
    name: str
    """What it is to be called here."""
    source: str | None = None
    """A peer id or a multiaddr of somebody who has it, as it was given."""


def remember_wanted(home: Path, wanted: Wanted) -> None:
    """Flushed to the disk. Raises OSError."""
    models_folder(home).mkdir(parents=True, exist_ok=True)
    fields = {"name": wanted.name, "source": wanted.source}
    write_atomically(_path(home, wanted.model_id), json.dumps(fields).encode() + b"\n")


def forget_wanted(home: Path, model_id: ModelId) -> None:
    """Whether or not it was remembered."""
    with suppress(OSError):
        _path(home, model_id).unlink(missing_ok=True)


def read_wanted(home: Path) -> tuple[Wanted, ...]:
    """In the order of their ids. What cannot be read was not asked for; what was asked for a month ago is not wanted any more,
    since then what had come of it goes as well (models.partial)."""
    folder = models_folder(home)
    found = []
    for path in sorted(folder.glob(f"{_PREFIX}*")) if folder.is_dir() else ():
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            if time.time() - path.stat().st_mtime <= BLOB_PARTIAL_KEPT_S:
                found.append(_parsed(ModelId(match[1]), path))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return tuple(found)


def _parsed(model_id: ModelId, path: Path) -> Wanted:
    """Raises OSError, ValueError, TypeError, KeyError."""
    with path.open("rb") as file:
        fields = json.loads(file.read(_FILE_BYTES_MAX))
    name, source = fields["name"], fields["source"]
    if not isinstance(name, str) or not isinstance(source, str | None):
        raise TypeError("not what was written")
    return Wanted(model_id, name[:NAME_CHARS_MAX], source)


def _path(home: Path, model_id: ModelId) -> Path:
    return models_folder(home) / f"{_PREFIX}{model_id}"
