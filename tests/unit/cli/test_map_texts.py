"""`cocoon-node map`: what it reads, what it goes on with, and how long it waits for providers that are busy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from cocoon_p2p.cli import main, map_texts
from cocoon_p2p.cli.map_texts import _ApiRunner, _done_before, _read_texts
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.errors import ConfigError, PeerRefused, RefusalReason
from cocoon_p2p.tensors import Payload


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


def test_results_that_were_paid_for_are_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCOON_HOME", str(tmp_path / "home"))
    texts, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts.write_text("a\n")
    out.write_text(line(0) + line(1))
    words = ["map", "m", "--texts", str(texts), "--out"]
    with pytest.raises(ConfigError, match="would be written over"):
        map_texts.run(parse([*words, str(out)]))
    with pytest.raises(ConfigError, match="would be written over"):
        map_texts.run(parse([*words, str(texts)]))
    with pytest.raises(ConfigError, match=r"holds 2 results, and .* only 1 texts"):
        map_texts.run(parse([*words, str(out), "--resume"]))
    assert (texts.read_text(), out.read_text()) == ("a\n", line(0) + line(1))


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


def test_a_full_disk_is_told_with_what_was_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Paid:
        def __init__(self, socket: Path) -> None:
            pass

        def run(self, head: dict[str, Any], payload: Payload) -> tuple[dict[str, Any], Payload]:
            return {"price_nanogram": 2_000_000_000}, payload

    monkeypatch.setattr(map_texts, "LocalApi", Paid)
    monkeypatch.setattr(map_texts, "connect", Paid)
    (tmp_path / "texts").write_text("a\n")
    command = ["map", "m", "--texts", str(tmp_path / "texts"), "--out", "/dev/full", "--home", str(tmp_path / "home")]
    assert main(command) == 2
    note, error = capsys.readouterr().err.splitlines()[:2]
    assert "stopped early: 0 of 1 are in /dev/full, for 2 GRAM" in note
    assert error == "cocoon-node: error: --out: cannot write /dev/full: No space left on device"


def test_the_bar_counts_the_whole_file_as_the_notes_do(capsys: pytest.CaptureFixture[str]) -> None:
    rest = map_texts._Rest(["a"] * 59_660, sys.stdout, 340)
    map_texts._bar(rest, 1, 0, 59_660)
    assert capsys.readouterr().err.endswith("341/60000")
    map_texts._bar(rest, 59_659, 1, 59_660)
    assert capsys.readouterr().err.endswith("60000/60000, 1 failed\n")
