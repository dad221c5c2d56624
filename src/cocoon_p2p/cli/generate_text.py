"""What a model says, on a terminal: as it comes, without anything that a terminal would act upon."""

from __future__ import annotations

import sys
from typing import TextIO

_JOINERS = "\u200c\u200d"
"""Zero-width, and part of how words and emoji are written."""
_KEPT = "\n\t" + _JOINERS


class TextOut:
    """Writes text piece by piece. To a terminal only what is harmless there: no escape sequence, no bell, no carriage return, no change of
    writing direction can come from a model. Files and pipes get what the model said."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._harmless = self._stream.isatty()
        self._last = ""

    def write(self, text: str) -> None:
        """At once."""
        if not text:
            return
        self._last = text[-1]
        self._stream.write(harmless(text) if self._harmless else text)
        self._stream.flush()

    def end_line(self) -> None:
        """What comes next begins on a line of its own."""
        if self._last not in ("", "\n"):
            self._stream.write("\n")
            self._stream.flush()
        self._last = ""


def harmless(text: str) -> str:
    """The text with every control character replaced, but for line ends and tabs."""
    return "".join(
        char if char.isprintable() or char in _KEPT else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}"
        for char in text
    )
