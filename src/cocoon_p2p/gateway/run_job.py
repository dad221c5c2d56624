"""`POST /v1/run`: one job, its payload streamed into one buffer and out again without a copy of our own; or, with
"dry_run": true, who would do it: the row of `/v1/why` and an empty payload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from cocoon_p2p.errors import CocoonError
from cocoon_p2p.gateway.bodies import ClientGone, read_body
from cocoon_p2p.gateway.errors_json import error_to_json, status_of
from cocoon_p2p.gateway.frames import decode_frame, encode_frame, encode_json, frame_bytes
from cocoon_p2p.gateway.run_json import is_dry_run, result_to_json, run_request
from cocoon_p2p.limits import API_BODY_BYTES_MAX
from cocoon_p2p.tensors import Payload

if TYPE_CHECKING:
    from cocoon_p2p.node import Node


T = TypeVar("T")
_NOTHING = Payload(())


class RunEndpoint:
    """An ASGI application of its own: Starlette's request and response classes would copy the bodies."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            pieces = await self._run(scope, receive)
        except ClientGone:
            return
        except CocoonError as error:
            body = encode_json(error_to_json(error))
            await _answer(send, status_of(error), b"application/json", [body])
        else:
            await _answer(send, 200, b"application/octet-stream", pieces)

    async def _run(self, scope: Scope, receive: Receive) -> list[bytes | memoryview]:
        body = await read_body(receive, Headers(scope=scope), API_BODY_BYTES_MAX)
        head, payload = decode_frame(body)
        request = run_request(head)
        if is_dry_run(head):
            row = await _unless_gone(receive, lambda: self._node.consider(request, payload))
            return encode_frame(row, _NOTHING)
        result = await _unless_gone(receive, lambda: self._node.run_payload(request, payload))
        return encode_frame(result_to_json(result), result.payload)


async def _unless_gone(receive: Receive, job: Callable[[], Awaitable[T]]) -> T:
    """Do it; cancel it when the client hangs up."""
    result: list[T] = []
    failure: CocoonError | None = None
    async with trio.open_nursery() as nursery:

        async def cancel_when_gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_when_gone)
        try:
            result.append(await job())
        except CocoonError as error:  # caught here, or the nursery would wrap it in an exception group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise ClientGone("the client hung up during its job")
    return result[0]


async def _answer(send: Send, status: int, media_type: bytes, pieces: list[bytes | memoryview]) -> None:
    headers = [(b"content-type", media_type), (b"content-length", str(frame_bytes(pieces)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
