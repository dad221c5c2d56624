"""`cocoon-node map`: what it reads, what it goes on with, and how long it waits for providers that are busy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from cocoon_p2p.cli import map_texts
from cocoon_p2p.cli.map_texts import _ApiRunner, _done_before, _read_texts
from cocoon_p2p.errors import ConfigError, PeerRefused, RefusalReason


def line(index: int, *, failed: bool = False) -> str:
    error = {"code": "BUSY", "message": "all are"} if failed else None
    return json.dumps({"index": index, "outputs": None if failed else {"y": [1]}, "error": error}) + "\n"


@pytest.mark.parametrize(
    ("content", "done", "kept"),
    [
        ("", 0, ""),
        (line(0) + line(1), 2, line(0) + line(1)),
        (line(0) + line(1)[:20], 1, line(0)),
        (line(0) + line(1, failed=True) + line(2), 3, line(0) + line(1, failed=True) + line(2)),
        (line(0) + line(1, failed=True) + line(2, failed=True), 1, line(0)),
        (line(0, failed=True), 0, ""),
    ],
    ids=["nothing", "whole", "half a line", "a wrong text", "failures at the end", "only failures"],
)
def test_what_an_earlier_run_left(tmp_path: Path, content: str, done: int, kept: str) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(content)
    assert _done_before(str(file)) == done
    assert file.read_text() == kept


@pytest.mark.parametrize("content", ["hello\n", "[]\n", "{}\n", line(0) + line(2), line(1)])
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    file = tmp_path / "out.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError, match="is no result of this command"):
        _done_before(str(file))
    assert file.read_text() == content


def test_without_an_earlier_run(tmp_path: Path) -> None:
    assert _done_before(str(tmp_path / "out.jsonl")) == 0
    with pytest.raises(ConfigError, match="cannot go on with"):
        _done_before(str(tmp_path))


def test_one_text_a_line_whatever_is_in_it(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("a\u2028b\x0cc\r\n\nd".encode())
    assert _read_texts(str(file)) == ["a\u2028b\x0cc", "", "d"]


async def test_busy_providers_are_asked_until_the_item_has_no_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(map_texts, "BUSY_WAIT_S", 0.02)
    left: list[float] = []

    class Busy:
        def __init__(self, socket: Path) -> None:
            pass

        def run(self, head: dict[str, Any], payload: object) -> None:
            left.append(head["timeout_s"])
            raise PeerRefused(RefusalReason.BUSY, "all are")

    monkeypatch.setattr(map_texts, "LocalApi", Busy)
    with trio.fail_after(5):
        item = await _ApiRunner(tmp_path, {"model": "m"}, 2, 0.1).run_one(7, "a")
    assert item.index == 7
    assert item.error is not None
    assert item.error.code == "BUSY"
    assert len(left) > 1
    assert left == sorted(left, reverse=True)
    assert left[0] <= 0.1
