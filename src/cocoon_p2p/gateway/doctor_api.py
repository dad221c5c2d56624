"""The local API's addresses for `cocoon-node doctor`::

    GET  /v1/doctor             how the clock compares, what is announced, idle rules that this machine cannot keep
    GET  /v1/heard              ?leave_out=PEER_ID: who of those connected knows our announcement
    POST /v1/canary             {"model", "seed"}: what the node's own engine answers to that made-up input; the body of the
                                answer is that of gateway/frames.py

What they answer is what `Node`'s methods return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import integer, known_keys, text
from cocoon_p2p.gateway.frames import encode_frame
from cocoon_p2p.gateway.json_http import json_response, read_json
from cocoon_p2p.ids import MODEL_ID_BYTES
from cocoon_p2p.limits import NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

SEED_MAX = 2**63 - 1
_MODEL_CHARS_MAX = max(NAME_CHARS_MAX, 2 * MODEL_ID_BYTES)


def doctor_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""
    endpoints = _DoctorEndpoints(node)
    return [
        Route("/v1/doctor", endpoints.health),
        Route("/v1/heard", endpoints.heard),
        Route("/v1/canary", endpoints.canary, methods=["POST"]),
    ]


class _DoctorEndpoints:
    """One method an address."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def health(self, request: Request) -> Response:
        return json_response(self._node.health())

    async def heard(self, request: Request) -> Response:
        return json_response({"peers": await self._node.heard(request.query_params.get("leave_out"))})

    async def canary(self, request: Request) -> Response:
        wanted = await read_json(request)
        known_keys(wanted, ("model", "seed"))
        model, seed = text(wanted, "model", chars_max=_MODEL_CHARS_MAX), integer(wanted, "seed", high=SEED_MAX)
        if model is None or seed is None:
            raise ConfigError("model and seed: a model's name or id, and a whole number")
        head, answer = await self._node.own_answer(model, seed)
        return Response(b"".join(encode_frame(head, answer)), media_type="application/octet-stream")
