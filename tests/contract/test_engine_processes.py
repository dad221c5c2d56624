"""The engine with ONNX Runtime: what becomes of its processes when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
from memory_files import memory_files

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.models.inspection import inspect_onnx
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.testing import models
from cocoon_p2p.testing.engine_contract import ENDLESS, Arrays, refusal_of, run_job, texts, wait_until_running

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in /proc")

NODE = """
import sys, trio
from pathlib import Path
from cocoon_p2p.execution.onnx_engine import open_engine
from cocoon_p2p.ids import ModelId
from cocoon_p2p.tensors import Payload, Tensor, payload_bytes, write_payload

async def main():
    async with open_engine(device="cpu", threads=1) as engine:
        model_id, folder = ModelId(sys.argv[1]), Path(sys.argv[2])
        await engine.load(model_id, folder)
        loaded = {"numpy", "onnx", "onnxruntime", "tokenizers"} & set(sys.modules)
        assert not loaded, loaded
        payload = Payload((Tensor("turns", "int64", (), (10**12).to_bytes(8, "little")),))
        buffer = engine.input_buffer(payload_bytes(payload))
        large = engine.input_buffer(1_000_000)
        write_payload(payload, buffer.view)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: engine.run(model_id, buffer, items_max=1))
            while not engine.models()[0].running:
                await trio.sleep(0.001)
            print(engine.models()[0].pid, flush=True)

