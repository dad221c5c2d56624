"""What models run on: what was seen to work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.execution import device
from cocoon_p2p.execution.device import CPU, PREFERENCE, check_setting, choose_devices, probe_device
from cocoon_p2p.execution.jail import support
from cocoon_p2p.execution.pipe import Tag
from cocoon_p2p.execution.worker import PROBE_MODEL
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.limits import DEVICES_MAX
from cocoon_p2p.testing.models import probe_model

HAS_GPU = Path("/dev/nvidia0").exists()


@asynccontextmanager
async def open_processes() -> AsyncIterator[WorkerProcesses]:
    async with trio.open_nursery() as nursery:
        processes = WorkerProcesses(nursery)
        try:
            yield processes
        finally:
            await processes.close()
            nursery.cancel_scope.cancel()


def words_of(pid: int) -> str:
    """What the kernel says of a process."""
    return Path(f"/proc/{pid}/status").read_text()


def test_the_probe_is_the_model_that_it_says() -> None:
    assert probe_model() == PROBE_MODEL


def test_settings() -> None:
    for setting in ("auto", "cpu", "cuda"):
        check_setting(setting)
    with pytest.raises(ConfigError, match='providers = "gpu"') as caught:
        check_setting("gpu")
    assert caught.value.hint == "it must be one of auto, cpu, cuda"


async def test_the_cpu_is_not_probed() -> None:
    async with open_processes() as processes:
        (chosen, *_) = await choose_devices("cpu", processes)
    assert (chosen.device.name, chosen.provider) == ("cpu", CPU)


async def test_what_was_announced_did_run() -> None:
    async with open_processes() as processes:
        (chosen, *_) = await choose_devices("auto", processes)
    assert chosen.device.reason
    if not HAS_GPU:
        assert chosen.provider in (CPU, "CoreMLExecutionProvider")
        assert "CUDAExecutionProvider does not work" in chosen.device.reason or "without any" in chosen.device.reason
    else:
        assert chosen.provider in dict(PREFERENCE)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")
async def test_a_device_is_probed_in_the_jail_too() -> None:
    """What a probe says of a CPU, which is no accelerator, is the same; and the process that says so is shut in."""
    answers, words = [], []
    async with open_processes() as processes:
        for jailed in (False, True):
            async with processes.worker() as worker:
                worker.jobs.send([Tag.PROBE, CPU, 0, jailed])
                answers.append(await worker.jobs.receive())
                words.append(words_of(worker.pid))
        assert await probe_device(processes, "NoSuchExecutionProvider", 0)
    assert answers[0] == answers[1]
    if support().complete:
        assert ["Seccomp:\t2" in text for text in words] == [False, True]
        assert ["NoNewPrivs:\t1" in text for text in words] == [False, True]


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
async def test_insisting_on_what_is_not_there() -> None:
    error = None
    async with open_processes() as processes:
        try:
            await choose_devices("cuda", processes)
        except ConfigError as caught:
            error = caught
    assert error is not None
    assert error.message.startswith('[execution] providers = "cuda", but ')
    assert "\n" not in error.message
    assert error.hint


async def test_every_gpu_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine with four GPUs, of which the third is broken, would answer."""
    asked = []

    async def answer(processes: WorkerProcesses, message: list[Any]) -> Any:
        asked.append(message)
        match message:
            case [Tag.PROVIDERS]:
                return ["TensorrtExecutionProvider", "CUDAExecutionProvider", CPU]
            case [Tag.PROBE, "CUDAExecutionProvider", number, _]:
                return "an error" if number == 2 else ""
        return "not installed"

    monkeypatch.setattr(device, "_ask", answer)
    monkeypatch.setattr(device, "_devices_at_most", lambda: 4)
    async with open_processes() as processes:
        found = await choose_devices("auto", processes)
    assert [(each.device.name, each.number) for each in found] == [("cuda:0", 0), ("cuda:1", 1)]
    assert {each.provider for each in found} == {"CUDAExecutionProvider"}
    assert "TensorrtExecutionProvider does not work" in found[1].device.reason
    assert [Tag.PROBE, "CUDAExecutionProvider", 3, True] in asked


def test_devices_are_counted_by_their_files(tmp_path: Path) -> None:
    assert device._devices_at_most(tmp_path) == 1
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert device._devices_at_most(tmp_path) == 2
    for number in range(2, 40):
        (tmp_path / f"nvidia{number}").touch()
    assert device._devices_at_most(tmp_path) == DEVICES_MAX
