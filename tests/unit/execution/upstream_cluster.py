"""A cluster for tests: a real HTTP server on loopback that speaks the Open Inference Protocol and the OpenAI API; and one that
answers whatever bytes a test likes."""

from __future__ import annotations

import base64
import json
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.execution.upstream.settings import UpstreamSettings

KEY = "sk-very-secret"
MODEL = "meta/llama"


@dataclass
class Cluster:
    """What it does, and what it saw."""

    port: int = 0
    binary: bool = True
    """The Open Inference server has the binary tensor extension."""
    usage_each: bool = True
    """The OpenAI server knows `continuous_usage_stats`."""
    base64: bool = True
    listed: tuple[str, ...] = (MODEL,)
    words: tuple[str, ...] = ("Hallo", " Welt", ",", " grüß", " dich", "!")
    """What it answers, a token each."""
    tool_calls: bool = False
    tokens_an_event: int = 1
    hold: trio.Event | None = None
    """Streams wait for it after their second token."""
    asked: list[Any] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    cut_off: trio.Event = field(default_factory=trio.Event)
    """A client closed a stream before its end."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def settings(self, kind: str, **others: Any) -> UpstreamSettings:
        return UpstreamSettings("theirs", kind, self.url, others.pop("model", MODEL), api_key=KEY, **others)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v2", self._guarded(self.server)),
                Route("/v2/models/{model}", self._guarded(self.metadata)),
                Route("/v2/models/{model}/infer", self._guarded(self.infer), methods=["POST"]),
                Route("/v1/models", self._guarded(self.models)),
                Route("/v1/embeddings", self._guarded(self.embeddings), methods=["POST"]),
                Route("/v1/chat/completions", self._guarded(self.complete), methods=["POST"]),
                Route("/v1/completions", self._guarded(self.complete), methods=["POST"]),
            ]
        )

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guard(request: Request) -> Response:
            if request.headers.get("authorization") != f"Bearer {KEY}":
                return JSONResponse({"error": "who are you?"}, 401)
            return await endpoint(request)

        return guard

    # --- Open Inference Protocol: "adder" adds and subtracts, "shout" writes words large ---

    async def server(self, request: Request) -> Response:
        return JSONResponse({"name": "tests", "version": "1", "extensions": ["binary_tensor_data"] * self.binary})

    async def metadata(self, request: Request) -> Response:
        tensors: dict[str, Any] = {
            "adder": ([("a", "FP32", [-1, 3]), ("b", "FP32", [-1, 3])], [("sum", "FP32", [-1, 3]), ("n", "INT64", [-1])]),
            "shout": ([("word", "BYTES", [-1])], [("loud", "BYTES", [-1])]),
            "half": ([("x", "FP16", [-1])], [("y", "FP16", [-1])]),
        }  # fmt: skip
        if request.path_params["model"] not in tensors:
            return JSONResponse({"error": "no such model"}, 404)
        inputs, outputs = (
            [{"name": n, "datatype": d, "shape": s} for n, d, s in side]
            for side in tensors[request.path_params["model"]]
        )
        return JSONResponse({"name": "m", "versions": ["1"], "platform": "p", "inputs": inputs, "outputs": outputs})

    async def infer(self, request: Request) -> Response:
        body = await request.body()
        self.bodies.append(body)
        length = int(request.headers.get("inference-header-content-length", len(body)))
        tree, binary = json.loads(body[:length]), body[length:]
        given: dict[str, list[Any]] = {}
        for entry in tree["inputs"]:
            size = entry.get("parameters", {}).get("binary_data_size")
            data = entry["data"] if size is None else _unpacked(entry["datatype"], binary[:size])
            binary = binary[size or 0 :]
            given[entry["name"]] = data
        rows = tree["inputs"][0]["shape"][0]
        if "word" in given:
            made = {"loud": ("BYTES", [rows], [word.upper() for word in given["word"]])}
        elif "a" in given:
            total = [a + b for a, b in zip(given["a"], given["b"], strict=True)]
            made = {"sum": ("FP32", [rows, 3], total), "n": ("INT64", [rows], [7] * rows)}
        else:
            made = {"y": ("FP16", [rows], [2 * x for x in given["x"]])}
        wanted = [entry["name"] for entry in tree["outputs"]]
        return self._inferred({name: made[name] for name in wanted}, in_binary=length != len(body))

    def _inferred(self, made: dict[str, tuple[str, list[int], list[Any]]], *, in_binary: bool) -> Response:
        outputs, pieces = [], []
        for name, (datatype, shape, data) in made.items():
            entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
            if in_binary:
                pieces.append(_packed(datatype, data))
                entry["parameters"] = {"binary_data_size": len(pieces[-1])}
            else:
                entry["data"] = data
            outputs.append(entry)
        head = json.dumps({"model_name": "m", "outputs": outputs}).encode()
        if not in_binary:
            return Response(head, media_type="application/json")
        return Response(b"".join((head, *pieces)), headers={"inference-header-content-length": str(len(head))})

    # --- OpenAI ---

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": each, "object": "model"} for each in self.listed]})

    async def embeddings(self, request: Request) -> Response:
        asked = await request.json()
        vectors = [[float(len(text)), text.count("a") / 3] for text in asked["input"]]
        as_text = self.base64 and asked.get("encoding_format") == "base64"
        data = [
            {"index": i, "embedding": base64.b64encode(struct.pack("<2f", *v)).decode() if as_text else v}
            for i, v in enumerate(vectors)
        ]
        return JSONResponse({"object": "list", "data": data[::-1]})

    async def complete(self, request: Request) -> Response:
        asked = await request.json()
        self.asked.append(asked)
        if asked["stream_options"].get("continuous_usage_stats") and not self.usage_each:
            return JSONResponse({"error": "unknown parameter"}, 400)
        chat = request.url.path.endswith("chat/completions")
        return Streamed(self._stream(asked, chat))

    async def _stream(self, asked: dict[str, Any], chat: bool) -> AsyncGenerator[bytes]:
        prompt_tokens = 5
        finished = False

        def event(delta: dict[str, Any], finish: str | None, done: int, logprobs: Any = None) -> bytes:
            choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": logprobs}
            choice |= {"delta": delta} if chat else {"text": delta.get("content", "")}
            tree: dict[str, Any] = {"object": "chunk", "choices": [choice]}
            if self.usage_each:
                tree["usage"] = {"prompt_tokens": prompt_tokens, "completion_tokens": done}
            return b"data: " + json.dumps(tree).encode() + b"\r\n\r\n"

        try:
            if chat:
                yield event({"role": "assistant", "content": ""}, None, 0)
            words = self.words[: asked["max_tokens"]]
            if self.tool_calls:
                for part in ({"name": "look", "arguments": ""}, {"arguments": '{"at":'}, {"arguments": ' "me"}'}):
                    yield event({"tool_calls": [{"index": 0, "function": part}]}, None, 1)
                words = ()
            for start in range(0, len(words), self.tokens_an_event):
                some = words[start : start + self.tokens_an_event]
                done = start + len(some)
                yield event({"content": "".join(some)}, None, done, _logprobs(asked, some, chat))
                if self.hold is not None and done >= 2:
                    await self.hold.wait()
            finish = "tool_calls" if self.tool_calls else "length" if len(words) < len(self.words) else "stop"
            yield event({}, finish, len(words))
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(words) + 1}
            yield b": a comment\n\ndata: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n"
            yield b"data: [DONE]\n\n"
            finished = True
        finally:
            if not finished:
                self.cut_off.set()


class Streamed(Response):
    """As starlette's, but its generator is closed when the client goes."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_its_end, receive, nursery.cancel_scope)
            async with aclosing(self._events):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async for event in self._events:
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            nursery.cancel_scope.cancel()

    async def _cancel_at_its_end(self, receive: Receive, scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


def _logprobs(asked: dict[str, Any], words: tuple[str, ...], chat: bool) -> Any:
    if asked.get("logprobs") in (None, False):
        return None
    if chat:
        top = [{"token": "x", "logprob": -2.0}]
        return {"content": [{"token": word, "logprob": -0.5, "top_logprobs": top} for word in words]}
    return {"token_logprobs": [-0.5] * len(words), "top_logprobs": [{"x": -2.0}] * len(words)}


_FORMATS = {"FP32": "f", "INT64": "q", "FP16": "e"}


def _packed(datatype: str, data: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(word.encode())) + word.encode() for word in data)
    return struct.pack(f"<{len(data)}{_FORMATS[datatype]}", *data)


