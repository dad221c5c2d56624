"""Temporary folders with homes of nodes in them, their keys among what they hold: removed at the end, and if this program is
killed, by the next one of its kind."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.home import Home

ABANDONED_S = 60.0
"""A younger folder may be of a process that has not locked it yet."""


@dataclass(frozen=True, slots=True)
class TemporaryHomes:
    """Folders of one command. `marker` is a file in each that says which command made it; it is locked as long as that runs."""

    command: str
    prefix: str
    marker: str

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A new one, removed at the end; what killed processes left is removed at the beginning. Raises ConfigError."""
        self._remove_abandoned(Path(tempfile.gettempdir()))
        try:
            folder = Path(tempfile.mkdtemp(prefix=self.prefix))
        except OSError as error:
            raise ConfigError(
                f"cannot make a folder in {tempfile.gettempdir()}: {error.strerror}", hint="name another: TMPDIR=DIR"
            ) from error
        try:
            with self.locked(folder):
                yield folder
        finally:
            self._remove(folder)

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Mark a folder as this process's. Raises ConfigError when another process has it, or the marker cannot be made."""
        marker = folder / self.marker
        try:
            descriptor = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot write {marker}: {error.strerror}") from error
        try:
            if not _lock(descriptor):
                raise ConfigError(f"another {self.command} runs in {folder}", hint="name another folder: --home DIR")
            yield
        finally:
            os.close(descriptor)

    def _remove_abandoned(self, temporary: Path) -> None:
        for folder in temporary.glob(f"{self.prefix}*"):
            try:
                facts = folder.lstat()
                if facts.st_uid != os.getuid() or time.time() - facts.st_mtime < ABANDONED_S:
                    continue
                descriptor = os.open(folder / self.marker, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:  # gone, or made by something else
                continue
            try:
                if _lock(descriptor):
                    self._remove(folder)
            finally:
                os.close(descriptor)

    def _remove(self, folder: Path) -> None:
        """The marker last, so that the next process goes on with it should this one be killed now."""
        for entry in list(folder.glob("*")):
            if entry.name != self.marker:
                Home(entry).forget_socket()  # of a node that was killed
                shutil.rmtree(entry, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
