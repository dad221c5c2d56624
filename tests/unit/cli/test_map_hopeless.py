"""A map of which no item can succeed ends after the first ones; one that has worked goes on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from cocoon_p2p.cli import main, map_texts
from cocoon_p2p.errors import CocoonError
from cocoon_p2p.node_map import HOPELESS_ITEMS, MapItem, Spread, Work

NOBODY = CocoonError("nobody offers a model called m", code="NO_MODEL")
POOR = CocoonError("the balance is empty", code="BALANCE")
INPUT = CocoonError("no such input", code="INPUT")


async def given_out(codes: list[CocoonError | None], window: int) -> tuple[list[MapItem], CocoonError | None, int]:
    """What a map over items with these outcomes gives, how it ends, and how many were begun."""
    items: list[MapItem] = []
    begun = 0

    async def run_one(index: int, error: CocoonError | None) -> MapItem:
        nonlocal begun
        begun += 1
        await trio.sleep(1.0 if error is not None else 2.0 if index else 0.5)
        return MapItem(index, None, error)

    caught: CocoonError | None = None
    async with trio.open_nursery() as nursery, Spread(nursery, Work(codes, run_one, lambda: window)) as spread:
        try:
            async for item in spread:
                items.append(item)
        except CocoonError as error:
            caught = error
    return items, caught, begun


@pytest.mark.parametrize(("window", "begun"), [(1, 1), (4, 4), (8, 8), (32, 32)])
async def test_the_first_ones_tell_for_all(window: int, begun: int, autojump_clock: trio.testing.MockClock) -> None:
    _, error, count = await given_out([NOBODY] * 1000, window)
    assert error is NOBODY
    assert count == begun
    assert trio.current_time() < 2.5


async def test_an_empty_balance_waits_for_those_under_way(autojump_clock: trio.testing.MockClock) -> None:
    items, error, count = await given_out([POOR] * 1000, 16)
    assert error is POOR
    assert len(items) == count < 3 * HOPELESS_ITEMS


async def test_faults_of_single_items_do_not_hide_it(autojump_clock: trio.testing.MockClock) -> None:
    _, error, count = await given_out([INPUT, NOBODY] * 500, 8)
    assert error is NOBODY
    assert count < 4 * HOPELESS_ITEMS


@pytest.mark.parametrize(
    "outcomes",
    [
        [INPUT] * 100,
        [POOR] * 12 + [None] + [POOR] * 100,
        [None] + [NOBODY] * 100,
        [NOBODY] * 3,
    ],
    ids=["each its own fault", "one under way is done", "one was done", "few"],
)
async def test_what_goes_on(outcomes: list[CocoonError | None], autojump_clock: trio.testing.MockClock) -> None:
    items, error, _ = await given_out(outcomes, 16)
    assert error is None
    assert Counter(item.error for item in items) == Counter(outcomes)


def test_the_command_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Nobody:
        def __init__(self, socket: Path) -> None:
            pass

        def __enter__(self) -> Nobody:
            return self

        def __exit__(self, *exc_info: object) -> None:
            pass

        def run(self, head: dict[str, Any], payload: object) -> None:
            raise CocoonError("nobody offers m", code="NO_MODEL", hint="cocoon-node offers shows what is on offer")

    monkeypatch.setattr(map_texts, "LocalApi", Nobody)
    monkeypatch.setattr(map_texts, "connect", Nobody)
    texts, out, home = tmp_path / "texts", tmp_path / "out", tmp_path / "my home"
    texts.write_text("a\n" * 500)
    command = ["map", "m", "--texts", str(texts), "--out", str(out), "--in-flight", "8", "--home", str(home)]
    assert main(command) == 1
    note, error, hint = capsys.readouterr().err.splitlines()
    assert "texts were tried and all failed, for 0 GRAM" in note
    assert "of 500" in note
    assert "--resume tries them again" in note
    assert error == "cocoon-node: error: nobody offers m"
    assert hint == f"cocoon-node: hint: cocoon-node offers --home '{home}' shows what is on offer"
    assert all(json.loads(line)["error"]["code"] == "NO_MODEL" for line in out.read_text().splitlines())
    assert len(out.read_text().splitlines()) < 2 * HOPELESS_ITEMS
