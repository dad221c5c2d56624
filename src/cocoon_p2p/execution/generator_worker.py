"""One worker process of a generation model, as the node sees it: loaded, given answers to make, watched, started again."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.memory import private_bytes
from cocoon_p2p.execution.pipe import Message, Tag
from cocoon_p2p.execution.replica import copy_of, unloaded
from cocoon_p2p.execution.worker_link import ModelSettings, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcess, WorkerProcesses
from cocoon_p2p.generation import Piece, parse_piece
from cocoon_p2p.limits import (
    DETAIL_CHARS_MAX,
    MIB,
    WORKER_RESTART_DELAY_MAX_S,
    WORKER_RESTART_DELAY_S,
    WORKER_START_BYTES_S,
    WORKER_START_TIMEOUT_S,
    WORKER_TERMINATE_TIMEOUT_S,
    WORKER_WATCH_S,
)
from cocoon_p2p.models.manifest import Manifest

_CODES = {"INPUT", "ITEMS", "MODEL", "LIMITS", "CANCELLED"}
_KEPT_MICROSECONDS_MAX = 10**15


class Streams(Protocol):
    """Where the worker has its answers from (`ServedGenerator`)."""

    def loaded(self, worker: GeneratorWorker) -> None:
        """It can be given answers to make."""

    def settled(self, stream: GeneratorStream, items: int, execute_s: float) -> None:
        """An answer has ended as it should."""

    def at_rest(self) -> None:
        """A worker has become idle, or is gone."""

    def could_not_return(self, error: ExecutionError) -> None:
        """A worker that died could not be started again; that is tried later."""


class GeneratorWorker:
    """Implements `ModelWorker` and `generator_stream.Maker`. `run` is its task; what it makes now stands in `handed`."""

    def __init__(
        self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings, streams: Streams
    ) -> None:
        self.device = device
        self.handed: dict[int, GeneratorStream] = {}
        self.first_load = trio.Event()
        self.load_error: ExecutionError | None = None
        self._folder = folder
        self._manifest = manifest
        self._settings = settings
        self._streams = streams
        self._link: WorkerLink | None = None
        self._nursery: trio.Nursery | None = None
        self._deaths = 0
        self._verdict: ExecutionError | None = None
        """Why the node ended the process."""
        self._work_came = trio.Event()
        self._progress_at = 0.0
        """When it was last given something to do, or said anything."""

    @property
    def pid(self) -> int | None:
        """None while it has no model."""
        return self._link.process.pid if self._link is not None else None

    @property
    def busy(self) -> bool:
        return bool(self.handed)

    async def run(self, processes: WorkerProcesses) -> None:
        """Keeps a worker alive until cancelled, or until the first load fails (then `load_error` is set)."""
        try:
            while True:
                await self._live_once(processes)
                if not self.first_load.is_set():
                    return
                delay = WORKER_RESTART_DELAY_S * 2 ** min(self._deaths, 20)
                self._deaths += 1
                await trio.sleep(min(delay, WORKER_RESTART_DELAY_MAX_S))
        finally:
            self._fail_handed(unloaded())
            self.first_load.set()
            self._streams.at_rest()

    def hand(self, stream: GeneratorStream) -> None:
        """Begin an answer; there is a worker (`pid`)."""
        assert self._link is not None
        stream.hand_to(self)
        self.handed[stream.number] = stream
        self._touch()
        message = [Tag.BEGIN, stream.number, stream.request, stream.client, stream.items_max, stream.allowed]
        self._link.process.jobs.send(message)
        stream.request = ""

    def allow(self, stream: GeneratorStream, items: int) -> None:
        if self._link is not None:
            self._touch()
            self._link.process.jobs.send([Tag.ALLOW, stream.number, items])

    def stop(self, stream: GeneratorStream) -> None:
        if self._link is None:
            return
        self._touch()
        self._link.process.jobs.send([Tag.STOP, stream.number])
        if stream.items == 0:  # perhaps in the midst of a long prompt, whose run this ends
            self._link.process.control.send([Tag.CANCEL, stream.number])

    def abandon(self, stream: GeneratorStream) -> None:
        if self._link is not None and self._nursery is not None:  # else the worker has just died
            self._link.process.control.send([Tag.CANCEL, stream.number])
            self._link.process.jobs.send([Tag.CANCEL, stream.number])  # the control socket only ends a run
            self._nursery.start_soon(self._end_for_sure, stream, self._link)

    def forget_block(self, block: Block) -> None:
        """Requests are copied: no worker of this kind knows a block."""

    async def _live_once(self, processes: WorkerProcesses) -> None:
        """One worker process, from its start to its end."""
        try:
            async with processes.worker() as process:
                await self._load(process)
                await self._serve(processes)
        except ExecutionError as error:
            self.load_error = error
            if self.first_load.is_set():
                self._streams.could_not_return(error)

    async def _load(self, process: WorkerProcess) -> None:
        """Raises ExecutionError."""
        link = WorkerLink(process)
        patience_s = WORKER_START_TIMEOUT_S + self._manifest.size / WORKER_START_BYTES_S
        with trio.move_on_after(patience_s) as scope:
            await link.load(self._folder, self._manifest, self.device, self._settings)
        if scope.cancelled_caught:
            raise ExecutionError(f"the model did not load within {patience_s:.0f} s", code="MODEL")
        self._link = link
        self.load_error = self._verdict = None
        self.first_load.set()

    async def _serve(self, processes: WorkerProcesses) -> None:
        link = self._link
        assert link is not None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(link.read_control, self.handed)
                nursery.start_soon(self._kill_when_asked, processes, link)
                nursery.start_soon(self._watch, link)
                self._streams.loaded(self)
                await self._read(link)
                nursery.cancel_scope.cancel()
        finally:
            self._link = self._nursery = None
            link.close()
        self._died(self._verdict or _death(await link.why_ended()))

    # --- what the worker says -----------------------------------------------------------------------------------------

    async def _read(self, link: WorkerLink) -> None:
        """Until the worker has ended, or has sent nonsense."""
        try:
            while messages := await link.process.jobs.receive():
                self._touch()
                for message in messages:
                    self._take(message)
                if not self.handed:
                    self._streams.at_rest()
        except (ValueError, TypeError, LookupError, ExecutionError) as error:
            link.fault = f"sent what is no part of an answer ({type(error).__name__})"

    def _take(self, message: Message) -> None:
        """Raises ValueError, LookupError or ExecutionError for what a worker does not say."""
        match message:
            case [Tag.PRODUCED, list(entries)]:
                for entry in entries:
                    self._take_entry(entry)
            case [Tag.BEGUN, int(number), int(prompt_items)]:
                self.handed[number].begin(prompt_items)
            case [Tag.FAILED, int(number), str(code), str(text)] if code in _CODES:
                self._fail(number, code, text)
            case _:
                raise ValueError("no message of a worker that generates")

    def _take_entry(self, entry: object) -> None:
        match entry:
            case [int(number), bytes(data), int(items), int(execute_us), int(waited_us)]:
                if not (0 <= execute_us < _KEPT_MICROSECONDS_MAX and 0 <= waited_us < _KEPT_MICROSECONDS_MAX):
                    raise ValueError("not a duration")
                self._put(self.handed[number], parse_piece(data), data, items, (execute_us / 1e6, waited_us / 1e6))
            case [int(number), str(code), str(text)] if code in _CODES:
                self._fail(number, code, text)
            case _:
                raise ValueError("no part of an answer")

    def _put(
        self, stream: GeneratorStream, piece: Piece, data: bytes, items: int, seconds: tuple[float, float]
    ) -> None:
        execute_s, waited_s = seconds
        stream.put(piece, data, items, execute_s, stream.handed_s + waited_s)
        if piece.finish is not None:
            del self.handed[stream.number]
            self._deaths = 0
            self._streams.settled(stream, items, execute_s)

    def _fail(self, number: int, code: str, text: str) -> None:
        self.handed.pop(number).fail(ExecutionError(text[:DETAIL_CHARS_MAX], code=code))

    # --- answers that have to end -------------------------------------------------------------------------------------

    def _touch(self) -> None:
        self._progress_at = trio.current_time()
        self._work_came.set()

    async def _watch(self, link: WorkerLink) -> None:
        """Sees to it that the worker makes its steps, and stays within its memory."""
        at_rest = private_bytes(link.process.pid)
        while True:
            await self._work_came.wait()
            self._work_came = trio.Event()
            while self.handed:
                await trio.sleep(WORKER_WATCH_S)
                now = private_bytes(link.process.pid)
                grown = 0 if now is None or at_rest is None else now - at_rest
                self._judge(link, grown)

    def _judge(self, link: WorkerLink, grown: int) -> None:
        memory, seconds = self._settings.job_memory_bytes, self._settings.job_seconds
        if memory is not None and grown > memory:
            text = f"the answers took {grown // MIB} MiB of memory; at most {memory // MIB} are given to them"
            self._verdict = ExecutionError(text, code="LIMITS", retryable=True)
        elif trio.current_time() - self._progress_at > seconds and self._has_work:
            text = f"the model made no step within the {seconds:g} s that are given to one"
            self._verdict = ExecutionError(text, code="WORKER", retryable=True)
        else:
            return
        link.kill_asked.set()

    @property
    def _has_work(self) -> bool:
        return any(stream.awaits_work for stream in self.handed.values())

    async def _end_for_sure(self, stream: GeneratorStream, link: WorkerLink) -> None:
        """A run that does not heed being told to end is ended with its process, if it is for nobody else."""
        with trio.move_on_after(WORKER_TERMINATE_TIMEOUT_S):
            await stream.ended.wait()
            return
        if stream.ending or all(other.abandoned for other in self.handed.values()):
            link.kill_asked.set()

    async def _kill_when_asked(self, processes: WorkerProcesses, link: WorkerLink) -> None:
        await link.kill_asked.wait()
        processes.kill(link.process)
        link.process.control.close()  # ends it too, were the fork server gone

    def _died(self, error: ExecutionError) -> None:
        self._fail_handed(error)
        self._streams.at_rest()

    def _fail_handed(self, error: ExecutionError) -> None:
        for stream in self.handed.values():
            stream.fail(copy_of(error))
        self.handed.clear()


def _death(reason: str) -> ExecutionError:
    return ExecutionError(
        f"the process that made the answer {reason}",
        code="WORKER",
        retryable=True,
        hint="the model is loaded again; another provider can go on with the tokens so far",
    )
