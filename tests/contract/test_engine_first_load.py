"""The engine with ONNX Runtime: a fork server that dies while a model first loads."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.jail import support
from cocoon_p2p.execution.onnx_engine import OnnxEngine, open_engine
from cocoon_p2p.execution.port import ModelStatus
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import models

pytestmark = pytest.mark.skipif(not support().seccomp, reason="workers outlive the fork server where there is no jail")

ELEMENTS = 8 << 20
"""32 MiB: after a worker has opened such a file, it has some tenths of a second to go."""
ATTEMPTS = 5
"""A machine that is busy may be done with loading before the test is woken."""
IN_OPEN = 0x20


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor that becomes readable when somebody opens the file."""
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watch >= 0, os.strerror(ctypes.get_errno())
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(path), IN_OPEN) >= 0, os.strerror(ctypes.get_errno())
        yield watch
    finally:
        os.close(watch)


def children() -> set[int]:
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


async def kill_fork_server_at_work(path: Path, times: int, killed: list[int]) -> None:
    """As soon as a worker opens the model's file, kill -9 the process that it was forked from; so often."""
    before = children()
    with opened(path) as watch:
        while len(killed) < times:
            await trio.lowlevel.wait_readable(watch)
            os.read(watch, 4096)
            for server in children() - before - set(killed):
                os.kill(server, signal.SIGKILL)
                killed.append(server)


async def load_while_killing(
    engine: OnnxEngine, model: InstalledModel, times: int
) -> ModelStatus | ExecutionError | None:
    """What comes of a first load in which so many fork servers are killed; None when it was over before."""
    killed: list[int] = []
    outcome: list[ModelStatus | ExecutionError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_fork_server_at_work, model.folder / model.manifest.files[0].path, times, killed)
        with trio.fail_after(60):
            try:
                outcome.append(await engine.load(model.model_id, model.folder, keep=True))
            except ExecutionError as error:
                outcome.append(error)
        nursery.cancel_scope.cancel()
    return outcome[0] if len(killed) == times else None


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    (tmp_path / "weights.bin").write_bytes(bytes(4 * ELEMENTS))
    registry = ModelRegistry(tmp_path / "home", inspect=inspect_onnx)
    return registry.add(models.external_data_model(tmp_path, "weights.bin", elements=ELEMENTS))


@pytest.mark.slow
async def test_a_first_load_that_went_down_with_the_fork_server_is_tried_again(model: InstalledModel) -> None:
    for _ in range(ATTEMPTS):
        async with open_engine(device="cpu", threads=1) as engine:
            status = await load_while_killing(engine, model, 1)
            assert not isinstance(status, ExecutionError), status.message
            if status is not None and status.pid is not None and parent_of(status.pid) in children():
                assert status.problem == ""
                return  # else it had been loaded already
    raise AssertionError("no load was ever met")


@pytest.mark.slow
async def test_a_first_load_is_tried_again_once(model: InstalledModel) -> None:
    for _ in range(ATTEMPTS):
        async with open_engine(device="cpu", threads=1) as engine:
            error = await load_while_killing(engine, model, 2)
            if isinstance(error, ExecutionError):  # else it had been loaded already
                assert error.code == "WORKER"
                assert error.message == "the process that was to load the model ended with the one that starts such"
                status = await engine.load(model.model_id, model.folder, keep=True)
                assert status.loaded, "it is no worse off for it"
                return
    raise AssertionError("no load was ever met")
