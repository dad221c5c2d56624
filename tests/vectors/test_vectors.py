"""Every vector of protocols/, carried out; and the generator, that it still makes these very files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from network_operations import CANNOT_FAIL
from vector_blob import CANNOT_FAIL as BLOB_CANNOT_FAIL
from vector_kad_gossip import CANNOT_FAIL as KAD_AND_GOSSIP_CANNOT_FAIL
from vector_manifest import CANNOT_FAIL as MANIFEST_CANNOT_FAIL
from vector_operations import MESSAGES, OPERATIONS, RECORDS, run

PROTOCOLS = Path(__file__).parents[2] / "protocols"
FILES = sorted(PROTOCOLS.glob("**/vectors/*.json"))
# protocols/README.md, "Result codes", as far as a vector can show them
CODES = {
    "MALFORMED", "UNKNOWN_TAG", "BOUND", "SIGNATURE", "EXPIRED", "ENVELOPE", "PAYLOAD", "VOUCHER_SIGNATURE",
    "EVIDENCE",
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    scenario: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return scenario


def code_of(expect: Any) -> str | None:
    return expect["error"] if isinstance(expect, dict) and set(expect) == {"error"} else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.parent.relative_to(PROTOCOLS)}/{p.stem}")
def test_vector(path: Path) -> None:
    scenario = load(path)
    assert set(scenario) == {"name", "spec", "input", "expect"}
    assert scenario["name"] == path.stem
    given = dict(scenario["input"])
    assert run(given.pop("operation"), given) == scenario["expect"]


def test_every_code_stands_in_the_readme_and_has_a_vector() -> None:
    readme = (PROTOCOLS / "README.md").read_text()
    seen = {code for path in FILES if (code := code_of(load(path)["expect"]))}
    assert seen == CODES
    assert all(f"`{code}`" in readme for code in CODES)


def test_every_operation_has_good_and_bad_vectors() -> None:
    good: set[str] = set()
    bad: set[str] = set()
    for path in FILES:
        scenario = load(path)
        (bad if code_of(scenario["expect"]) else good).add(scenario["input"]["operation"])
    assert good == {*MESSAGES, *RECORDS, *OPERATIONS}
    cannot_fail = CANNOT_FAIL | KAD_AND_GOSSIP_CANNOT_FAIL | BLOB_CANNOT_FAIL | MANIFEST_CANNOT_FAIL | {
        "identity.peer_id", "identity.sign", "capacity.keys", "seal.key", "seal.commitment", "seal.chunks", "seal.frames", "voucher.hash", "channel.address",
        "signed_channel_open.decode", "data.greet", "data.encrypt",
    }  # fmt: skip
    assert good - bad == cannot_fail


def test_the_section_of_each_vector_exists() -> None:
    wrong = []
    for path in FILES:
        name, section = load(path)["spec"].split(" §")
        spec = PROTOCOLS / name / "spec.md"
        if path.parent.parent != spec.parent or not re.search(rf"^#+ {re.escape(section)}[. ]", spec.read_text(), re.M):
            wrong.append(path.name)
    assert not wrong


def test_the_generator_makes_these_files_without_the_package() -> None:
    """In a process that finds no cocoon_p2p: the generator cannot have the package's errors."""
    script = (
        "import sys, runpy; sys.modules['cocoon_p2p'] = None; sys.path.insert(0, 'protocols');"
        "sys.argv = ['generate.py', '--check']; runpy.run_path('protocols/generate.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROTOCOLS.parent, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
