"""On what do models run here? Asked of the machine by running a tiny model, as ONNX Runtime's own list says what it was
built with, and a session that asks for CUDA where there is none runs on the CPU and says nothing (measured)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import trio

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.pipe import Tag
from cocoon_p2p.execution.port import Device
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.limits import DEVICE_PROBE_TIMEOUT_S

CPU = "CPUExecutionProvider"
PREFERENCE = (
    ("TensorrtExecutionProvider", "tensorrt:0"),
    ("CUDAExecutionProvider", "cuda:0"),
    ("MIGraphXExecutionProvider", "migraphx:0"),
    ("CoreMLExecutionProvider", "coreml"),
    ("DmlExecutionProvider", "directml:0"),
)
SETTINGS = ("auto", "cpu", "cuda")
_REASON_CHARS_MAX = 120


@dataclass(frozen=True, slots=True)
class ChosenDevice:
    device: Device
    provider: str
    """ONNX Runtime's name of the execution provider."""


def check_setting(setting: str) -> None:
    """Raises ConfigError."""
    if setting not in SETTINGS:
        raise ConfigError(
            f'[execution] providers = "{setting}" is not known', hint=f"it must be one of {', '.join(SETTINGS)}"
        )


async def choose_device(setting: str, processes: WorkerProcesses) -> ChosenDevice:
    """The first execution provider in the order of PREFERENCE that works, each probed in a process of its own. Raises
    ConfigError when the operator insists on one that does not."""
    if setting == "cpu":
        return ChosenDevice(Device("cpu", "the configuration asks for the CPU"), CPU)
    wanted = [entry for entry in PREFERENCE if setting == "auto" or entry[1].startswith(setting)]
    built_in = await _ask(processes, [Tag.PROVIDERS])
    findings: list[str] = []
    for provider, name in wanted:
        if not isinstance(built_in, list) or provider not in built_in:
            continue
        fault = await _ask(processes, [Tag.PROBE, provider])
        if fault == "":
            refused = "".join(f"; {finding}" for finding in findings)
            return ChosenDevice(Device(name, f"a probe ran on {provider}{refused}"), provider)
        findings.append(f"{provider} does not work: {str(fault)[:_REASON_CHARS_MAX]}")
    reason = "; ".join(findings) or "ONNX Runtime was built without any accelerator"
    if setting != "auto":
        raise ConfigError(
            f'[execution] providers = "{setting}", but {reason}', hint='set it to "auto", or install the extra `cuda`'
        )
    return ChosenDevice(Device("cpu", reason), CPU)


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
