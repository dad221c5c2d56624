"""JSON in and out of the local API's endpoints."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from cocoon_p2p.gateway.bodies import read_body
from cocoon_p2p.gateway.frames import decode_json, encode_json
from cocoon_p2p.limits import API_HEAD_BYTES_MAX


def json_response(value: Any, status: int = 200) -> Response:
    return Response(encode_json(value), status, media_type="application/json")


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a request's body. Raises ConfigError."""
    return decode_json(bytes(await read_body(request.receive, request.headers, API_HEAD_BYTES_MAX)))
