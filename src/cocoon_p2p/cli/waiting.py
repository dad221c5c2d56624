"""A word to who waits at a terminal for longer than a moment."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cocoon_p2p.cli.output import print_note

MOMENT_S = 1.0
"""Shneiderman, Designing the User Interface: up to about a second people do not wonder."""


@contextmanager
def told_after_a_moment(what: str, *, after_s: float = MOMENT_S) -> Iterator[None]:
    """Say `what` is waited for on stderr, once, if the block takes longer and somebody watches."""
    timer = threading.Timer(after_s, print_note, (what,))
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
