"""QR codes in a terminal: two rows of modules a line, in half blocks, black on white whatever colours the terminal has."""

from __future__ import annotations

from collections.abc import Sequence

import segno

QUIET_ZONE = 4
"""Modules of margin that ISO/IEC 18004 wants."""
BLACK_ON_WHITE = "\x1b[38;5;16;48;5;231m"
"""Of the 256 colours, which every terminal in use has: these two no colour scheme changes."""
RESET = "\x1b[0m"
_HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
_INVERTED = {(True, True): " ", (False, True): "▀", (True, False): "▄", (False, False): "█"}


def qr_lines(text: str, *, coloured: bool) -> list[str]:
    """The code of `text`, as small as it gets. `coloured`: with colours of its own, right on every terminal; else in the
    terminal's, drawn for light letters on a dark ground, as most have."""
    code = segno.make(text, error="l", micro=False, boost_error=True)
    rows = [[bool(module) for module in row] for row in code.matrix_iter(border=QUIET_ZONE)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    halves = _HALVES if coloured else _INVERTED
    lines = [_line(upper, lower, halves) for upper, lower in zip(rows[::2], rows[1::2], strict=True)]
    return [f"{BLACK_ON_WHITE}{line}{RESET}" for line in lines] if coloured else lines


def _line(upper: Sequence[bool], lower: Sequence[bool], halves: dict[tuple[bool, bool], str]) -> str:
    return "".join(halves[pair] for pair in zip(upper, lower, strict=True))
