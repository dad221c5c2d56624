"""Statistics, table and JSON of the benchmarks, on measurements that are given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import parse
from bench.figures import Aim, Figure, Result, percentile, ratios, rounded
from bench.report import as_json, number, table, write

JOB = Result(
    "job",
    "milliseconds of a job",
    (
        Figure("added, p50", "ms", (3.0, 1.5, 2.5), Aim("<=", 2.0)),
        Figure("job / HTTP", "", (0.61, 0.72), Aim(">=", 0.6)),
        Figure("direct", "ms", (0.00312,)),
    ),
    {"jobs": 3},
)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([5.0], 50, 5.0),
        ([5.0], 99, 5.0),
        ([4.0, 1.0, 3.0, 2.0], 50, 2.0),
        ([4.0, 1.0, 3.0, 2.0], 99, 4.0),
        (list(map(float, range(1, 101))), 99, 99.0),
        (list(map(float, range(1, 101))), 50, 50.0),
    ],
)
def test_percentile_is_a_measured_value(values: list[float], percent: float, expected: float) -> None:
    assert percentile(values, percent) == expected


def test_percentile_of_nothing() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_ratios_go_round_by_round() -> None:
    assert ratios((2.0, 9.0), (4.0, 3.0)) == (0.5, 3.0)
    with pytest.raises(ValueError, match="zip"):
        ratios((1.0,), (1.0, 2.0))


def test_a_figure_is_judged_by_its_median() -> None:
    added, ratio, direct = JOB.figures
    assert added.median == 2.5
    assert added.met is False
    assert ratio.median == pytest.approx(0.665)
    assert ratio.met
    assert direct.met is None
    assert Aim("<=", 2.0).met_by(2.0)
    assert not Aim(">=", 0.6).met_by(0.59)


def test_rounding() -> None:
    assert rounded(1234.567) == 1235.0
    assert rounded(0.00123456) == 0.001235
    assert [number(value) for value in (1234.5, 56.78, 1.234, 0.0123, 0.0)] == ["1234", "56.8", "1.23", "0.012", "0.00"]


def test_table() -> None:
    lines = table([JOB]).splitlines()
    assert lines[2] == "job: milliseconds of a job"
    assert lines[3].split() == ["added,", "p50", "2.50", "ms", "1.50", "–", "3.00", "≤", "2", "missed"]
    assert lines[4].split() == ["job", "/", "HTTP", "0.67", "0.61", "–", "0.72", "≥", "0.6", "met"]
    assert lines[5].split() == ["direct", "0.0031", "ms", "0.0031", "–", "0.0031"]
    assert lines[0].index("MEDIAN") + len("MEDIAN") == lines[3].index("2.50 ms") + len("2.50 ms")


def test_json(tmp_path: Path) -> None:
    report = as_json([JOB], "scripts/bench job")
    path = write(report, tmp_path / "results")
    assert path.name.endswith("-job.json")
    read = json.loads(path.read_text())
    assert read == report
    assert read["command"] == "scripts/bench job"
    assert {"processor", "cores", "python", "libraries", "load_average"} <= set(read["machine"])
    (job,) = read["benchmarks"]
    assert job["details"] == {"jobs": 3}
    assert job["figures"][0] == {
        "name": "added, p50",
        "unit": "ms",
        "median": 2.5,
        "min": 1.5,
        "max": 3.0,
        "rounds": [3.0, 1.5, 2.5],
        "aim": {"relation": "<=", "value": 2.0},
        "met": False,
    }


@pytest.mark.parametrize(
    "arguments", [["speed"], ["--seconds", "0"], ["--rounds", "0"], ["--megabytes", "501"], ["--megabytes", "1"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_arguments() -> None:
    options = parse(["job", "bulk", "--json", "--seconds", "0.5"])
    assert (options.names, options.json, options.seconds, options.rounds) == (["job", "bulk"], True, 0.5, 5)
    assert parse([]).names == []
