"""Is there room for a model? Asked before anything is copied."""

from __future__ import annotations

import shutil
from pathlib import Path

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.limits import DISK_RESERVE_BYTES


def check_room(folder: Path, needed: int, what: str) -> None:
    """Raises ConfigError unless `needed` bytes, and what a node needs besides, are free where `folder` is or will be."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    if needed + DISK_RESERVE_BYTES > free:
        raise ConfigError(
            f"{what} needs {_megabytes(needed)} MB on the disk of {folder}; {_megabytes(free)} MB are free, of which "
            f"{_megabytes(DISK_RESERVE_BYTES)} MB stay free for the node's own books",
            hint="make room: cocoon-node models list, cocoon-node models remove NAME; or move the home to a larger disk",
        )


def _megabytes(count: int) -> str:
    return f"{-(-count // 1_000_000):,}"
