"""What models run on: what was seen to work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.execution.device import CPU, PREFERENCE, check_setting, choose_device
from cocoon_p2p.execution.worker import PROBE_MODEL
from cocoon_p2p.execution.worker_processes import WorkerProcesses
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
        chosen = await choose_device("cpu", processes)
    assert (chosen.device.name, chosen.provider) == ("cpu", CPU)


async def test_what_was_announced_did_run() -> None:
    async with open_processes() as processes:
        chosen = await choose_device("auto", processes)
    assert chosen.device.reason
    if not HAS_GPU:
        assert chosen.provider in (CPU, "CoreMLExecutionProvider")
        assert "CUDAExecutionProvider does not work" in chosen.device.reason or "without any" in chosen.device.reason
    else:
        assert chosen.provider in dict(PREFERENCE)


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
async def test_insisting_on_what_is_not_there() -> None:
    error = None
    async with open_processes() as processes:
        try:
            await choose_device("cuda", processes)
        except ConfigError as caught:
            error = caught
    assert error is not None
    assert error.message.startswith('[execution] providers = "cuda", but ')
    assert "\n" not in error.message
    assert error.hint
