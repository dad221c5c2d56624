"""The smallest benchmark from end to end, as `scripts/bench` runs it: the shape of what comes out, not the speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.processes
def test_job_benchmark() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "bench", "job", "--json", "--seconds", "0.2", "--rounds", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert "round 2 of 2" in ended.stderr
    (job,) = report["benchmarks"]
    assert job["name"] == "job"
    direct, added, worst = job["figures"]
    assert [len(figure["rounds"]) for figure in (direct, added, worst)] == [2, 2, 2]
    assert 0 < direct["median"] < added["median"] <= worst["median"]
    assert added["aim"] == {"relation": "<=", "value": 2.0}
    assert job["details"]["jobs"] >= 2
    assert set(job["details"]["cpu_ms_per_job"]) == {"client", "provider", "worker"}
    legs = job["details"]["timeline_ms_p50"]
    assert legs["total"] > legs["quote"] > 0
    written = Path(ended.stderr.split("written to ")[1].strip())
    assert json.loads(written.read_text()) == report
    written.unlink()
