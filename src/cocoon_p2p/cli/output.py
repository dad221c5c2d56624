"""What people see: data on stdout, errors, hints and notes on stderr, tables that fit a terminal of 80 columns.

Texts from other peers pass through `printable`, so that nobody's model name can move a cursor or ring a bell here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

COLUMNS_MAX = 160
GAP = 2
VALUE_COLUMNS_MIN = 20
NO_BREAK = "\N{NO-BREAK SPACE}"
"""A space at which `print_pairs` folds no value."""
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Whole(str):
    """A value that `print_pairs` does not fold: a command or a path, which is copied as one line."""

    __slots__ = ()


def print_error(message: str, hint: str | None = None) -> None:
    """`cocoon-node: error: …` and `cocoon-node: hint: …`, a line each."""
    print(f"cocoon-node: {paint('error:', 'red', sys.stderr)} {printable(message)}", file=sys.stderr)
    if hint:
        print_hint(hint)


def print_hint(hint: str) -> None:
    print(f"cocoon-node: {paint('hint:', 'cyan', sys.stderr)} {printable(hint)}", file=sys.stderr)


def print_note(message: str) -> None:
    """Progress and remarks."""
    print(f"cocoon-node: {printable(message)}", file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def printable(text: Any) -> str:
    """One line without control characters or anything else that a terminal acts upon."""
    return "".join(
        char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in str(text)
    )


def paint(text: str, style: str, stream: TextIO) -> str:
    """`text` in a colour when `stream` is a terminal and nobody asked for none (no-color.org)."""
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


@dataclass(frozen=True, slots=True)
class Column:
    """`right`: aligned at the right, as numbers are. `elastic`: shortened when the table is too wide."""

    title: str
    right: bool = False
    elastic: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, width: int | None = None) -> list[str]:
    """The lines of a table, none longer than `width` (the terminal's) as long as its elastic columns can give way."""
    cells = [[column.title for column in columns]] + [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    excess = sum(widths) + GAP * (len(columns) - 1) - (terminal_columns() if width is None else width)
    while excess > 0:
        widest = max(
            (i for i, c in enumerate(columns) if c.elastic and widths[i] > 6), key=widths.__getitem__, default=None
        )
        if widest is None:
            break
        widths[widest] -= 1
        excess -= 1
    return [_line(columns, widths, row) for row in cells]


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> None:
    """A table on stdout, its titles painted."""
    lines = table(columns, rows)
    print(paint(lines[0], "bold", sys.stdout))
    for line in lines[1:]:
        print(line)


def print_pairs(pairs: Sequence[tuple[str, Any]], *, flush: bool = False) -> None:
    """Names and values on stdout, the values in one column, folded at the terminal's width; an empty name goes on with
    the one before."""
    longest = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        for number, line in enumerate(_folded(value, terminal_columns() - longest - GAP)):
            head = paint(name.ljust(longest), "bold", sys.stdout) if number == 0 else " " * longest
            print(f"{head}{' ' * GAP}{line}".rstrip(), flush=flush)


def _folded(value: Any, width: int) -> list[str]:
    """`value` in lines of at most `width` characters where its spaces allow that: an address is never cut."""
    if isinstance(value, Whole):
        return [printable(value)]
    # Folded before `printable` turns NO_BREAK into a space; both leave the number of characters as it is.
    lines = textwrap.wrap(
        str(value), max(width, VALUE_COLUMNS_MIN), break_long_words=False, break_on_hyphens=False, expand_tabs=False
    )
    return [printable(line) for line in lines] or [""]


def terminal_columns() -> int:
    """The width to write for: the terminal's, 80 when there is none."""
    return min(shutil.get_terminal_size((80, 24)).columns, COLUMNS_MAX)


def terminal_lines() -> int:
    """The height of the terminal, 24 when there is none."""
    return shutil.get_terminal_size((80, 24)).lines


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    parts = []
    for column, width, cell in zip(columns, widths, row, strict=True):
        short = cell if len(cell) <= width else cell[: width - 1] + "…"
        parts.append(short.rjust(width) if column.right else short.ljust(width))
    return (" " * GAP).join(parts).rstrip()
