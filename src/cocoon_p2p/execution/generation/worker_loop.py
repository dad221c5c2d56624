"""A generation model in its worker process: between two steps the loop takes what came from the node, and waits for more only
when there is nothing to do. What a step made of all answers goes out in one message."""

from __future__ import annotations

import time
from pathlib import Path

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.answer import Event
from cocoon_p2p.execution.generation.front import Front
from cocoon_p2p.execution.generation.kv_cache import Graph, KeyValues
from cocoon_p2p.execution.generation.kv_memory import DeviceMemory, HostMemory, KvMemory
from cocoon_p2p.execution.generation.kv_rows import SeparateRows
from cocoon_p2p.execution.generation.kv_slots import Slots
from cocoon_p2p.execution.generation.scheduler import Runs, Scheduler
from cocoon_p2p.execution.pipe import BlockingPipe, Message, Tag
from cocoon_p2p.execution.session import OnnxModel
from cocoon_p2p.limits import GENERATION_PREFILL_S
from cocoon_p2p.models.generation_spec import GenerationSpec

_CUDA = "CUDAExecutionProvider"


class GenerationLoop:
    """`serve` is all that the worker does from then on."""

    def __init__(
        self, pipe: BlockingPipe, runs: Runs, folder: Path, model: OnnxModel, *, rows_max: int, kv_bytes_max: int
    ) -> None:
        """Raises one of RUN_ERRORS, or what the tokenizer's library raises, for a model that cannot be used."""
        spec = model.manifest.generation
        assert spec is not None
        self._pipe = pipe
        self._runs = runs
        self._front = Front(folder, spec)
        key_values = make_key_values(model, spec, rows_max=rows_max, bytes_max=kv_bytes_max)
        self._scheduler = Scheduler(key_values, runs, time.monotonic, vocab=spec.vocab)

    def serve(self) -> None:
        """Returns when the node has closed its end."""
        while True:
            if not self._scheduler.has_work and not self._wait():
                return
            # Requests take time to read, and those under way are not to wait for many of them.
            until = time.monotonic() + GENERATION_PREFILL_S
            while self._pipe.has_message(0) and time.monotonic() < until:
                message = self._pipe.receive()
                if message is None:
                    return
                self._handle(message)
            events = self._scheduler.step()
            # Empty, too: it says that the worker is alive, in the midst of a long prompt.
            self._pipe.send([Tag.PRODUCED, [_told(event) for event in events]])

    def _wait(self) -> bool:
        """For a message, or for something to forget. False: the node is gone."""
        while True:
            expiry = self._scheduler.next_expiry()
            wait_s = None if expiry is None else max(0.0, expiry - time.monotonic())
            if self._pipe.has_message(wait_s):
                message = self._pipe.receive()
                if message is None:
                    return False
                self._handle(message)
                if self._scheduler.has_work:
                    return True
            else:
                self._scheduler.step()

    def _handle(self, message: Message) -> None:
        match message:
            case [Tag.BEGIN, number, request, client, items_max, allowed]:
                self._begin(number, request, client, items_max, allowed)
            case [Tag.ALLOW, number, items]:
                self._scheduler.allow(number, items)
            case [Tag.STOP, number]:
                self._scheduler.stop(number)
            case [Tag.CANCEL, number]:
                self._scheduler.cancel(number)
            case _:
                raise ValueError(f"message {message[0]} is not known here")

    def _begin(self, number: int, request: str, client: bytes, items_max: int, allowed: int) -> None:
        now = time.monotonic()
        try:
            answer = self._front.answer(number, request, client=client, items_max=items_max, allowed=allowed, now=now)
            self._scheduler.add(answer)
        except ExecutionError as error:
            self._runs.forget(number)
            self._pipe.send([Tag.FAILED, number, error.code, error.message])
        else:
            self._pipe.send([Tag.BEGUN, number, len(answer.ids)])


def make_key_values(model: OnnxModel, spec: GenerationSpec, *, rows_max: int, bytes_max: int) -> KeyValues:
    """Slots where the graph can write into them, else rows that grow by being copied."""
    graph = Graph(model.session, spec)
    on_cuda = model.provider == _CUDA
    if not spec.in_place or spec.mask is None:
        return SeparateRows(graph, rows_max=rows_max, bytes_max=bytes_max, device="cuda" if on_cuda else "cpu")
    shape = (len(graph.past), spec.kv_heads, spec.head_size, graph.cache_type)
    if on_cuda and spec.head_size % 2 == 0:
        number = int(model.session.get_provider_options()[_CUDA].get("device_id", "0"))
        memory: KvMemory = DeviceMemory(*shape, provider=_CUDA, device="cuda", device_id=number)
    else:
        memory = HostMemory(*shape)
    return Slots(graph, memory, rows_max=rows_max, bytes_max=bytes_max)


def _told(event: Event) -> list[object]:
    if event.error is not None:
        return [event.number, event.error.code, event.error.message]
    assert event.piece is not None
    return [event.number, event.piece.encode(), event.items, event.execute_us, event.waited_us]
