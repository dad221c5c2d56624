"""The baseline of `rate`: the same session behind a plain HTTP server, Starlette on hypercorn's trio worker.

`python -m bench.http_server MODEL_FOLDER THREADS RUNS_AT_ONCE [batch]` prints its port and serves until it is ended.
POST / takes a payload container and answers with one. Without `batch` each request runs by itself in a thread; with it
whatever has come in meanwhile runs together, by the batching code of our own worker.
"""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.execution.cancellation import Cancellation
from cocoon_p2p.execution.runner import Job, Runner
from cocoon_p2p.execution.session import OnnxModel, run_options, tensors_of, values_of
from cocoon_p2p.execution.text import TextReader
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import BATCH_ITEMS_MAX, ENGINE_SET_JOBS_MAX
from cocoon_p2p.models.check import output_names, takes_text
from cocoon_p2p.models.layout import read_manifest
from cocoon_p2p.models.manifest import Manifest
from cocoon_p2p.tensors import Payload, decode_payload, encode_payload, unpack_strings

BACKLOG = 128
KEEP_ALIVE_S = 3600.0
KEEP_ALIVE_REQUESTS_MAX = 10**9
"""A connection stays open while the other side of the comparison has its turn, and however many requests it brings."""


class Direct:
    """Runs each request by itself. Called in threads."""

    def __init__(self, model: OnnxModel, reader: TextReader, manifest: Manifest) -> None:
        self._model, self._reader, self._manifest = model, reader, manifest

    def __call__(self, body: bytes) -> bytes:
        payload = decode_payload(body)
        names = output_names(self._manifest, payload)
        if takes_text(self._manifest, payload):
            values = self._reader.batch(self._reader.tokenise(unpack_strings(payload.tensors[0])))
        else:
            values = values_of(payload.tensors)
        return _encoded(tensors_of(self._model.run(values, names, run_options()), self._model.dtypes))


class _Waiting:
    """A request and its answer to come."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.answer = b""
        self.answered = trio.Event()


class Batching:
    """Runs whatever is queued together, and never waits for more."""

    def __init__(self, model: OnnxModel, reader: TextReader, manifest: Manifest) -> None:
        control, _ = self._pair = socket.socketpair()
        self._runner = Runner(model, reader, Cancellation(control, run_options), BATCH_ITEMS_MAX)
        self._manifest = manifest
        self._send, self._receive = trio.open_memory_channel[_Waiting](1024)

    async def answer(self, body: bytes) -> bytes:
        waiting = _Waiting(body)
        await self._send.send(waiting)
        await waiting.answered.wait()
        return waiting.answer

    async def run(self) -> None:
        async for first in self._receive:
            batch = [first]
            while len(batch) < ENGINE_SET_JOBS_MAX:
                try:
                    batch.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await trio.to_thread.run_sync(self._work, batch)
            for waiting in batch:
                waiting.answered.set()

    def _work(self, batch: Sequence[_Waiting]) -> None:
        jobs = [self._job(number, waiting.body) for number, waiting in enumerate(batch)]
        texts = [job for job in jobs if job.as_text]  # the runner groups these by length
        tensors = [job for job in jobs if not job.as_text]
        groups = [tensors[start : start + BATCH_ITEMS_MAX] for start in range(0, len(tensors), BATCH_ITEMS_MAX)]
        for group in (*groups, texts):
            for job in self._runner.run(group):
                batch[job.number].answer = _encoded(job.output_tensors())

    def _job(self, number: int, body: bytes) -> Job:
        payload = decode_payload(body)
        as_text = takes_text(self._manifest, payload)
        return Job(number, payload.tensors, as_text=as_text, outputs=output_names(self._manifest, payload))


def _encoded(tensors: Sequence[Any]) -> bytes:
    return b"".join(encode_payload(Payload(tuple(tensors))))


async def main(folder: Path, threads: int, runs_at_once: int, *, batch: bool) -> None:
    manifest = read_manifest(folder, ModelId(folder.name))
    model = OnnxModel(folder, manifest, provider="CPUExecutionProvider", threads=threads)
    parts = (model, TextReader(folder, manifest), manifest)
    async with trio.open_nursery() as nursery:
        if batch:
            batching = Batching(*parts)
            nursery.start_soon(batching.run)
            await _serve(batching.answer)
        else:
            direct, limiter = Direct(*parts), trio.CapacityLimiter(runs_at_once)
            await _serve(lambda body: trio.to_thread.run_sync(direct, body, limiter=limiter))


async def _serve(work: Callable[[bytes], Any]) -> None:
    async def answer(request: Request) -> Response:
        return Response(await work(await request.body()), media_type="application/octet-stream")

    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    config = Config()
    config.errorlog = logging.getLogger("bench.http_server")
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.keep_alive_max_requests = KEEP_ALIVE_REQUESTS_MAX
    config.include_date_header = config.include_server_header = False
    app = Starlette(routes=[Route("/", answer, methods=["POST"])])
    await worker_serve(ASGIWrapper(cast(Any, app)), config, sockets=Sockets([], [listener], []))


if __name__ == "__main__":
    model_folder, threads_text, runs_text, *options = sys.argv[1:]
    trio.run(partial(main, Path(model_folder), int(threads_text), int(runs_text), batch="batch" in options))
