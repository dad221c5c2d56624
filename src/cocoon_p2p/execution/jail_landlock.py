"""Which files a jailed worker may open: Landlock (landlock(7), linux/landlock.h). Whatever is not granted is refused, for this
thread and all that it starts, for good."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
"""The same numbers on every machine."""
_VERSION_WANTED = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 1 << 1, 1 << 2, 1 << 3
_FILE_RIGHTS_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
"""Since ABI 2, 3 and 5."""
_NETWORK_RIGHTS = 3
"""bind and connect of TCP, since ABI 4."""
_SCOPES = 3
"""No abstract Unix sockets and no signals to processes outside, since ABI 6."""


def abi() -> int:
    """The version of Landlock that this kernel has, 0 for none. Changes nothing."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    answer: int = libc.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_WANTED))
    return max(answer, 0)


def restrict(readable: Sequence[Path], devices: Sequence[Path] = ()) -> None:
    """From now on this thread opens only files in (or that are) `readable`, to read; and `devices`, to read, write and control.
    Those that do not exist are left out. Needs no_new_privs. Raises OSError."""
    version = abi()
    files = _FILE_RIGHTS_OF_ABI_1
    files |= _REFER if version >= 2 else 0
    files |= _TRUNCATE if version >= 3 else 0
    files |= _IOCTL_DEV if version >= 5 else 0
    attributes = struct.pack("<Q", files)
    attributes += struct.pack("<Q", _NETWORK_RIGHTS) if version >= 4 else b""
    attributes += struct.pack("<Q", _SCOPES) if version >= 6 else b""
    ruleset = _call(_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for path in readable:
            _grant(ruleset, path, _READ_FILE | _READ_DIR)
        for path in devices:
            _grant(ruleset, path, files & (_READ_FILE | _READ_DIR | _WRITE_FILE | _IOCTL_DEV))
        _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _grant(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= ~_READ_DIR
        rule = struct.pack("<Qi", rights, place)
        _call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.c_char_p(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock refused: {os.strerror(code)}")
    return result
