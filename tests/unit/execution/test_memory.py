"""Amounts of memory: what an operator writes, what the machine has, what a process takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cocoon_p2p.execution.memory import (
    advice_on_size,
    amount_bytes,
    expected_bytes,
    job_budget,
    machine_bytes,
    model_budget,
    out_of_memory_kills,
    private_bytes,
    problem_of_amount,
    process_bytes,
    too_large,
)
from cocoon_p2p.limits import GIB, JOB_MEMORY_MIN_BYTES, MEMORY_BUDGET_MIN_BYTES, MIB

ON_LINUX = Path("/proc/self/statm").exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("6 GiB", 6 * GIB),
        ("6gib", 6 * GIB),
        ("1.5 GB", 1_500_000_000),
        ("800 MB", 800_000_000),
        ("512 KiB", 512 * 1024),
    ],
)
def test_amounts(text: str, count: int) -> None:
    assert problem_of_amount(text) is None
    assert amount_bytes(text) == count


@pytest.mark.parametrize("text", ["", "6", "GiB", "-1 GiB", "6 gigs", "1e9 GB", "auto 6 GiB"])
def test_what_is_no_amount(text: str) -> None:
    assert "6 GiB" in (problem_of_amount(text) or "")


def test_shares_of_the_machine() -> None:
    assert problem_of_amount("auto") is None
    assert model_budget("auto", 24 * GIB) == 12 * GIB
    assert job_budget("auto", 24 * GIB) == 6 * GIB
    assert model_budget("auto", 512 * MIB) == MEMORY_BUDGET_MIN_BYTES
    assert job_budget("auto", 512 * MIB) == JOB_MEMORY_MIN_BYTES
    assert model_budget("auto", None) is job_budget("auto", None) is None
    assert model_budget("3 GiB", None) == job_budget("3 GiB", 24 * GIB) == 3 * GIB


def test_a_containers_bound_counts(tmp_path: Path) -> None:
    whole = machine_bytes(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_bytes(tmp_path) == whole
    (tmp_path / "memory.max").write_text("104857600\n")
    assert machine_bytes(tmp_path) == 100 * MIB


def test_advice_says_what_a_model_would_need() -> None:
    assert advice_on_size(10 * MIB, "1 GiB") is None
    advice = advice_on_size(4 * GIB, "1 GiB")
    assert advice is not None
    assert "about 5.1 GiB" in advice
    assert "1.0 GiB here" in advice
    assert too_large(1221 * MIB, 1100 * MIB) != too_large(1100 * MIB, 1100 * MIB)
    assert "1140 MiB" in too_large(1140 * MIB, 1100 * MIB)
    assert expected_bytes(4 * GIB, GIB) == expected_bytes(4 * GIB) + GIB


@pytest.mark.skipif(not ON_LINUX, reason="reads /proc")
def test_what_a_process_takes() -> None:
    before, at_rest = process_bytes(os.getpid()), private_bytes(os.getpid())
    block = bytearray(os.urandom(1)) * (64 * MIB)
    after, grown = process_bytes(os.getpid()), private_bytes(os.getpid())
    assert before is not None and after is not None and at_rest is not None and grown is not None
    assert after - before > 50 * MIB
    assert grown - at_rest > 50 * MIB
    assert len(block)
    assert process_bytes(2**30) is private_bytes(2**30) is None
    kills = out_of_memory_kills()
    assert kills is None or kills >= 0