def _unpacked(datatype: str, data: bytes) -> list[Any]:
    if datatype != "BYTES":
        return list(struct.unpack(f"<{len(data) // struct.calcsize(_FORMATS[datatype])}{_FORMATS[datatype]}", data))
    words = []
    while data:
        (size,) = struct.unpack("<I", data[:4])
        words.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    return words


@asynccontextmanager
async def open_cluster(**how: Any) -> AsyncIterator[Cluster]:
    """Serving at `Cluster.url` until the end of the block."""
    cluster = Cluster(**how)
    listener = socket.create_server(("127.0.0.1", cluster.port))
    cluster.port = listener.getsockname()[1]
    config = Config()
    config.graceful_timeout = 0.0
    config.errorlog = None
    stop = trio.Event()
    async with open_plain_nursery() as nursery:

        async def serve(*, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            sockets = Sockets([], [listener], [])
            wrapped = ASGIWrapper(cast(Any, cluster.app()))
            await worker_serve(wrapped, config, sockets=sockets, shutdown_trigger=stop.wait, task_status=task_status)

        await nursery.start(serve)
        try:
            yield cluster
        finally:
            stop.set()
    listener.close()


Answer = Callable[[trio.SocketStream], Awaitable[None]]


def reply(body: bytes, *, status: str = "200 OK", head: str = "", length: int | None = None) -> bytes:
    """An HTTP answer as it stands on the wire."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\ncontent-length: {size}\r\n{head}connection: close\r\n\r\n".encode() + body


SIGNATURE = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1]}],
}


@asynccontextmanager
async def open_rude_cluster(answer: Answer | bytes, *, signature: Any = SIGNATURE) -> AsyncIterator[str]:
    """The URL of a server that says what it serves, does `answer` with each connection that asks for work, and closes it."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await _serve_rudely(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _serve_rudely(stream: trio.SocketStream) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            part = await stream.receive_some()
            if not part:
                return
            asked += part
        head, _, body = asked.partition(b"\r\n\r\n")
        size = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
        while len(body) < size:
            body += await stream.receive_some()
        if head.startswith(b"GET"):
            about = {"extensions": []} if head.startswith(b"GET /v2 ") else signature
            await stream.send_all(reply(json.dumps(about).encode()))
        elif isinstance(answer, bytes):
            await stream.send_all(answer)
        else:
            await answer(stream)

    async with open_plain_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()
