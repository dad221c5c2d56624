"""Running lan_scenarios.py in a network namespace that has a loopback interface and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
_SET_UP = 'ip link set lo up && ip route add 224.0.0.0/4 dev lo && echo ready && exec "$@"'
_TIMEOUT_S = 40.0


def run_alone(scenario: str) -> Any:
    """The scenario's result. Skips the test where namespaces can't be made."""
    command = [sys.executable, "-W", "error", str(HERE / "lan_scenarios.py"), scenario]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    try:
        done = subprocess.run(
            ["unshare", "--net", "sh", "-c", _SET_UP, "sh", *command],
            capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("multicast is not tested: there is no `unshare` on this machine")
    ready, _, result = done.stdout.partition("\n")
    if ready != "ready":
        pytest.skip(f"multicast is not tested: no network namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(result)