trio.run(main)
"""


def install(folder: Path, path: Path) -> InstalledModel:
    return ModelRegistry(folder / "home", inspect=inspect_onnx).add(path)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    """The kernel tells nobody but the parent when a process ends, so this looks again and again."""
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def test_what_dies_with_a_killed_node(tmp_path: Path) -> None:
    model = install(tmp_path, models.slow_model(tmp_path))
    command = [sys.executable, "-c", NODE, model.model_id, str(model.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None and node.stderr is not None
        line = node.stdout.readline()
        assert line, node.stderr.read()
        worker = int(line)
        server = parent_of(worker)
        assert is_alive(worker) and is_alive(server)
        named, unnamed = memory_files([node.pid, server, worker])
        assert unnamed and not named, "what has no name goes with those that hold it"
        node.kill()
        assert gone_within([worker, server], 10.0)
        assert node.stderr.read() == ""


def test_workers_do_not_heed_the_terminal(tmp_path: Path) -> None:
    model = install(tmp_path, models.slow_model(tmp_path))
    command = [sys.executable, "-c", NODE, model.model_id, str(model.folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as node:
        assert node.stdout is not None and node.stderr is not None
        worker = int(node.stdout.readline())
        server = parent_of(worker)
        for pid in (worker, server):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        assert is_alive(worker) and is_alive(server)
        os.killpg(node.pid, signal.SIGINT)  # as Ctrl-C does
        assert gone_within([worker, server], 10.0)
        errors = node.stderr.read()
    assert "KeyboardInterrupt" in errors
    assert "fork_server" not in errors


async def test_a_killed_worker_fails_its_job_and_comes_back(tmp_path: Path) -> None:
    slow = install(tmp_path, models.slow_model(tmp_path))
    other = install(tmp_path, models.matmul_model(tmp_path))
    async with open_engine(device="cpu", threads=1) as engine, trio.open_nursery() as nursery:
        pid = (await engine.load(slow.model_id, slow.folder)).pid
        await engine.load(other.model_id, other.folder)
        errors, counts, counted = [], [], trio.Event()

        async def doomed() -> None:
            errors.append(await refusal_of(lambda: run_job(engine, slow, {"turns": np.int64(ENDLESS)})))

        async def queued() -> None:
            counts.append((await run_job(engine, slow, {"turns": np.int64(2)}))["count"])
            counted.set()

        nursery.start_soon(doomed)
        await wait_until_running(engine)
        nursery.start_soon(queued)
        await trio.testing.wait_all_tasks_blocked()
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        assert (await run_job(engine, other, {"x": np.zeros((1, 4), np.float32)}))["y"].shape == (1, 3)
        with trio.fail_after(20):
            await counted.wait()
        assert time.monotonic() - started < 15.0, "a second, and what a machine that has other things to do takes"
        assert [error.code for error in errors] == ["WORKER"]
        assert "killed by signal 9 (SIGKILL)" in errors[0].message
        assert {status.pid for status in engine.models()}.isdisjoint({pid, None})


@pytest.mark.slow  # waits for WORKER_TERMINATE_TIMEOUT_S
async def test_a_run_that_cannot_be_ended_is_ended_with_its_process(tmp_path: Path) -> None:
    kernel = install(tmp_path, models.kernel_model(tmp_path))
    large = {"x": np.ones((5000, 5000))}
    async with open_engine(device="cpu", threads=1) as engine:
        pid = (await engine.load(kernel.model_id, kernel.folder)).pid
        assert pid is not None
        idle_s = cpu_seconds(pid)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: run_job(engine, kernel, large, items_max=5000))
                await wait_until_running(engine)
                while cpu_seconds(pid) < idle_s + 0.3:  # noqa: ASYNC110 - only the kernel's clock tells that it computes
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
        started = time.monotonic()
        outputs = await run_job(engine, kernel, {"x": np.eye(3)})
        assert outputs["sum"] == 3
        assert time.monotonic() - started < 15
        assert engine.models()[0].pid != pid


async def test_jobs_that_shared_a_worker_with_a_deadly_one_are_run_again(tmp_path: Path) -> None:
    model = install(tmp_path, models.embedding_model(tmp_path / "text"))
    jobs = [texts("a"), texts("b c"), texts(*["a b c d " * 50] * 4000)]
    outputs: dict[int, Arrays] = {}
    async with open_engine(device="cpu", threads=1) as engine, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            outputs[number] = await run_job(engine, model, jobs[number], items_max=4000)

        nursery.start_soon(engine.load, model.model_id, model.folder)
        while not engine.models():  # noqa: ASYNC110 - the port has no event for it
            await trio.sleep(0.001)
        for number in range(len(jobs)):
            nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()  # in this order, before the model is loaded
        await wait_until_running(engine, len(jobs))
        pid = engine.models()[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    assert outputs[0]["sentence_embedding"].tolist() == [[2, 1]]
    assert outputs[1]["sentence_embedding"].tolist() == [[7, 2]]
    assert outputs[2]["sentence_embedding"].tolist() == [[56, 16]] * 4000


async def test_a_killed_fork_server_costs_no_job(tmp_path: Path) -> None:
    """Its workers go with it: what they had is run again."""
    model = install(tmp_path, models.slow_model(tmp_path))
    outputs: Arrays = {}
    async with open_engine(device="cpu", threads=1) as engine, trio.open_nursery() as nursery:
        pid = (await engine.load(model.model_id, model.folder)).pid
        assert pid is not None

        async def one() -> None:
            outputs.update(await run_job(engine, model, {"turns": np.int64(200_000)}))

        nursery.start_soon(one)
        await wait_until_running(engine, 1)
        os.kill(parent_of(pid), signal.SIGKILL)
    assert outputs["count"] == 200_000


async def test_a_killed_fork_server_is_replaced(tmp_path: Path) -> None:
    first = install(tmp_path, models.matmul_model(tmp_path))
    second = install(tmp_path, models.centring_model(tmp_path))
    async with open_engine(device="cpu", threads=1) as engine:
        pid = (await engine.load(first.model_id, first.folder)).pid
        assert pid is not None
        os.kill(parent_of(pid), signal.SIGKILL)
        job = {"x": np.zeros((1, 4), np.float32)}
        assert (await run_job(engine, first, job))["y"].shape == (1, 3), "by the worker that goes with it, or the next"
        with trio.fail_after(20):
            while engine.models()[0].pid in (pid, None):  # noqa: ASYNC110 - the port has no event for it
                await trio.sleep(0.001)
        pid = engine.models()[0].pid
        assert pid is not None
        await engine.load(second.model_id, second.folder)
        assert (await run_job(engine, second, {"x": np.zeros((1, 2), np.float32)}))["y"].shape == (1, 2)
        os.kill(pid, signal.SIGKILL)
        with trio.fail_after(20):
            while engine.models()[0].pid in (pid, None):  # noqa: ASYNC110 - the port has no event for it
                await trio.sleep(0.001)
        assert (await run_job(engine, first, job))["y"].shape == (1, 3)
        workers = [status.pid for status in engine.models() if status.pid is not None]
    assert gone_within([pid, *workers], 10.0)


async def test_nothing_is_left_when_an_engine_closes(tmp_path: Path) -> None:
    model = install(tmp_path, models.slow_model(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    async with open_engine(device="cpu", threads=1) as engine:
        worker = (await engine.load(model.model_id, model.folder)).pid
        assert worker is not None
        server = parent_of(worker)
        await run_job(engine, model, {"turns": np.int64(2)})
    assert not is_alive(worker) and not is_alive(server)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_errors_leave_the_engine_as_they_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="providers"):
        async with open_engine(device="quantum"):
            pass
    with pytest.raises(ExecutionError, match="not loaded"):
        async with open_engine(device="cpu") as engine:
            model = install(tmp_path, models.matmul_model(tmp_path))
            await run_job(engine, model, {"x": np.zeros((1, 4), np.float32)})
