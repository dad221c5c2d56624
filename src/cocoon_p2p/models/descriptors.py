"""An open file that several threads read and write at given places."""

from __future__ import annotations

import os
from pathlib import Path


class Descriptor:
    """Closed when nobody holds it any more: a thread that reads never finds another file under the same number. Raises
    OSError, also where the path is a link."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = -1
        self.number = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

    def read(self, view: memoryview, offset: int) -> int:
        """Fill all of `view`; its length. Raises OSError, also where the file ends before."""
        filled = 0
        while filled < len(view):
            count = os.preadv(self.number, [view[filled:]], offset + filled)
            if not count:
                raise OSError("the file was cut short")
            filled += count
        return filled

    def read_cached(self, view: memoryview, offset: int) -> bool:
        """Fill all of `view` if that takes no wait for the disk; False, with anything in it, where it does, or the system does
        not tell."""
        if not hasattr(os, "RWF_NOWAIT"):
            return False
        try:
            return os.preadv(self.number, [view], offset, os.RWF_NOWAIT) == len(view)
        except OSError:
            # It would wait, or the file system cannot tell. Whoever reads it with a wait hears of what is wrong.
            return False

    def write(self, data: memoryview, offset: int) -> None:
        """All of `data`. Raises OSError."""
        while data:
            count = os.pwrite(self.number, data, offset)
            data, offset = data[count:], offset + count
