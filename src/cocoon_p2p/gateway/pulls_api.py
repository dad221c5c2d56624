"""The local API's addresses of models that come from peers::

    GET  /v1/pulls           {"pulls": [...]}: how far each since the start is
    POST /v1/pulls           {"model", "from", "name"}: begin one, or join the one that runs; how far it is
    POST /v1/pulls/stop      {"model_id"}: {"stopped"}; what came is kept

What they answer is what `Node`'s methods return (node_pull.pull_row).
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
from cocoon_p2p.limits import ADDRESS_CHARS_MAX, NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

MODEL_CHARS_MAX = max(NAME_CHARS_MAX, 2 * MODEL_ID_BYTES)


def pull_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""

    async def pulls(request: Request) -> Response:
        return json_response({"pulls": node.pulls()})

    async def begin(request: Request) -> Response:
        wanted = await read_json(request)
        known_keys(wanted, ("model", "from", "name"))
        model = text(wanted, "model", chars_max=MODEL_CHARS_MAX)
        if not model:
            raise ConfigError("model: the id of a model is needed, or its name on the market")
        source = text(wanted, "from", chars_max=ADDRESS_CHARS_MAX)
        name = text(wanted, "name", chars_max=NAME_CHARS_MAX)
        return json_response(await node.begin_pull(model, source=source, name=name))

    async def stop(request: Request) -> Response:
        wanted = await read_json(request)
        known_keys(wanted, ("model_id",))
        return json_response({"stopped": node.stop_pull(text(wanted, "model_id", chars_max=MODEL_CHARS_MAX) or "")})

    return [
        Route("/v1/pulls", pulls),
        Route("/v1/pulls", begin, methods=["POST"]),
        Route("/v1/pulls/stop", stop, methods=["POST"]),
    ]
