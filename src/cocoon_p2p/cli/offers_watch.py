"""`cocoon-node offers --watch`: the market as it moves, until Ctrl-C.

On a terminal the tables stay where they are and change in place; elsewhere a line is printed for whatever changed, or with
--json an object.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.cli.interrupts import sigterm_as_ctrl_c
from cocoon_p2p.cli.offers import show
from cocoon_p2p.cli.offers_text import (
    DOWN,
    UP,
    book_lines,
    change_texts,
    money_line,
    nothing_lines,
    offer_lines,
    painted,
)
from cocoon_p2p.cli.output import paint, print_json, printable, terminal_columns, terminal_lines
from cocoon_p2p.cli.place import load_place, running_node

REDRAW_S = 5.0
"""The ages grow also while nothing else changes."""
WAIT_S = 30.0
"""Where nobody looks at ages; the node ends a question that waits for longer."""
REST_S = 0.5
"""Between two questions: as often as a person can follow, whatever happens on a large market."""
ARROW_S = 10.0
"""For so long a price that has moved keeps its arrow."""
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, without cursor, lines cut at the edge."""
_LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Moves:
    """Which prices have moved lately, and whither."""

    def __init__(self) -> None:
        self._now = 0.0
        self._before: dict[tuple[Any, ...], tuple[int, str, float]] = {}
        self._seen: dict[tuple[Any, ...], tuple[int, str, float]] = {}

    def begin(self, now: float) -> None:
        """A new picture; what was not in the last one is forgotten. `now` in seconds."""
        self._now = now
        self._before, self._seen = self._seen, {}

    def mark(self, key: tuple[Any, ...], price: int) -> str:
        """An arrow when this price moved within ARROW_S, else nothing."""
        before = self._before.get(key)
        arrow, until = ("", 0.0) if before is None else before[1:]
        if before is not None and before[0] != price:
            arrow, until = (UP if price > before[0] else DOWN), self._now + ARROW_S
        if self._now >= until:
            arrow = ""
        self._seen[key] = (price, arrow, until)
        return arrow


def watch(options: argparse.Namespace) -> int:
    """Until Ctrl-C or SIGTERM, which is the way to end it: status 0. Raises CocoonError, when the node goes away too."""
    home, _ = load_place(options)
    api = running_node(home)
    try:
        with sigterm_as_ctrl_c():
            if options.json:
                _as_json(api, options)
            elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
                _on_screen(api, options)
            else:
                _as_lines(api, options)
    except KeyboardInterrupt:
        pass
    return 0


def _answers(api: LocalApi, options: argparse.Namespace, wait_s: float) -> Iterator[dict[str, Any]]:
    """The market now, and again whenever it has changed, and after `wait_s` when it has not."""
    asked = {"model": options.model, "tier": options.tier}
    answer = api.get("/v1/offers", **asked)
    while True:
        yield answer
        time.sleep(REST_S)
        answer = api.get("/v1/offers", **asked, after=answer["version"], wait_s=wait_s)


def _as_json(api: LocalApi, options: argparse.Namespace) -> None:
    version = None
    for answer in _answers(api, options, WAIT_S):
        if answer["version"] != version:
            version = answer["version"]
            print_json({"book": answer["book"], "offers": answer["offers"]})


def _as_lines(api: LocalApi, options: argparse.Namespace) -> None:
    before: dict[tuple[Any, ...], str] | None = None
    for answer in _answers(api, options, WAIT_S):
        texts = change_texts(answer, options.model is not None)
        if before is None:
            show(answer, options.model, options.tier)
            sys.stdout.flush()
        else:
            for line in changed_lines(before, texts):
                print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
        before = texts


def changed_lines(before: dict[tuple[Any, ...], str], now: dict[tuple[Any, ...], str]) -> list[str]:
    """What is new, other, or gone, a line each."""
    lines = [text if key in before else f"new: {text}" for key, text in now.items() if before.get(key) != text]
    return lines + [f"gone: {text}" for key, text in before.items() if key not in now]


def _on_screen(api: LocalApi, options: argparse.Namespace) -> None:
    moves = Moves()
    answer: dict[str, Any] | None = None
    try:
        with _alternate_screen():
            for answer in _answers(api, options, REDRAW_S):
                moves.begin(time.monotonic())
                lines = picture(
                    answer, options.model, options.tier, moves, columns=terminal_columns(), height=terminal_lines()
                )
                sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines[:-1]))
                sys.stdout.write(f"{lines[-1]}{_CLEAR_LINE}{_CLEAR_BELOW}")
                sys.stdout.flush()
    except KeyboardInterrupt:
        if answer is not None:
            show(answer, options.model, options.tier)


@contextmanager
def _alternate_screen() -> Iterator[None]:
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def picture(
    answer: dict[str, Any], model: str | None, tier: str | None, moves: Moves, *, columns: int, height: int
) -> list[str]:
    """What the screen shows, at most `height` lines of `columns`."""
    what = "the market" if model is None else printable(model)
    lines = [paint(f"{what}, {time.strftime('%H:%M:%S')}; Ctrl-C ends"[:columns], "dim", sys.stdout), ""]
    if not answer["offers"]:
        return [*lines, *(text[:columns] for text in nothing_lines(answer.get("empty") or {}, model, tier))]
    body: list[str] = []
    if model is None:
        body += _table(book_lines(answer["book"], columns, moves.mark))
    else:
        for title, rows in offer_lines(answer["book"], answer["offers"], columns, moves.mark):
            body += [*([""] if body else []), title[:columns], *_table(rows)]
    room = height - len(lines) - 2
    if len(body) > room:
        left = len(body) - room + 1
        body = [*body[: room - 1], f"… and {left} more lines: a higher terminal shows them"[:columns]]
    return [*lines, *body, "", paint(money_line(answer, each_offer=model is not None)[:columns], "dim", sys.stdout)]


def _table(lines: Sequence[str]) -> list[str]:
    return [paint(lines[0], "bold", sys.stdout), *(painted(line) for line in lines[1:])]
