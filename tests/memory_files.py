"""Which shared memory processes hold, and whether it has a name, under which it would outlive them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_UNNAMED = " (deleted)"


def memory_files(pids: Iterable[int]) -> tuple[set[str], set[str]]:
    """(those with a name, those without) of the files in memory that these processes have open or mapped, as far as one may
    look. Not what lies in /dev/shm: other tests keep their files there."""
    found: set[str] = set()
    for pid in pids:
        process = Path(f"/proc/{pid}")
        with suppress(PermissionError, FileNotFoundError, ProcessLookupError):  # in the jail, or ended
            found.update(line.split(maxsplit=5)[-1] for line in (process / "maps").read_text().splitlines())
            for link in (process / "fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    found.add(os.readlink(link))
    found = {name for name in found if name.startswith(("/dev/shm/", "/memfd:"))}
    unnamed = {name for name in found if name.endswith(_UNNAMED)}
    return found - unnamed, unnamed
