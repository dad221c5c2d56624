"""`cocoon-node audit` at a running node; the node is a stand-in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cocoon_p2p.cli import audit, history, main

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
RIGHT = {"provider": PEER, "verdict": "right", "deviation": 1e-7, "price_nanogram": 1020, "job_id": "ab" * 16,
         "evidence": None, "error": None}  # fmt: skip
WRONG = RIGHT | {"verdict": "wrong", "deviation": None, "evidence": "/home/x/evidence/ab.evidence"}
FAILED = RIGHT | {"verdict": "failed", "deviation": None, "price_nanogram": 0, "job_id": None, "error": "it fell over"}

JOB = {"job_id": "01" * 16, "role": "client", "state": "done", "price_nanogram": 5}


class StandIn:
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: list[Any] = []
        self.jobs = [JOB]
        self.jobs_before_ctrl_c: list[dict[str, Any]] | None = None
        self.running = 0

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def get(self, address: str, **parameters: Any) -> dict[str, Any]:
        if address == "/v1/jobs":
            if self.running:
                self.running -= 1
                return {"jobs": [self.jobs[0] | {"state": "running"}, *self.jobs[1:]][: parameters["limit"]]}
            return {"jobs": self.jobs[: parameters["limit"]]}
        assert address == "/v1/offers"
        return {"offers": [{"peer_id": PEER}]}

    def post(self, address: str, value: dict[str, Any], *, timeout_s: float | None) -> dict[str, Any]:
        self.asked.append((address, value, timeout_s))
        if self.jobs_before_ctrl_c is not None:
            self.jobs = [*self.jobs_before_ctrl_c, *self.jobs]
            self.running = 2
            raise KeyboardInterrupt
        return {"audited": self.rows}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn([RIGHT])
    monkeypatch.setenv("COCOON_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(audit, "connect", lambda path: stand_in)
    monkeypatch.setattr(history, "connect", lambda path: stand_in)
    return stand_in


def test_all_are_right(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "m"]) == 0
    assert node.asked == [("/v1/audit", {"model": "m", "count": 1}, None)]
    out, err = capsys.readouterr()
    assert "right" in out
    assert "1.0e-07" in out
    assert "1 answer, 0 wrong; 0.00000102 GRAM spent" in err


def test_one_is_wrong(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    node.rows = [RIGHT, WRONG, FAILED]
    command = ["audit", "m", "--provider", PEER[-6:], "--count", "3", "--max-price", "5_000", "--tier", "open"]
    assert main([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"audited": node.rows}
    assert node.asked[0][1] == {"model": "m", "count": 3, "max_price": 5000, "tier": "open", "providers": [PEER]}
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "it fell over" in out
    assert "/home/x/evidence/ab.evidence" in err


@pytest.mark.parametrize(
    "options", [["--count", "0"], ["--count", "101"], ["--max-price", "-1"], ["--provider", "nobody"]]
)
def test_what_cannot_be_asked_for(node: StandIn, options: list[str]) -> None:
    assert main(["audit", "m", *options]) == 2
    assert node.asked == []


def test_ctrl_c_says_what_was_done_and_paid(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    failed = JOB | {"job_id": "02" * 16, "state": "failed", "price_nanogram": 0}
    paid = JOB | {"job_id": "03" * 16, "price_nanogram": 1020}
    of_others = JOB | {"job_id": "04" * 16, "role": "provider", "price_nanogram": 777}
    node.jobs_before_ctrl_c = [failed, of_others, paid]
    assert main(["audit", "m"]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopped: 2 jobs were given out meanwhile, 1 done; 0.00000102 GRAM spent" in err


def test_ctrl_c_before_the_first_job(node: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    node.jobs_before_ctrl_c = []
    assert main(["audit", "m"]) == 130
    assert "nothing is paid" in capsys.readouterr().err
