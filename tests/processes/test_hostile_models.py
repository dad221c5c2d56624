"""Models from strangers, in real worker processes: what they try comes to nothing, and the next model runs as if nothing had been."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trio

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution import jail
from cocoon_p2p.execution.onnx_engine import OnnxEngine, open_engine
from cocoon_p2p.limits import MIB, WORKER_TERMINATE_TIMEOUT_S
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import hostile_models as hostile
from cocoon_p2p.testing import models
from cocoon_p2p.testing.engine_contract import refusal_of, run_job, wait_until_running

pytestmark = pytest.mark.skipif(not jail.support().complete, reason=f"no jail here: {jail.support().reason}")
ROOM = 256 * MIB
X = {"x": np.arange(4, dtype=np.float32)}


async def refused(engine: OnnxEngine, model: InstalledModel) -> ExecutionError:
    return await refusal_of(lambda: engine.load(model.model_id, model.folder))


async def load_and_run(engine: OnnxEngine, model: InstalledModel) -> None:
    await engine.load(model.model_id, model.folder)
    await run_job(engine, model, X)


async def add_one(engine: OnnxEngine, home: Path) -> None:
    """The node goes on as ever."""
    with trio.fail_after(30):
        model = hostile.plant(
            home / os.urandom(4).hex(), hostile.reads(hostile.external("w.bin")), w=bytes(12) + b"\0\0\x80?"
        )
        await engine.load(model.model_id, model.folder)
        assert (await run_job(engine, model, X))["y"].tolist() == [0, 1, 2, 4]
        await engine.unload(model.model_id)


async def test_models_that_would_read_files_of_others(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"sixteen secrets.")
    tensors = [
        hostile.external(place) for place in (str(secret), "../../../secret", "*/_ORT_MEM_ADDR_/*", "/etc/passwd")
    ]
    async with open_engine(device="cpu", threads=1) as engine:
        for tensor in tensors:
            for make in (hostile.reads, hostile.reads_in_constant, hostile.reads_in_branch, hostile.reads_in_function):
                error = await refused(engine, hostile.plant(tmp_path / "home", make(tensor)))
                assert "none of its files" in error.message
        links: tuple[Callable[[Path, Path], None], ...] = (os.symlink, os.link)
        for number, link in enumerate(links):
            model = hostile.plant(
                tmp_path / str(number), hostile.reads(hostile.external("w.bin")), w=secret.read_bytes()
            )
            (model.folder / "w.bin").unlink()
            link(secret, model.folder / "w.bin")
            assert "link" in (await refused(engine, model)).message
        await add_one(engine, tmp_path)


async def test_models_that_would_run_code_of_others(tmp_path: Path) -> None:
    makes = [
        hostile.operator("Evil", "evil.example"),
        hostile.operator("EPContext", "com.microsoft", ep_cache_context="/etc/passwd", embed_mode=0),
        hostile.python_operator(),
        hostile.ort_flatbuffer(),
        b"cos\nsystem\n(S'true'\ntR.",
    ]
    async with open_engine(device="cpu", threads=1) as engine:
        for make in makes:
            error = await refused(engine, hostile.plant(tmp_path / "home", make))
            assert (error.code, error.message.startswith("the model is refused")) == ("MODEL", True)
        await add_one(engine, tmp_path)


async def test_models_that_grow_without_end(tmp_path: Path) -> None:
    makes = [hostile.many_nodes(150_000), hostile.multiplying_functions(12), hostile.constant_allocation(2**40),
             hostile.empty_constant(2**40)]  # fmt: skip
    async with open_engine(device="cpu", threads=1, job_memory_bytes=ROOM) as engine:
        for make in makes:
            error = await refused(engine, hostile.plant(tmp_path / "home", make))
            assert error.message.startswith("the model is refused")
        # Small enough for the guard, too large for the jail: at the latest when it is run.
        model = hostile.plant(tmp_path / "home", hostile.constant_allocation(2**30))
        with trio.fail_after(20):
            error = await refusal_of(lambda: load_and_run(engine, model))
        assert (error.code, "memory" in error.message) == ("LIMITS", True), error.message
        await add_one(engine, tmp_path)


async def test_an_endless_loop_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
    model = hostile.plant(tmp_path, hostile.endless_loop())
    async with open_engine(device="cpu", threads=1) as engine:
        before = time.monotonic()
        await engine.load(model.model_id, model.folder)
        pid = engine.models()[0].pid
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_job, engine, model, X)
            await wait_until_running(engine)
            started = time.monotonic()
            nursery.cancel_scope.cancel()
        assert time.monotonic() - started < WORKER_TERMINATE_TIMEOUT_S + 10
        assert engine.models()[0].pid == pid  # it heeded being told to end
        assert time.monotonic() - before < 30
        await add_one(engine, tmp_path)


async def test_an_endless_loop_ends_when_its_time_is_up(tmp_path: Path) -> None:
    model = hostile.plant(tmp_path, hostile.endless_loop())
    async with open_engine(device="cpu", threads=1, job_seconds=0.5) as engine:
        await engine.load(model.model_id, model.folder)
        with trio.fail_after(20):
            error = await refusal_of(lambda: run_job(engine, model, X))
        assert "within the 0.5 s" in error.message
        await add_one(engine, tmp_path)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand"])
@pytest.mark.parametrize("elements", [2**28, 2**44])
async def test_a_bomb_of_memory_ends_in_an_error_of_its_own_job(operator: str, elements: int, tmp_path: Path) -> None:
    model = hostile.plant(tmp_path, hostile.allocation(operator), inputs={"s": "int64"})
    async with open_engine(device="cpu", threads=1, job_memory_bytes=ROOM) as engine:
        await engine.load(model.model_id, model.folder)
        error = await refusal_of(lambda: run_job(engine, model, {"s": np.array([elements], np.int64)}))
        assert (error.code, "memory" in error.message) == ("LIMITS", True), error.message
        assert (await run_job(engine, model, {"s": np.array([8], np.int64)}))["y"].shape == ()
        await add_one(engine, tmp_path)


@pytest.mark.slow
async def test_broken_models_break_nothing(tmp_path: Path) -> None:
    """A few hundred files with altered bytes, each given to a worker that reads it, and, if it can be read, runs it. Whatever
    becomes of the worker, the next model is none the worse."""
    rng = random.Random(20)
    originals = [
        hostile.reads(hostile.external("w.bin")).SerializeToString(),
        hostile.reads_in_branch(hostile.external("w.bin")).SerializeToString(),
        hostile.indexed().SerializeToString(),
        hostile.indexed().SerializeToString(),
        hostile.endless_loop().SerializeToString(),
        hostile.multiplying_functions(2, 3).SerializeToString(),
    ]
    outcomes = {"refused": 0, "loaded": 0, "failed": 0, "ran": 0}

    async def one(engine: OnnxEngine, number: int, data: bytes) -> None:
        model = hostile.plant(tmp_path / str(number), data, w=bytes(16))
        try:
            await engine.load(model.model_id, model.folder)
        except ExecutionError:
            outcomes["refused"] += 1
            return
        outcomes["loaded"] += 1
        with trio.move_on_after(0.3):
            try:
                await run_job(engine, model, X)
                outcomes["ran"] += 1
            except ExecutionError:
                outcomes["failed"] += 1
        await engine.unload(model.model_id)

    async with open_engine(device="cpu", threads=1, job_memory_bytes=ROOM, job_seconds=5) as engine:
        with trio.fail_after(300):
            for number in range(300):
                data = bytearray(rng.choice(originals))
                for _ in range(rng.randint(1, 3)):
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                await one(engine, number, bytes(data))
        assert not engine.models()
        await add_one(engine, tmp_path)
    assert outcomes["refused"] > 50, outcomes
    assert outcomes["loaded"] > 30, outcomes


def test_models_add_looks_at_a_file_in_the_jail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = ModelRegistry(tmp_path / "home")
    for number, make in enumerate((hostile.python_operator(), hostile.endless_loop(), hostile.ort_flatbuffer())):
        path = hostile.write(tmp_path / str(number), make)
        if number == 1:
            assert registry.add(path).manifest.inputs[0].name == "x"
            continue
        with pytest.raises(ConfigError, match=r"runs code that cannot be looked at|own format"):
            registry.add(path)
    # That it is in the jail shows when the jail cannot be had.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "first"))
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    with pytest.raises(ConfigError, match="could not be shut in"):
        registry.add(models.matmul_model(tmp_path / "good"))
