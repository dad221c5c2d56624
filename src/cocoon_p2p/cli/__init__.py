"""The command `cocoon-node`. Each subcommand is one file, imported when it is called, so that --help is instant.

Data goes to stdout, everything else to stderr. Exit status: 0 done, 1 failed, 2 wrong usage or configuration, 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cocoon_p2p.errors import CocoonError

DEBUG_VARIABLE = "COCOON_DEBUG"
STATUS_FAILED, STATUS_CONFIG, STATUS_INTERRUPTED = 1, 2, 130
_DISKS = {
    errno.ENOSPC: "make room on that disk",
    errno.EDQUOT: "make room on that disk",
    errno.EROFS: "it must be on a disk that can be written",
}
"""What a disk may be that no care of ours makes right, and what mends it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. All that goes wrong becomes one line on stderr."""
    from cocoon_p2p.cli.parser import parse

    home: str | None = None
    _open_closed_streams()
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments)
        home = None if options.function.startswith("cocoon_p2p.cli.demo:") else options.home
        module, _, function = options.function.partition(":")
        status: int = getattr(importlib.import_module(module), function)(options)
        sys.stdout.flush()
    except SystemExit as end:  # argparse: 0 after --help, 2 after a usage error
        return end.code if isinstance(end.code, int) else STATUS_CONFIG
    except KeyboardInterrupt:
        return STATUS_INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for instance, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return STATUS_FAILED
    except BaseExceptionGroup as group:  # what a trio nursery raises
        return _explain(_worst(group), home)
    except Exception as error:  # noqa: BLE001 -- the top of the command line
        return _explain(error, home)
    return status


def _open_closed_streams() -> None:
    """Python has None for a stream that the shell closed (`>&-`): what goes there is wanted by nobody, and nothing comes."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 -- open as long as the program runs
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several errors the one to show: an interruption before a bug, a bug before an error with an explanation."""
    from cocoon_p2p.errors import CocoonError

    leaves = list(_leaves(group))
    for error in leaves:
        if isinstance(error, KeyboardInterrupt):
            return error
    return next((error for error in leaves if not isinstance(error, CocoonError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _explain(error: BaseException, home: str | None = None) -> int:
    from cocoon_p2p.cli.output import print_error
    from cocoon_p2p.errors import CocoonError, ConfigError

    if isinstance(error, KeyboardInterrupt):
        return STATUS_INTERRUPTED
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, CocoonError):
        print_error(error.message, _hint_of(error, home))
        return STATUS_CONFIG if isinstance(error, ConfigError) else STATUS_FAILED
    if isinstance(error, OSError) and error.errno in _DISKS:  # of the file that stdout is, for instance
        print_error(
            f"cannot write{f' {error.filename}' if error.filename else ''}: {error.strerror}", _DISKS[error.errno]
        )
        return STATUS_FAILED
    print_error(
        f"a bug in this program: {type(error).__name__}: {error}",
        f"run it again with {DEBUG_VARIABLE}=1 and report the traceback",
    )
    return STATUS_FAILED


def _hint_of(error: CocoonError, home: str | None) -> str | None:
    """What to do next, in the home that was named on the command line."""
    from cocoon_p2p.cli.place import with_home
    from cocoon_p2p.errors import ConfigError

    if error.hint is None or home is None:
        return error.hint
    try:
        return with_home(error.hint, home)
    except ConfigError:  # what is wrong is the home's name
        return error.hint
