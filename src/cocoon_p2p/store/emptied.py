"""A database file without a byte: one that is being made, or one whose content was lost. The second must not pass for the first."""

from __future__ import annotations

from pathlib import Path

from cocoon_p2p.errors import ConfigError


def refuse_emptied(path: Path, title: str, *, used: bool) -> None:
    """Raises ConfigError for a file of no bytes where there was something in it: `used` says whether there must have been.
    To be called before the file is opened, since SQLite throws away the -wal file of an empty database."""
    try:
        emptied = used and path.stat().st_size == 0
    except (
        OSError
    ):  # it is not there, which is how one begins anew; or it cannot be opened, which opening it says better
        return
    if emptied:
        raise ConfigError(
            f"{path} ({title}) is empty, though this node was in use: its content was lost",
            code="DATABASE_EMPTIED",
            hint=f"nothing was changed; restore {path.name} from a backup, or move it and its -wal and -shm files away to begin "
            "without what was in it",
        )
