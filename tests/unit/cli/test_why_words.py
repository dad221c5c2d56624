"""What `cocoon-node why`, `map` and the new limits of `run` look like; no node is needed for that."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from cocoon_p2p.cli import main
from cocoon_p2p.cli.map_texts import _bar, _line, _read_texts, _Rest
from cocoon_p2p.cli.parser import parse
from cocoon_p2p.cli.run import limits_head, request_head
from cocoon_p2p.cli.why import print_consideration
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.run_json import is_dry_run, run_request
from cocoon_p2p.node_map import MapItem, Spread, Work
from cocoon_p2p.store import ConsiderationRecord, open_store

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
ROW: dict[str, Any] = {
    "job_id": "ab" * 16, "model": "minilm", "model_id": "cd" * 32, "tier": "sealed", "at_ms": 0, "dry_run": False,
    "chosen": PEER, "error": None,
    "providers": [
        {"peer_id": PEER, "asked": True, "answer": "quote", "reason": None, "detail": "", "would_be_yes": None,
         "needed": None, "price_nanogram": 110_000, "queue_ms": 40, "signed": None},
        {"peer_id": PEER[:-1] + "x", "asked": True, "answer": "refusal", "reason": "BUSY", "detail": "all 2 places are taken",
         "would_be_yes": "free in about 4 s", "needed": 3600, "price_nanogram": None, "queue_ms": None,
         "signed": {"body": "00", "signature": "00"}},
    ],
}  # fmt: skip


def test_a_consideration_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    print_consideration(ROW)
    text = " ".join(capsys.readouterr().out.split())
    assert "quoted 0.00011 GRAM (110,000 nanogram), 40.0 ms to wait: taken" in text
    assert "refused, BUSY, signed" in text
    assert "→ free in about 4 s" in text


def test_all_answers_of_a_quorum_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    other = ROW | {"job_id": "ef" * 16, "error": "it went silent"}
    print_consideration(ROW | {"poll": "00" * 16, "legs": [ROW, other]})
    text = capsys.readouterr().out
    assert text.startswith("quorum  2 answers were asked for")
    assert text.index("abababababab") < text.index("efefefefefef") < text.index("it went silent")


def test_why_without_a_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert main(["init", "--home", str(home)]) == 0
    with open_store(home / "state.sqlite3") as store:
        store.considerations.save([ConsiderationRecord("ab" * 16, json.dumps(ROW))])
    capsys.readouterr()
    assert main(["why", "abab", "--home", str(home), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ROW
    assert main(["why", "ffff", "--home", str(home)]) == 2
    assert "nothing is known of a job ffff" in capsys.readouterr().err


def test_the_limits_travel() -> None:
    options = parse(
        ["run", "minilm", "--text", "a", "--hedge", "2", "--min-reliability", "0.6", "--prefer", "fastest", "--dry-run"]
    )
    head = request_head(options)
    assert head == {"model": "minilm", "min_reliability": 0.6, "prefer": "fastest", "hedge": 2, "dry_run": True}
    request = run_request(head)
    assert (request.hedge, request.quorum, request.min_reliability, request.prefer) == (2, 1, 0.6, "fastest")
    assert is_dry_run(head)
    assert not is_dry_run({})
    assert limits_head(parse(["map", "minilm", "--texts", "a", "--out", "b", "--max-price", "5"])) == {
        "model": "minilm",
        "max_price": 5,
    }


@pytest.mark.parametrize(
    "wrong",
    [{"hedge": 0}, {"hedge": 5}, {"quorum": "3"}, {"prefer": "best"}, {"min_reliability": 1.1}, {"hedge": True}],
)
def test_wrong_limits_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        run_request({"model": "minilm"} | wrong)


@pytest.mark.parametrize(
    "arguments", [["--hedge", "9"], ["--quorum", "0"], ["--min-reliability", "2"], ["--prefer", "x"]]
)
def test_wrong_options(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["run", "minilm", "--text", "a", *arguments])


def test_texts_are_lines(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("one\n\nthree\r\n", encoding="utf-8")
    assert _read_texts(str(file)) == ["one", "", "three"]
    file.write_bytes(b"\xff")
    for name in (str(file), str(tmp_path / "none")):
        with pytest.raises(ConfigError, match="--texts"):
            _read_texts(name)


def test_lines_of_the_output() -> None:
    failed = _line(MapItem(3, None, CocoonError("nobody", code="BUSY")))
    assert failed == {
        "index": 3, "outputs": None, "error": {"code": "BUSY", "message": "nobody"}, "provider": None, "price_nanogram": 0, "texts_cut": 0,
    }  # fmt: skip


def test_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    rest = _Rest(["a"] * 12, sys.stderr, 0)
    _bar(rest, 5, 1, 12)
    _bar(rest, 11, 1, 12)
    told = capsys.readouterr().err
    assert "█" * 15 + "░" * 15 + " 6/12, 1 failed" in told
    assert "12/12, 1 failed\n" in told


async def test_a_spread_over_anything() -> None:
    """`map` through a running node has threads behind it."""

    async def square(index: int, given: int) -> MapItem:
        return MapItem(index, None, price=given * given)

    async with trio.open_nursery() as nursery, Spread(nursery, Work(range(9), square, lambda: 3)) as items:
        assert [item.price async for item in items] == [n * n for n in range(9)]
    assert isinstance(parse(["why", "ab"]), argparse.Namespace)
