"""Where the demo keeps its nodes' homes, and the model that it builds only once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cocoon_p2p.cli.temporary_homes import TemporaryHomes
from cocoon_p2p.errors import ConfigError

PREFIX = "cocoon-demo-"
MARKER = ".cocoon-demo"
HOMES = TemporaryHomes("demo", PREFIX, MARKER)
"""270 MB each."""


@contextmanager
def demo_folder(given: str | None) -> Iterator[Path]:
    """The folder `given` with --home, made if need be and left as it is at the end; without one, a temporary folder that
    is removed. Raises ConfigError for a folder that holds something else, or is in use by another demo."""
    if given is not None:
        with _given_folder(Path(os.path.expanduser(given)).absolute()) as folder:
            yield folder
        return
    with HOMES.folder() as folder:
        yield folder


def model_cache(folder: Path) -> Path:
    """Where the built model stays for the next time; in `folder` when nothing can be written to the user's cache."""
    if sys.platform == "darwin":
        base = Path("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")  # XDG Base Directory Specification 0.8
    cache = base.expanduser() / "cocoon_p2p" / "demo"
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return folder / "cache"
    return cache if os.access(cache, os.W_OK) else folder / "cache"


@contextmanager
def _given_folder(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        foreign = any(folder.iterdir()) and not (folder / MARKER).exists()
    except OSError as error:
        raise ConfigError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    if foreign:
        raise ConfigError(f"{folder} holds something else than a demo's nodes", hint="name a new folder: --home DIR")
    with HOMES.locked(folder):
        yield folder
