"""`offers --watch`: the real command against a node that is a stand-in, on a terminal and without one."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from market_answers import MarketNode, answer, line, offer

from cocoon_p2p.cli.offers_text import DOWN, UP
from cocoon_p2p.cli.offers_watch import ARROW_S, Moves, changed_lines, picture
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.node import Node

TIMEOUT_S = 20
PRICES = {tier: {"base_nanogram": 120_000, "per_unit_nanogram": 10_000} for tier in ("open", "sealed")}
DEARER = answer([offer(prices=PRICES)], version="b", book=[line(best_nanogram=130_000), line("open")])


# --- what is drawn ---


def test_a_price_that_moved_keeps_its_arrow_for_a_while() -> None:
    moves = Moves()
    prices = [(0.0, 5), (1.0, 6), (2.0, 6), (2.0 + ARROW_S, 6), (20.0, 4), (21.0, 4)]
    shown = []
    for now, price in prices:
        moves.begin(now)
        shown.append(moves.mark(("a",), price))
    assert shown == ["", UP, UP, "", DOWN, DOWN]


def test_who_comes_back_has_not_moved() -> None:
    moves = Moves()
    for now, price in ((0.0, 5), (1.0, None), (2.0, 9)):
        moves.begin(now)
        if price is not None:
            assert moves.mark(("a",), price) == ""


def test_a_picture_fits_the_screen() -> None:
    offers = [offer(number % 3, name=f"model-{number}", model_id=f"{number:064x}") for number in range(60)]
    many = answer(offers, book=[line(name=each["name"], model_id=each["model_id"]) for each in offers])
    for model in (None, "minilm"):
        for columns, height in ((80, 24), (120, 40), (40, 10)):
            lines = picture(many, model, None, Moves(), columns=columns, height=height)
            assert len(lines) <= height
            assert max(map(len, lines)) <= max(columns, 60), "but for the narrowest table there is"
            assert any(text.startswith("… and ") for text in lines)
    empty = answer([], empty={"reason": "NOT_CONNECTED", "peers": 0})
    assert "no offers" in picture(empty, None, None, Moves(), columns=80, height=24)[2]


def test_lines_for_what_changed() -> None:
    before = {("a",): "A 1", ("b",): "B 1", ("c",): "C 1"}
    now = {("a",): "A 1", ("b",): "B 2", ("d",): "D 1"}
    assert changed_lines(before, now) == ["B 2", "new: D 1", "gone: C 1"]


# --- the command ---


class Watcher:
    """The command in a process of its own, and what it has printed."""

    def __init__(self, process: subprocess.Popen[bytes], reading: int, stop: trio.Event) -> None:
        self.process = process
        self.stop = stop
        self.text = ""
        self._reading = reading

    async def read_until(self, pattern: str) -> None:
        with trio.fail_after(TIMEOUT_S):
            while not re.search(pattern, self.text):
                await trio.lowlevel.wait_readable(self._reading)
                piece = os.read(self._reading, 65536)
                assert piece, f"it ended without {pattern!r}: {self.text}"
                self.text += piece.decode()

    async def interrupt(self) -> int:
        """Ctrl-C; its exit status."""
        self.process.send_signal(signal.SIGINT)
        with trio.fail_after(TIMEOUT_S):
            await self._read_rest()
            return await trio.to_thread.run_sync(self.process.wait)

    async def _read_rest(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._reading)
            try:
                piece = os.read(self._reading, 65536)
            except OSError:  # a terminal that nobody holds open any more
                return
            if not piece:
                return
            self.text += piece.decode()


@asynccontextmanager
async def watching(folder: Path, node: MarketNode, *words: str, size: tuple[int, int] | None) -> AsyncIterator[Watcher]:
    """`offers --watch` with a terminal of `size` (columns, lines), or with a pipe."""
    home, stop = folder / "home", trio.Event()
    home.mkdir(mode=0o700)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment["TERM"] = "xterm-256color"
    command = [sys.executable, "-m", "cocoon_p2p", "offers", "--watch", "--home", str(home), *words]
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_local_api, cast(Node, node), home / "api.sock", stop=stop))
        reading, writing = os.openpty() if size else os.pipe()
        if size:
            fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        start = partial(subprocess.Popen, command, stdin=writing if size else None, stdout=writing, stderr=writing)
        process = await trio.to_thread.run_sync(partial(start, env=environment))
        os.close(writing)
        try:
            yield Watcher(process, reading, stop)
        finally:
            process.kill()
            process.wait()
            os.close(reading)
            stop.set()


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
async def test_on_a_terminal_it_redraws_in_place_and_ends_cleanly(tmp_path: Path, size: tuple[int, int]) -> None:
    node = MarketNode()
    async with watching(tmp_path, node, size=size) as watcher:
        await watcher.read_until(r"(?s)\x1b\[\?1049h.*0\.00011")
        await node.waiting.wait()
        node.show(DEARER)
        await watcher.read_until(rf"\x1b\[33m0\.00013{UP}\x1b\[0m")
        frames = watcher.text.split("\x1b[H")[1:]
        for frame in frames:
            plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).splitlines()
            assert len(plain) <= size[1]
            assert max(map(len, plain)) <= size[0]
        assert await watcher.interrupt() == 0
    after = watcher.text.rpartition("\x1b[?1049l")[2]
    assert "\x1b[?25h" in watcher.text
    assert "0.00013" in after, "the last picture stays"
    assert "Traceback" not in watcher.text


async def test_without_a_terminal_it_prints_what_changed(tmp_path: Path) -> None:
    node = MarketNode()
    async with watching(tmp_path, node, "minilm", size=None) as watcher:
        await watcher.read_until(r"PROVIDER.*\n12D3")
        await node.waiting.wait()
        node.show(DEARER)
        await watcher.read_until(r"\d\d:\d\d:\d\d  12D3…Dz8e6N sealed: 0\.00012 a job, .*\n")
        await node.waiting.wait()
        node.show(answer([], version="c", empty={"reason": "NOBODY_SERVES", "peers": 2}))
        await watcher.read_until(r"  gone: 12D3…Dz8e6N sealed")
        assert await watcher.interrupt() == 0
    assert "\x1b" not in watcher.text
    assert node.asked[0] == ("minilm", None)


async def test_as_json_it_prints_an_object_for_each_change(tmp_path: Path) -> None:
    node = MarketNode()
    async with watching(tmp_path, node, "--json", "--tier", "sealed", size=None) as watcher:
        await watcher.read_until("\n")
        await node.waiting.wait()
        node.show(DEARER)
        await watcher.read_until("\n.*\n")
        assert await watcher.interrupt() == 0
    rows: list[dict[str, Any]] = [json.loads(text) for text in watcher.text.splitlines()]
    assert [set(row) for row in rows] == [{"book", "offers"}] * 2
    assert [row["book"][0]["best_nanogram"] for row in rows] == [110_000, 130_000]


async def test_a_node_that_goes_away_ends_it(tmp_path: Path) -> None:
    node = MarketNode()
    async with watching(tmp_path, node, size=(80, 24)) as watcher:
        await watcher.read_until("MODEL")
        await node.waiting.wait()
        watcher.stop.set()
        await watcher.read_until("\x1b\\[\\?1049l.*error:.* the node stop(s|ped answering)")
