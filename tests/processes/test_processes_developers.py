"""The whole program of docs/DEVELOPERS.md, run as it stands against a provider's process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from towns import Town

from cocoon_p2p.testing import models

pytestmark = pytest.mark.processes

PAGE = (Path(__file__).parents[2] / "docs" / "DEVELOPERS.md").read_text()
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE, re.S)[0]


def test_the_first_program_of_the_page(tmp_path: Path) -> None:
    with Town(tmp_path / "town") as town:
        provider = town.start("provider", "--model", str(models.embedding_model(tmp_path / "minilm")))
        file = tmp_path / "program.py"
        file.write_text(PROGRAM)
        for _ in range(2):  # the home is new, and then it is there
            ended = subprocess.run(
                [sys.executable, str(file), provider.address],
                cwd=tmp_path,
                env=town.environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "(1, 2)\n", "")
        assert (tmp_path / "my-app" / "node.toml").exists()
        assert [job["state"] for job in provider.api.get("/v1/jobs")["jobs"]] == ["done", "done"]
