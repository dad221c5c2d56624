"""A worker process of a generation model: it makes several answers at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import trio

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.answer_wait import StepPace
from cocoon_p2p.execution.blocks import Block
from cocoon_p2p.execution.device import ChosenDevice
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.kept_worker import KeptWorker, Told
from cocoon_p2p.execution.pipe import Message, Tag
from cocoon_p2p.execution.worker_link import ModelSettings, WorkerLink
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.generation import Piece, parse_piece
from cocoon_p2p.limits import DETAIL_CHARS_MAX, MIB
from cocoon_p2p.models.manifest import Manifest

_CODES = {"INPUT", "ITEMS", "MODEL", "LIMITS", "CANCELLED"}
_KEPT_MICROSECONDS_MAX = 10**15


class Streams(Told, Protocol):
    """Where the worker has its answers from (`ServedGenerator`)."""

    def loaded(self, worker: GeneratorWorker) -> None:
        """It can be given answers to make."""

    def settled(self, stream: GeneratorStream, items: int, execute_s: float) -> None:
        """An answer has ended as it should."""


class GeneratorWorker(KeptWorker[GeneratorStream]):
    """Implements `ModelWorker` and `generator_stream.Maker`."""

    def __init__(
        self, folder: Path, manifest: Manifest, device: ChosenDevice, settings: ModelSettings, streams: Streams
    ) -> None:
        super().__init__(folder, manifest, device, settings, streams)
        self._streams = streams
        self._verdict: ExecutionError | None = None
        """Why the node ended the process."""
        self.pace = StepPace()
        self._made = 0
        """Steps from which an answer got something."""

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

    def _loaded(self, *, batches: bool) -> None:
        self._verdict = None
        self.pace.rest()

    async def _serve(self, link: WorkerLink, processes: WorkerProcesses) -> None:
        await super()._serve(link, processes)
        self._fail_handed(self._verdict or _death(await link.why_ended()))
        self._streams.at_rest()

    # --- what the worker says -----------------------------------------------------------------------------------------

    async def _work(self, link: WorkerLink) -> None:
        """Until the worker has ended, or has sent nonsense."""
        self._streams.loaded(self)
        try:
            while messages := await link.process.jobs.receive():
                self._touch()
                self._take_all(messages)
                if not self.handed:
                    self._streams.at_rest()
        except (ValueError, TypeError, LookupError, ExecutionError) as error:
            link.fault = f"sent what is no part of an answer ({type(error).__name__})"

    def _take_all(self, messages: Sequence[Message]) -> None:
        before = self._made
        for message in messages:
            self._take(message)
        self.pace.note(self._made - before, trio.current_time())
        if not self._has_work:
            self.pace.rest()

    def _take(self, message: Message) -> None:
        """Raises ValueError, LookupError or ExecutionError for what a worker does not say."""
        match message:
            case [Tag.PRODUCED, list(entries)]:
                for entry in entries:
                    self._take_entry(entry)
                self._made += bool(entries)
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


def _death(reason: str) -> ExecutionError:
    return ExecutionError(
        f"the process that made the answer {reason}",
        code="WORKER",
        retryable=True,
        hint="the model is loaded again; another provider can go on with the tokens so far",
    )
