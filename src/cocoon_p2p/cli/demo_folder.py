"""Where the demo keeps its nodes' homes, and the model that it builds only once."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home

PREFIX = "cocoon-demo-"
MARKER = ".cocoon-demo"
"""Says of a folder that a demo made it; locked as long as that demo runs."""
ABANDONED_S = 60.0


@contextmanager
def demo_folder(given: str | None) -> Iterator[Path]:
    """The folder `given` with --home, made if need be and left as it is at the end; without one, a temporary folder that
    is removed. Raises ConfigError for a folder that holds something else, or is in use by another demo."""
    if given is not None:
        with _given_folder(Path(os.path.expanduser(given)).absolute()) as folder:
            yield folder
        return
    _remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with _locked(folder / MARKER):
            yield folder
    finally:
        _remove(folder)


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
    with _locked(folder / MARKER):
        yield folder


@contextmanager
def _locked(marker: Path) -> Iterator[None]:
    """Raises ConfigError when another process has the lock, or the file cannot be made."""
    try:
        descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write {marker}: {error.strerror}") from error
    try:
        if not _lock(descriptor):
            raise ConfigError(f"another demo runs in {marker.parent}", hint="name another folder: --home DIR")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_abandoned(temporary: Path) -> None:
    """Folders of demos that were killed, 270 MB each."""
    for folder in temporary.glob(f"{PREFIX}*"):
        try:
            facts = folder.lstat()
            if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < ABANDONED_S:
                continue
            descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:  # gone, or not a demo's
            continue
        try:
            if _lock(descriptor):
                _remove(folder)
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    """The marker last, so that the next demo goes on with it should this one be killed now."""
    for entry in list(folder.glob("*")):
        if entry.name != MARKER:
            Home(entry).forget_socket()  # of a node that was killed
            shutil.rmtree(entry, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
