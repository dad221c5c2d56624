"""On what do models run here? Asked of the machine by running a tiny model, as ONNX Runtime's own list says what it was
built with, and a session that asks for CUDA where there is none runs on the CPU and says nothing (measured)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.pipe import Tag
from cocoon_p2p.execution.port import Device
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.limits import DEVICE_PROBE_TIMEOUT_S, DEVICES_MAX

CPU = "CPUExecutionProvider"
PREFERENCE = (
    ("TensorrtExecutionProvider", "tensorrt:0"),
    ("CUDAExecutionProvider", "cuda:0"),
    ("MIGraphXExecutionProvider", "migraphx:0"),
    ("CoreMLExecutionProvider", "coreml"),
    ("DmlExecutionProvider", "directml:0"),
)
"""Execution providers, and what their first device is called; those that count their devices may have more."""
SETTINGS = ("auto", "cpu", "cuda")
_REASON_CHARS_MAX = 120


@dataclass(frozen=True, slots=True)
class ChosenDevice:
    device: Device
    provider: str
    """ONNX Runtime's name of the execution provider."""
    number: int = 0
    """Of the device, as the provider counts."""


def check_setting(setting: str) -> None:
    """Raises ConfigError."""
    if setting not in SETTINGS:
        raise ConfigError(
            f'[execution] providers = "{setting}" is not known', hint=f"it must be one of {', '.join(SETTINGS)}"
        )


async def choose_devices(setting: str, processes: WorkerProcesses) -> tuple[ChosenDevice, ...]:
    """All devices of the first execution provider in the order of PREFERENCE that works, each device probed in a process of
    its own; at least one. Raises ConfigError when the operator insists on one that does not."""
    if setting == "cpu":
        return (ChosenDevice(Device("cpu", "the configuration asks for the CPU"), CPU),)
    wanted = [entry for entry in PREFERENCE if setting == "auto" or entry[1].startswith(setting)]
    built_in = await _ask(processes, [Tag.PROVIDERS])
    findings: list[str] = []
    for provider, name in wanted:
        if not isinstance(built_in, list) or provider not in built_in:
            continue
        fault = await probe_device(processes, provider, 0)
        if fault == "":
            refused = "".join(f"; {finding}" for finding in findings)
            first = ChosenDevice(Device(name, f"a probe ran on {provider}{refused}"), provider)
            return (first, *await _further(first, processes))
        findings.append(f"{provider} does not work: {str(fault)[:_REASON_CHARS_MAX]}")
    reason = "; ".join(findings) or "ONNX Runtime was built without any accelerator"
    if setting != "auto":
        raise ConfigError(
            f'[execution] providers = "{setting}", but {reason}', hint='set it to "auto", or install the extra `cuda`'
        )
    return (ChosenDevice(Device("cpu", reason), CPU),)


async def _further(first: ChosenDevice, processes: WorkerProcesses) -> Sequence[ChosenDevice]:
    """The other devices of a provider whose first one works: those up to the first that does not."""
    kind, colon, _ = first.device.name.partition(":")
    if not colon:
        return ()
    faults: dict[int, Any] = {}

    async def probe(number: int) -> None:
        faults[number] = await probe_device(processes, first.provider, number)

    async with trio.open_nursery() as nursery:
        for number in range(1, _devices_at_most()):
            nursery.start_soon(probe, number)
    found: list[ChosenDevice] = []
    while faults.get(len(found) + 1) == "":
        device = Device(f"{kind}:{len(found) + 1}", first.device.reason)
        found.append(ChosenDevice(device, first.provider, len(found) + 1))
    return found


def _devices_at_most(folder: Path = Path("/dev")) -> int:
    """How many GPUs it is worth to probe: as many as have files in /dev; where there are no such files, one."""
    counted = sum(path.name.removeprefix("nvidia").isdigit() for path in folder.glob("nvidia*"))
    counted = counted or len(list(folder.glob("dri/renderD*")))
    return min(max(counted, 1), DEVICES_MAX)


async def probe_device(processes: WorkerProcesses, provider: str, number: int) -> Any:
    """Whether a tiny model ran on it: "" when it did, else why not. Tried free first, since a driver may have to make its device files; then in the
    jail, as models are run."""
    fault = await _ask(processes, [Tag.PROBE, provider, number, False])
    if fault == "" and (fault := await _ask(processes, [Tag.PROBE, provider, number, True])):
        return f"not in the jail of model processes: {fault}"
    return fault


async def _ask(processes: WorkerProcesses, message: list[Any]) -> Any:
    """A question to a fresh process, whose death is an answer too."""
    async with processes.worker() as worker:
        worker.jobs.send(message)
        with trio.move_on_after(DEVICE_PROBE_TIMEOUT_S) as scope:
            try:
                answers = await worker.jobs.receive()
            except ValueError as error:
                raise ExecutionError(f"a worker process sent what is no message: {error}", code="WORKER") from error
            if answers and answers[0][0] == Tag.ANSWER:
                return answers[0][1]
        if scope.cancelled_caught:
            return f"no answer within {DEVICE_PROBE_TIMEOUT_S:.0f} s"
        return f"the process that tried it {await worker.why_ended()}"
