"""Environments of other products' servers: made by uv once, from pinned versions, in the user's cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.plan import say

_RUNTIME = ("onnxruntime==1.31.1", "tokenizers>=0.22", "numpy>=1.26")


class Unavailable(Exception):
    """A product cannot be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Product:
    name: str
    packages: tuple[str, ...]
    python: str = "3.11"


LITSERVE = Product("LitServe", ("litserve==0.2.19", *_RUNTIME))
PYTRITON = Product("PyTriton", ("nvidia-pytriton==0.7.0", *_RUNTIME), "/usr/bin/python3.11")
"""Its Triton links the system's libpython3.11, which a Python of pyenv or uv does not have."""
BENTOML = Product("BentoML", ("bentoml==1.4.39", *_RUNTIME))


def environment(product: Product) -> Path:
    """The `bin` folder of its environment. Raises Unavailable."""
    uv = shutil.which("uv")
    if uv is None:
        raise Unavailable("uv is not installed")
    if product.python.startswith("/") and not Path(product.python).exists():
        raise Unavailable(f"{product.python} is not installed (apt install python3.11)")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cocoon_p2p" / "bench"
    folder = base / "-".join((product.name.lower(), product.packages[0].partition("==")[2]))
    done = folder / ".done"
    wanted = "\n".join(product.packages)
    if not done.exists() or done.read_text() != wanted:
        say(f"serving: fetching {product.name} (once)")
        shutil.rmtree(folder, ignore_errors=True)
        _run([uv, "venv", "--quiet", "--python", product.python, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *product.packages])
        done.write_text(wanted)
    return folder / "bin"


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no reason given"]
        raise Unavailable(f"{command[1]} failed: {lines[-1][:200]}")
