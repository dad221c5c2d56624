"""The local API's addresses for text that is generated::

POST /v1/generate              {"model", "prompt" or "messages", "max_tokens", …}: lines of gateway/generate_json.py
POST /v1/generate/ID/stop      ends the job ID of this API gracefully: its lines end with what it came to

An error before the first piece is an ordinary error answer. A client that hangs up stops its job, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.bodies import ClientGone, read_body
from cocoon_p2p.gateway.errors_json import error_to_json, status_of
from cocoon_p2p.gateway.frames import decode_json, encode_json
from cocoon_p2p.gateway.generate_json import encode_line, end_line, generate_request, piece_line, start_line
from cocoon_p2p.gateway.json_http import json_response
from cocoon_p2p.limits import API_HEAD_BYTES_MAX, GENERATION_REQUEST_BYTES_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Generation, Node

BODY_BYTES_MAX = GENERATION_REQUEST_BYTES_MAX + API_HEAD_BYTES_MAX


def generate_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""
    running: dict[str, Generation] = {}

    async def stop(request: Request) -> Response:
        generation = running.get(request.path_params["job_id"])
        if generation is None:
            raise ConfigError("no such answer is being generated through this node", code="NO_JOB")
        await generation.cancel()
        return json_response({"stopped": True})

    return [
        Route("/v1/generate", GenerateEndpoint(node, running), methods=["POST"]),
        Route("/v1/generate/{job_id}/stop", stop, methods=["POST"]),
    ]


class GenerateEndpoint:
    """An ASGI application of its own: each line goes out when it is made. `running` holds what is being generated, by job id."""

    def __init__(self, node: Node, running: dict[str, Generation]) -> None:
        self._node = node
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            head = decode_json(bytes(await read_body(receive, Headers(scope=scope), BODY_BYTES_MAX)))
            limits, request, raw = generate_request(head)
            generation = self._node.generate_request(limits, request, raw=raw)
        except ClientGone:
            return
        except CocoonError as error:
            await _refuse(send, error)
            return
        self._running[generation.job_id] = generation
        try:
            async with generation:
                await _unless_gone(receive, generation, _Lines(generation, send))
        finally:
            del self._running[generation.job_id]


class _Lines:
    """The answer's lines, sent as they come."""

    def __init__(self, generation: Generation, send: Send) -> None:
        self._generation = generation
        self._send = send
        self._begun = False

    async def run(self) -> None:
        generation, error = self._generation, None
        try:
            while True:
                piece = await generation.next_piece()
                if not self._begun:
                    await self._begin()
                await self._put(piece_line(piece))
        except StopAsyncIteration:
            pass
        except CocoonError as failure:
            error = failure
        if error is not None and not self._begun:
            await _refuse(self._send, error)
            return
        if not self._begun:
            await self._begin()
        await self._put(end_line(generation, error), more=False)

    async def _begin(self) -> None:
        self._begun = True
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._put(start_line(self._generation))

    async def _put(self, row: dict[str, Any], *, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": encode_line(row), "more_body": more})


async def _unless_gone(receive: Receive, generation: Generation, lines: _Lines) -> None:
    """Send them; stop the job when the client hangs up."""
    async with trio.open_nursery() as nursery:

        async def stop_when_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop_when_gone)
        await lines.run()
        nursery.cancel_scope.cancel()


async def _refuse(send: Send, error: CocoonError) -> None:
    body = encode_json(error_to_json(error))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
