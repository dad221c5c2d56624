"""What somebody who pulls a model sees."""

from __future__ import annotations

from typing import Any

import pytest

from cocoon_p2p.cli.models_pull import progress_text
from cocoon_p2p.drivers.model_pull import PullProgress
from cocoon_p2p.ids import ModelId
from cocoon_p2p.node_pull import pull_row

MODEL = ModelId("ab" * 32)


def row(**changes: Any) -> dict[str, Any]:
    return pull_row(PullProgress(MODEL, "m", **changes))


@pytest.mark.parametrize("width", [20, 60, 100, 160])
def test_a_line_with_speed_and_time_left(width: int) -> None:
    line = progress_text(
        row(phase="fetching", done_bytes=250_000_000, total_bytes=1_000_000_000, bytes_s=50e6, holders=3), width
    )
    assert len(line) <= width
    if width >= 100:
        assert "fetching from 3" in line and "25%" in line and "50.0 MB/s" in line and "left" in line


def test_what_is_not_known_yet_is_not_shown() -> None:
    line = progress_text(row(), 100)
    assert "looking for who has it" in line and "%" not in line and "left" not in line


def test_an_error_is_an_object() -> None:
    assert row()["error"] is None
    failed = row(phase="failed", error="nobody", code="NO_SOURCE", hint="wait")
    assert failed["error"] == {"code": "NO_SOURCE", "message": "nobody", "hint": "wait"}
