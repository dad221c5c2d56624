"""The local API's addresses of models that come and go::

    GET  /v1/models/served   {"served": {model id: jobs done for others}}
    POST /v1/models/serve    {"model"}: load and offer an installed model
    POST /v1/models/unload   {"model"}: offer it no more and end its workers
    POST /v1/models/share    {"model"}: let others fetch it, or not any more, as stands on the disk now

What they answer is what `Node`'s methods return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import known_keys, text
from cocoon_p2p.gateway.json_http import json_response, read_json
from cocoon_p2p.ids import MODEL_ID_BYTES
from cocoon_p2p.limits import NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

MODEL_CHARS_MAX = max(NAME_CHARS_MAX, 2 * MODEL_ID_BYTES)


def models_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""

    async def serve(request: Request) -> Response:
        return json_response(await node.serve_model(await _model(request)))

    async def unload(request: Request) -> Response:
        return json_response(await node.unload_model(await _model(request)))

    async def share(request: Request) -> Response:
        return json_response(await node.share_model(await _model(request)))

    async def served(request: Request) -> Response:
        return json_response({"served": node.served()})

    return [
        Route("/v1/models/served", served),
        Route("/v1/models/serve", serve, methods=["POST"]),
        Route("/v1/models/unload", unload, methods=["POST"]),
        Route("/v1/models/share", share, methods=["POST"]),
    ]


async def _model(request: Request) -> str:
    wanted = await read_json(request)
    known_keys(wanted, ("model",))
    model = text(wanted, "model", chars_max=MODEL_CHARS_MAX)
    if not model:
        raise ConfigError("model: the name or id of an installed model is needed")
    return model
