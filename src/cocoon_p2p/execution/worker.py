"""What runs in a worker process: one model, one thread that works on jobs, one that watches the node.

The model may be hostile, the jobs are strangers'. Nothing of a job outlives its answer: shared memory is wiped.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.blocks import Block, BlockPool
from cocoon_p2p.execution.cancellation import Cancellation
from cocoon_p2p.execution.generation.worker_loop import GenerationLoop
from cocoon_p2p.execution.jail import enter_jail, jail_for
from cocoon_p2p.execution.pipe import BlockingPipe, Message, Tag
from cocoon_p2p.execution.runner import Job, Runner
from cocoon_p2p.execution.session import (
    RUN_ERRORS,
    OnnxModel,
    available_providers,
    first_line,
    is_out_of_memory,
    probe,
    run_options,
)
from cocoon_p2p.execution.text import TextReader
from cocoon_p2p.limits import WORKER_INLINE_BYTES_MAX
from cocoon_p2p.models.guard import ModelRefused, guard_model
from cocoon_p2p.models.layout import ModelDamaged, verify_files
from cocoon_p2p.models.manifest import parse_manifest
from cocoon_p2p.tensors import Payload, PayloadError, decode_payload, payload_bytes, write_payload

PROBE_MODEL = bytes.fromhex(
    "08083a440a110a01780a017812017922064d61744d756c120570726f62655a130a0178120e0a0c080112080a0208040a02"
    "080462130a0179120e0a0c080112080a0208040a02080442040a00100d"
)
"""y = x @ x, float32[4,4], opset 13: as `testing.models.probe_model` makes it."""


def main(jobs: socket.socket, control: socket.socket) -> None:
    """Returns when the node has closed its end of `jobs`."""
    cancellation = Cancellation(control, run_options)
    sys.excepthook = _last_words(cancellation)
    _offer_to_out_of_memory_killer()
    Worker(BlockingPipe(jobs), cancellation).serve()


class Worker:
    def __init__(self, pipe: BlockingPipe, cancellation: Cancellation) -> None:
        self._pipe = pipe
        self._cancellation = cancellation
        self._runner: Runner | None = None
        self._generation: GenerationLoop | None = None
        """Of a model that generates: all that comes from then on is for it."""
        self._inputs: dict[int, Block] = {}
        self._outputs: dict[int, Block] = {}
        self._pool = BlockPool()
        self._output_bytes_max = 0

    def serve(self) -> None:
        while message := self._pipe.receive():
            self._handle(message)
            if self._generation is not None:
                self._generation.serve()
                return

    def _handle(self, message: Message) -> None:
        match message:
            case [Tag.RUN, jobs, blocks]:
                self._attach(blocks)
                self._run(jobs)
            case [Tag.RELEASE, number, size, keep]:
                self._release(self._outputs.pop(number), size, keep=keep)
            case [Tag.FORGET, number]:
                self._inputs.pop(number).close()
            case [Tag.LOAD, folder, manifest, provider, device, threads, batch_items_max, output_bytes_max, memory]:
                self._output_bytes_max = output_bytes_max
                self._begin(Path(folder), provider, memory)
                self._load(Path(folder), manifest, (provider, device), threads, batch_items_max)
            case [Tag.PROVIDERS]:
                self._cancellation.start()
                self._pipe.send([Tag.ANSWER, available_providers()])
            case [Tag.PROBE, provider, device, jailed]:
                if jailed:
                    enter_jail([], memory_bytes=None, device=jail_for(provider))
                self._cancellation.start()
                self._pipe.send([Tag.ANSWER, probe(provider, PROBE_MODEL, device)])
            case _:
                raise ValueError(f"message {message[0]} is not known here")

    def _begin(self, folder: Path, provider: str, memory_bytes: int | None) -> None:
        """Before the first byte of a model is read. `memory_bytes`: what model and jobs may take, None for no bound."""
        try:
            enter_jail([folder], memory_bytes=memory_bytes, device=jail_for(provider))
        except ExecutionError as error:
            self._pipe.send([Tag.NOT_LOADED, error.code, error.message])
            raise SystemExit(1) from error
        self._cancellation.start()  # a second thread, so last

    def _load(
        self, folder: Path, manifest_bytes: bytes, where: tuple[str, int], threads: int, batch_items_max: int
    ) -> None:
        """`where`: execution provider, and number of its device."""
        manifest = parse_manifest(manifest_bytes)
        provider, device = where
        try:
            verify_files(folder, manifest)
            guard_model(manifest, folder)
            threads = threads or _processors()
            model = OnnxModel(folder, manifest, provider=provider, device=device, threads=threads)
            if manifest.generation is not None:
                bounds = {"rows_max": batch_items_max, "kv_bytes_max": self._output_bytes_max}
                self._generation = GenerationLoop(self._pipe, self._cancellation, folder, model, **bounds)
                self._pipe.send([Tag.LOADED, True])
                return
            reader = None if manifest.text is None else TextReader(folder, manifest)
            self._runner = Runner(model, reader, self._cancellation, batch_items_max)
        except (ModelDamaged, ModelRefused) as error:
            self._pipe.send([Tag.NOT_LOADED, "MODEL", error.message])
            return
        except RUN_ERRORS as error:
            text = first_line(error).replace(f"{folder}/", "")
            code = "LIMITS" if is_out_of_memory(error) else "MODEL"
            self._pipe.send([Tag.NOT_LOADED, code, f"ONNX Runtime cannot load it: {text}"])
            return
        self._pipe.send([Tag.LOADED, self._runner.batches])

    def _attach(self, blocks: list[tuple[int, int]]) -> None:
        for number, size in blocks:
            self._inputs[number] = Block.attach(number, size, self._pipe.descriptors.popleft())

    def _run(self, entries: list[Any]) -> None:
        assert self._runner is not None
        jobs, places = [], {}
        for number, as_text, outputs, place in entries:
            places[number] = place
            view = memoryview(place) if isinstance(place, bytes) else self._inputs[place[0]].view(place[1])
            job = Job(number, (), as_text=as_text, outputs=tuple(outputs))
            try:
                job.tensors = decode_payload(view).tensors
            except PayloadError:  # it was checked before: a worker that was ended has wiped it already
                job.fail("WORKER", "the input was lost when its worker was ended")
            jobs.append(job)
        for job in self._runner.run([job for job in jobs if job.error is None]):
            self._answer(job, places.pop(job.number))
        for job in [job for job in jobs if job.number in places]:
            self._answer(job, places.pop(job.number))

    def _answer(self, job: Job, place: bytes | list[int]) -> None:
        """Sends a finished job's output or error, and wipes its input."""
        answer, descriptors = self._answer_to(job)
        job.drop()
        if isinstance(place, list):
            self._inputs[place[0]].wipe(place[1])
        self._cancellation.forget(job.number)
        self._pipe.send(answer, descriptors)

    def _answer_to(self, job: Job) -> tuple[list[Any], list[int]]:
        error = job.error
        if error is None:
            try:
                return self._write_output(job)
            except ExecutionError as refusal:
                error = refusal
        return [Tag.FAILED, job.number, error.code, error.message], []

    def _write_output(self, job: Job) -> tuple[list[Any], list[int]]:
        """Raises ExecutionError(code="LIMITS") for an output that is too large."""
        try:
            payload = Payload(tuple(job.output_tensors()), cut=job.cut)  # SPEC job/1 §4.3
            size = payload_bytes(payload)
            if size > self._output_bytes_max:
                raise _too_large(f"the output has {size} bytes; at most {self._output_bytes_max} are sent")
            times = [Tag.DONE, job.number, job.waited_us, job.execute_us, job.work_us]
            if size <= WORKER_INLINE_BYTES_MAX:
                buffer = bytearray(size)
                write_payload(payload, memoryview(buffer))
                return [*times, bytes(buffer), 0], []
            block = self._pool.take(size)
            new = block.number not in self._outputs and not block.known_to
            block.known_to.add(os.getpid())
            self._outputs[block.number] = block
            with block.view(size) as view:
                write_payload(payload, view)
        except PayloadError as error:
            raise _too_large(f"the output cannot be sent: {error}") from error
        except (OSError, MemoryError) as error:
            raise _too_large(f"there is no memory for the output: {error}") from error
        return [*times, [block.number, size], block.size if new else 0], [block.descriptor] if new else []

    def _release(self, block: Block, size: int, *, keep: bool) -> None:
        if keep:
            block.wipe(size)
            self._pool.give(block)
        else:
            block.close()


def _too_large(message: str) -> ExecutionError:
    return ExecutionError(message, code="LIMITS")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _offer_to_out_of_memory_killer() -> None:
    """When the machine's memory is used up, this process is to end, not the node."""
    try:
        Path("/proc/self/oom_score_adj").write_text("800")
    except OSError:
        return  # not Linux


def _last_words(cancellation: Cancellation) -> Any:
    def say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        """Where, but not what: an error's text may quote a job's input."""
        place = ""
        while trace is not None:
            place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
            trace = trace.tb_next
        cancellation.say(f"{kind.__name__} at {place}")

    return say
