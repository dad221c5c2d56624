"""What people see."""

from __future__ import annotations

import io

import pytest

from cocoon_p2p.cli.output import NO_BREAK, Column, Whole, paint, print_error, print_pairs, printable, table
from cocoon_p2p.cli.words import (
    age,
    best_address,
    duration,
    gram,
    milliseconds,
    money_note,
    price,
    short_peer,
    size,
    spec,
)

COLUMNS = (Column("NAME", elastic=True), Column("ID"), Column("PRICE", right=True), Column("WHY", elastic=True))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_lines_up() -> None:
    assert table(COLUMNS, [["a", "1", 10, "x"], ["bcd", "22", 5, "yz"]], width=80) == [
        "NAME  ID  PRICE  WHY",
        "a     1      10  x",
        "bcd   22      5  yz",
    ]


def test_a_wide_table_shortens_its_elastic_columns_only() -> None:
    lines = table(COLUMNS, [["n" * 70, "i" * 20, 123456, "w" * 90]], width=80)
    assert max(map(len, lines)) == 80
    assert "i" * 20 in lines[1]
    assert "123456" in lines[1]
    assert lines[1].count("…") == 2


def test_a_table_that_cannot_fit_is_whole() -> None:
    (_, line) = table((Column("ID"),), [["x" * 100]], width=80)
    assert line == "x" * 100


def test_an_empty_table_has_its_titles() -> None:
    assert table(COLUMNS, [], width=80) == ["NAME  ID  PRICE  WHY"]


def test_texts_of_strangers_cannot_act_on_the_terminal() -> None:
    evil = "a\x1b[2Jb\rc\nd\x07\u202ee\u2028f\x9b31m"
    assert printable(evil) == "a\ufffd[2Jb c d\ufffd\ufffde f\ufffd31m"
    (_, line) = table((Column("X"),), [[evil]], width=80)
    assert "\x1b" not in line


def test_errors_and_hints_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("one\ntwo", "three")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "cocoon-node: error: one two\ncocoon-node: hint: three\n"


def test_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("name", "x"), ("", "y"), ("long name", None)])
    assert capsys.readouterr().out == "name       x\n           y\nlong name  None\n"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")


@pytest.mark.usefixtures("narrow")
def test_long_values_are_folded_at_spaces_under_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("why", "one two three four-five six seven eight nine ten"), ("a name", "short")])
    assert capsys.readouterr().out.splitlines() == [
        "why     one two three four-five six",
        "        seven eight nine ten",
        "a name  short",
    ]


@pytest.mark.usefixtures("narrow")
def test_addresses_commands_and_what_belongs_together_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    address = "/ip4/127.0.0.1/tcp/4600/p2p/12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
    step = f"seal{NO_BREAK}0.1{NO_BREAK}ms"
    print_pairs(
        [("at", f"see {address} there"), ("do", Whole(f"cocoon-node up --bootstrap {address}")), ("t", f"{step}, " * 4)]
    )
    assert capsys.readouterr().out.splitlines() == [
        "at  see",
        f"    {address}",
        "    there",
        f"do  cocoon-node up --bootstrap {address}",
        "t   seal 0.1 ms, seal 0.1 ms,",
        "    seal 0.1 ms, seal 0.1 ms,",
    ]


@pytest.mark.usefixtures("narrow")
def test_folded_texts_of_strangers_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs([("why", "a\x1b[2Jb\rc\nd\te " * 6), ("do", Whole("x\x1b[2J\ny"))])
    out = capsys.readouterr().out
    assert all(line.isprintable() and len(line) <= 40 for line in out.splitlines())
    assert out.endswith("do   x\ufffd[2J y\n")


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"


def test_words() -> None:
    assert short_peer("12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N") == "12D3…Dz8e6N"
    assert short_peer(None) == "-"
    assert price(100_000, 0) == "0.0001 GRAM a job + 0 GRAM an item"
    assert gram(None) == "-"
    assert [milliseconds(value) for value in (None, 0, 3.14159, 1250)] == ["-", "0.0 ms", "3.1 ms", "1.25 s"]
    assert [duration(value) for value in (-1, 0, 59.9, 60, 7199, 90_000)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "1 h",
        "1 d",
    ]
    assert [size(value) for value in (None, 0, 999, 1000, 90_400_000, 2 * 10**12)] == [
        "-", "0 B", "999 B", "1.0 kB", "90.4 MB", "2000.0 GB",
    ]  # fmt: skip
    assert age(1_000_000, now_s=1120) == "2 min"
    assert age(None) == "-"
    assert money_note(0) == money_note(None) == "test money, no value"
    assert "-239" in money_note(-239)
    assert spec({"name": "x", "dtype": "int64", "shape": [-1, 3]}) == "x int64[?,3]"
    assert spec({"name": "x", "dtype": "int64", "shape": None}) == "x int64[…]"
    assert spec({"name": "x", "dtype": "int64", "shape": []}) == "x int64[]"


def test_the_address_that_is_handed_on() -> None:
    assert best_address(["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1", "/ip4/10.0.0.1/tcp/1"]) == "/ip4/10.0.0.1/tcp/1"
    assert best_address(["/ip4/127.0.0.1/tcp/1"]) == "/ip4/127.0.0.1/tcp/1"
    assert best_address([]) is None
