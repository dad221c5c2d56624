"""The engine with ONNX Runtime: what a job may take, several models in little memory, several devices. With real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import trio

from cocoon_p2p.execution import engine_pool
from cocoon_p2p.execution.device import CPU, ChosenDevice
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.execution.pool_settings import PoolSettings
from cocoon_p2p.execution.port import Device, Engine, ModelStatus
from cocoon_p2p.limits import MIB
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import models
from cocoon_p2p.testing.engine_contract import ENDLESS, refusal_of, run_job

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def install(folder: Path, path: Path) -> InstalledModel:
    return ModelRegistry(folder / "home", inspect=inspect_onnx).add(path)


async def until(engine: Engine, wanted: int, what: str) -> tuple[ModelStatus, ...]:
    """Until so many models are `what`, or have so many `replicas`. The engine tells by its status only."""
    with trio.fail_after(30):
        while sum(getattr(status, what) for status in engine.models()) != wanted:  # noqa: ASYNC110 - the port has no event
            await trio.sleep(0.001)
    return engine.models()


async def test_a_job_that_takes_too_much_memory_is_refused_and_the_worker_lives(tmp_path: Path) -> None:
    model = install(tmp_path, models.hungry_model(tmp_path))
    async with open_engine(device="cpu", threads=1, job_memory_bytes=256 * MIB) as engine:
        pid = (await engine.load(model.model_id, model.folder)).pid
        error = await refusal_of(lambda: run_job(engine, model, {"elements": np.array([2**31])}))
        assert (error.code, error.message) == ("LIMITS", "there is not enough memory for this job")
        assert (await run_job(engine, model, {"elements": np.array([1000])}))["sum"] == 1000
        assert engine.models()[0].pid == pid


async def test_a_run_that_makes_its_worker_grow_is_ended_with_it(tmp_path: Path) -> None:
    kernel = install(tmp_path, models.kernel_model(tmp_path))
    async with open_engine(device="cpu", threads=1, job_memory_bytes=40 * MIB) as engine:
        pid = (await engine.load(kernel.model_id, kernel.folder)).pid
        # A product of 72 MB, below what the process's own bound forbids at once, that takes long to compute.
        error = await refusal_of(lambda: run_job(engine, kernel, {"x": np.ones((3000, 3000))}, items_max=3000))
        assert (error.code, error.retryable) == ("LIMITS", True)
        assert "at most 40 MiB are given to one" in error.message
        assert (await run_job(engine, kernel, {"x": np.eye(3)}))["sum"] == 3
        assert engine.models()[0].pid != pid


async def test_the_kernels_killer_is_told_from_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can use up the machine's memory: the kernel's count of processes that it ended for that is set instead."""
    kills = 7
    monkeypatch.setattr("cocoon_p2p.execution.worker_processes.out_of_memory_kills", lambda: kills)
    model = install(tmp_path, models.slow_model(tmp_path))
    messages = []
    async with open_engine(device="cpu", threads=1) as engine:
        await engine.load(model.model_id, model.folder)
        for more in (1, 0):
            async with trio.open_nursery() as nursery:

                async def doomed() -> None:
                    error = await refusal_of(lambda: run_job(engine, model, {"turns": np.int64(ENDLESS)}))
                    messages.append(error.message)

                nursery.start_soon(doomed)
                (status,) = await until(engine, 1, "running")
                assert status.pid is not None
                kills += more
                os.kill(status.pid, signal.SIGKILL)
            await until(engine, 1, "loaded")
    assert messages == [
        "the process that ran the job ran out of memory: the kernel ended it (SIGKILL)",
        "the process that ran the job was killed by signal 9 (SIGKILL)",
    ]


async def test_two_models_in_memory_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def measured(pid: int) -> int:
        return 100 * MIB

    monkeypatch.setattr(engine_pool, "measured_bytes", measured)
    first = install(tmp_path, models.matmul_model(tmp_path))
    second = install(tmp_path, models.two_in_two_out_model(tmp_path))
    ones = np.ones((1, 4), np.float32)
    async with open_engine(device="cpu", threads=1, pool=PoolSettings(budget_bytes=150 * MIB)) as engine:
        for model in (first, second):
            await engine.load(model.model_id, model.folder)
        assert [status.warm for status in engine.models()] == [True, False]
        for _ in range(2):
            assert (await run_job(engine, second, {"a": ones, "b": ones}))["sum"].shape == (1, 4)
            assert [status.warm for status in engine.models()] == [False, True]
            assert (await run_job(engine, first, {"x": ones}))["y"].shape == (1, 3)
            assert [status.warm for status in engine.models()] == [True, False]
        assert [status.jobs_done for status in engine.models()] == [2, 2]


async def test_a_second_device_takes_part_of_a_long_queue(tmp_path: Path) -> None:
    """No GPU is needed: both devices are the CPU by another name."""
    model = install(tmp_path, models.slow_model(tmp_path))
    devices = [ChosenDevice(Device(f"cuda:{number}", "pretended"), CPU, number) for number in range(2)]
    pool = PoolSettings(tend_s=0.01, replica_after_s=0.05, replica_idle_s=0.1)
    async with open_engine(device="cpu", threads=1, devices=devices, pool=pool) as engine:
        await engine.load(model.model_id, model.folder)
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(run_job, engine, model, {"turns": np.int64(ENDLESS)})
            (status,) = await until(engine, 2, "replicas")
            assert [device.name for device in status.devices] == ["cuda:0", "cuda:1"]
            (status,) = await until(engine, 2, "running")
            assert status.queued == 2
            nursery.cancel_scope.cancel()
        (status,) = await until(engine, 1, "replicas")
        assert (await run_job(engine, model, {"turns": np.int64(3)}))["count"] == 3
