"""A served generation model with a real worker process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import trio

from cocoon_p2p.execution.device import CPU, ChosenDevice
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.generator_worker import GeneratorWorker
from cocoon_p2p.execution.input_buffers import InputBuffers
from cocoon_p2p.execution.port import Device, Produced
from cocoon_p2p.execution.served_generator import ServedGenerator
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.execution.worker_processes import WorkerProcesses
from cocoon_p2p.generation import GenerationRequest, Piece, parse_piece
from cocoon_p2p.ids import PeerId
from cocoon_p2p.models.registry import InstalledModel, ModelRegistry
from cocoon_p2p.tensors import encode_payload, payload_bytes
from cocoon_p2p.testing.tiny_genai import make_tiny_genai


@cache
def installed(**shape: Any) -> InstalledModel:
    folder = Path(mkdtemp(prefix="served-"))
    return ModelRegistry(folder / "home").add(make_tiny_genai(folder / "tiny", **shape))


class Served:
    def __init__(self, served: ServedGenerator, worker: GeneratorWorker, processes: WorkerProcesses) -> None:
        self.served = served
        self.worker = worker
        self.processes = processes
        self._inputs = InputBuffers(1 << 30, lambda block: None)

    def submit(
        self,
        request: GenerationRequest,
        *,
        items_max: int = 1 << 20,
        allowed: int = 1 << 20,
        client: str | None = None,
    ) -> GeneratorStream:
        payload = request.payload()
        buffer = self._inputs.take(payload_bytes(payload))
        buffer.view[:] = b"".join(bytes(piece) for piece in encode_payload(payload))
        stream = self.served.submit(
            buffer, items_max=items_max, items_allowed=allowed, client=None if client is None else PeerId(client)
        )
        assert self._inputs.bytes_in_use == 0
        return stream

    async def generate(self, request: GenerationRequest, **options: Any) -> GeneratorStream:
        stream = self.submit(request, **options)
        await stream.begun()
        return stream


class Read:
    """All of a stream."""

    def __init__(self, produced: list[Produced]) -> None:
        self.produced = produced
        self.pieces: list[Piece] = [parse_piece(each.data) for each in produced]
        self.ids = [token.id for piece in self.pieces for token in piece.tokens]
        self.text = "".join(piece.text for piece in self.pieces)
        self.finish = self.pieces[-1].finish
        self.items = produced[-1].items
        self.reused = self.pieces[0].reused_tokens


async def read(stream: GeneratorStream) -> Read:
    produced = [await stream.receive()]
    while not produced[-1].final:
        produced.append(await stream.receive())
    return Read(produced)


@asynccontextmanager
async def serving(
    model: InstalledModel | None = None, *, queue_max: int = 100, rows_max: int = 8, **settings: Any
) -> AsyncIterator[Served]:
    model = model or installed()
    device = ChosenDevice(Device("cpu", "for a test"), CPU)
    served = ServedGenerator(
        model.manifest.model_id, model.manifest, ModelSettings(1, 16, 1 << 30, queue_max, **settings), rows_max=rows_max
    )
    async with trio.open_nursery() as nursery:
        processes = WorkerProcesses(nursery)
        worker = served.add_worker(model.folder, device)
        nursery.start_soon(worker.run, processes)
        with trio.fail_after(60):
            await worker.first_load.wait()
        assert worker.load_error is None, worker.load_error.message
        try:
            yield Served(served, worker, processes)
        finally:
            with trio.CancelScope(shield=True):
                nursery.cancel_scope.cancel()
                served.close()
                await processes.close()
