"""What the node and a worker process say to each other about a model and its jobs; the node's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.engine_jobs import EngineJob, EngineResult
from cocoon_p2p.execution.memory import expected_bytes
from cocoon_p2p.execution.pipe import Message, Tag
from cocoon_p2p.execution.worker_processes import WorkerProcess
from cocoon_p2p.limits import DETAIL_CHARS_MAX, ENGINE_IDLE_BLOCK_BYTES_MAX, JOB_RUN_SECONDS_DEFAULT
from cocoon_p2p.models.manifest import Manifest

Outcome = tuple[EngineResult, float] | ExecutionError
"""A result and the seconds of work that went into it; or what went wrong."""
_LAST_WORDS_TIMEOUT_S = 0.5
_CODES = {"INPUT", "MODEL", "LIMITS", "CANCELLED", "WORKER"}


class Ending(Protocol):
    """A job, or an answer under way."""

    ending: bool
    """The worker was told to end its run, and said that it is in it."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    threads: int
    """0: all processors."""
    batch_items_max: int
    output_bytes_max: int
    queue_max: int
    job_seconds: float = JOB_RUN_SECONDS_DEFAULT
    """How long one run, or the time between two answers of a set, may take."""
    job_memory_bytes: int | None = None
    """By how much jobs may make their worker grow; None: no bound."""


class WorkerLink:
    """A worker is not trusted: what it sends is checked, and nonsense ends it (`fault` says why)."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.kill_asked = trio.Event()
        self.fault = ""
        self._outputs: dict[int, Block] = {}

    async def load(self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings) -> bool:
        """Whether the model's jobs may be put together. Raises ExecutionError."""
        bounds = [settings.threads, settings.batch_items_max, settings.output_bytes_max]
        memory = None
        if settings.job_memory_bytes is not None:
            # While it loads, a model stands in memory twice.
            memory = 2 * expected_bytes(manifest.size) + settings.job_memory_bytes
        where = [device.provider, device.number]
        self.process.jobs.send([Tag.LOAD, str(folder), manifest.encode(), *where, *bounds, memory])
        match await self._messages():
            case [[Tag.LOADED, bool(batches)]]:
                return batches
            case [[Tag.NOT_LOADED, str(code), str(text)]]:
                raise ExecutionError(text[:DETAIL_CHARS_MAX], code=code if code in _CODES else "MODEL")
            case []:
                reason = await self.why_ended()
                raise ExecutionError(
                    f"the process that was to load the model {reason}",
                    code="WORKER",
                    hint="is there enough memory for the model?" if self.process.exit_code == -9 else None,
                )
        raise ExecutionError("the process that was to load the model sent what is no answer", code="WORKER")

    def run(self, jobs: Sequence[EngineJob]) -> None:
        """Hand over a set of jobs."""
        entries, new_blocks = [], []
        for job in jobs:
            block = job.buffer.block
            if block is None:
                place: object = job.buffer.inline
            else:
                place = [block.number, job.buffer.size]
                if self.process.number not in block.known_to:
                    block.known_to.add(self.process.number)
                    new_blocks.append(block)
            entries.append([job.number, job.as_text, job.outputs, place])
        message = [Tag.RUN, entries, [[block.number, block.size] for block in new_blocks]]
        self.process.jobs.send(message, [block.descriptor for block in new_blocks])

    def cancel(self, job: EngineJob) -> None:
        self.process.control.send([Tag.CANCEL, job.number])

    def forget(self, block: Block) -> None:
        if self.process.number in block.known_to:
            self.process.jobs.send([Tag.FORGET, block.number])

    async def receive(self, handed: Mapping[int, EngineJob]) -> list[tuple[EngineJob, Outcome]]:
        """Jobs that have ended; none at the worker's end, and when it sent nonsense."""
        try:
            return [self._outcome(message, handed) for message in await self._messages()]
        except (ValueError, TypeError, LookupError, OSError) as error:
            self.fault = f"sent what is no answer to a job ({type(error).__name__})"
            return []

    async def read_control(self, handed: Mapping[int, Ending]) -> None:
        while messages := await self._messages(control=True):
            for message in messages:
                match message:
                    case [Tag.ENDING, list(numbers)]:
                        for job in (handed[number] for number in numbers if number in handed):
                            job.ending = True
                    case [Tag.DYING, str(text)]:
                        self.process.last_words = text[:DETAIL_CHARS_MAX]

    async def why_ended(self) -> str:
        """To be asked when `read_control` runs no more."""
        with trio.move_on_after(_LAST_WORDS_TIMEOUT_S):
            await self.read_control({})
        return self.fault or await self.process.why_ended()

    def close(self) -> None:
        """The worker is gone: so are its blocks, but for results that are being read."""
        for block in self._outputs.values():
            block.close()
        self._outputs.clear()

    async def _messages(self, *, control: bool = False) -> list[Message]:
        pipe = self.process.control if control else self.process.jobs
        try:
            return await pipe.receive()
        except (ValueError, TypeError, LookupError) as error:
            self.fault = f"sent what is no message ({type(error).__name__})"
            return []

    def _outcome(self, message: Message, handed: Mapping[int, EngineJob]) -> tuple[EngineJob, Outcome]:
        match message:
            case [Tag.DONE, int(number), int(waited), int(executed), int(worked), place, int(new_size)]:
                job = handed[number]
                job.buffer.wiped = True
                payload, give_back = self._output(place, new_size)
                queue_s = job.handed_at - job.queued_at + waited / 1e6
                result = EngineResult(payload, job.items, queue_s, executed / 1e6, give_back)
                return job, (result, worked / 1e6)
            case [Tag.FAILED, int(number), str(code), str(text)] if code in _CODES:
                job = handed[number]
                job.buffer.wiped = True
                return job, ExecutionError(text[:DETAIL_CHARS_MAX], code=code)
        raise ValueError("not an answer to a job")

    def _output(self, place: object, new_size: int) -> tuple[memoryview, partial[None] | None]:
        if isinstance(place, bytes):
            return memoryview(bytearray(place)), None
        match place:
            case [int(number), int(size)]:
                if new_size:
                    descriptor = self.process.jobs.descriptors.popleft()
                    self._outputs[number] = Block.attach(number, new_size, descriptor)
                block = self._outputs[number]
                if not 0 <= size <= block.size:
                    raise ValueError("an output is larger than its block")
                return block.view(size), partial(self._give_back, block, size)
        raise ValueError("not a place of an output")

    def _give_back(self, block: Block, size: int) -> None:
        if self._outputs.get(block.number) is not block:
            return  # the worker is gone, and the block closed
        keep = sum(other.size for other in self._outputs.values()) <= ENGINE_IDLE_BLOCK_BYTES_MAX
        if not keep:
            del self._outputs[block.number]
            block.close()
        self.process.jobs.send([Tag.RELEASE, block.number, size, keep])
