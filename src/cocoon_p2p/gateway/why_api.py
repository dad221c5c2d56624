"""The local API's address about single orders::

GET  /v1/why/ID             who was considered for a job, by its id or the beginning of it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.gateway.json_http import json_response

if TYPE_CHECKING:
    from cocoon_p2p.node import Node


def why_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""

    async def why(request: Request) -> Response:
        return json_response(node.why(request.path_params["job_id"]))

    return [Route("/v1/why/{job_id}", why)]
