"""The local API: what the command line and other programs of the same user ask of a running node.

HTTP/1.1 on the Unix socket <home>/api.sock (mode 0600 in a folder of mode 0700). JSON in and out, but for /v1/run, whose
bodies are those of gateway/frames.py::

    GET  /v1/status  /v1/jobs?limit=  /v1/receipts?limit=  /v1/wallet  /v1/models
    and of the network: gateway/peers_api.py; of the market: gateway/market_api.py; of wrong answers:
    gateway/audit_api.py
    GET  /v1/why/ID             gateway/why_api.py
    POST /v1/run                {"model", "tier", "max_price", …: run_json.REQUEST_KEYS} and a payload
    POST /v1/generate           gateway/generate_api.py
    POST /v1/models             {"path", "name", "price_base", "price_per_item"}
    …    /v1/models/            gateway/models_api.py
    POST /v1/shutdown           ends the node

An error is {"error": {"code", "message", "hint", "retryable"}} with a status of 4xx or 5xx. A client that hangs up during
/v1/run cancels its job.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.audit_api import audit_routes
from cocoon_p2p.gateway.doctor_api import doctor_routes
from cocoon_p2p.gateway.errors_json import error_to_json, status_of
from cocoon_p2p.gateway.fields import integer, known_keys, text
from cocoon_p2p.gateway.generate_api import generate_routes
from cocoon_p2p.gateway.json_http import json_response, read_json
from cocoon_p2p.gateway.market_api import market_routes
from cocoon_p2p.gateway.models_api import models_routes
from cocoon_p2p.gateway.peers_api import peer_routes
from cocoon_p2p.gateway.pulls_api import pull_routes
from cocoon_p2p.gateway.run_job import RunEndpoint
from cocoon_p2p.gateway.why_api import why_routes
from cocoon_p2p.limits import AMOUNT_NANOGRAM_MAX, API_LIST_ROWS_MAX, NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

log = logging.getLogger(__name__)

LIST_ROWS_DEFAULT = 50
STOP_GRACE_S = 3.0
"""A request that is being answered when the node stops has this long to end."""
KEEP_ALIVE_S = 60.0
BACKLOG = 64

Endpoint = Callable[[Request], Awaitable[Response]]


async def serve_local_api(
    node: Node,
    path: Path,
    *,
    stop: trio.Event | None = None,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer requests on the Unix socket `path` (which must be free and short enough) until `stop` is set, by the caller
    or by POST /v1/shutdown. Requests under way then have STOP_GRACE_S to end. Raises ConfigError when `path` cannot be
    bound. `task_status` (trio's) reports when requests are answered."""
    stop = trio.Event() if stop is None else stop
    listener = _bind(path)
    config = Config()
    config.errorlog = log
    config.graceful_timeout = STOP_GRACE_S
    config.keep_alive_timeout = KEEP_ALIVE_S
    config.include_date_header = config.include_server_header = False
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(_serve, build_app(node, stop), config, listener, stop)
            task_status.started()
    finally:
        listener.close()
        os.unlink(path)


async def _serve(
    app: Starlette, config: Config, listener: socket.socket, stop: trio.Event, *, task_status: Any
) -> None:
    sockets = Sockets([], [listener], [])
    application = ASGIWrapper(cast(Any, app))
    await worker_serve(application, config, sockets=sockets, shutdown_trigger=stop.wait, task_status=task_status)


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        listener.bind(os.fsencode(path))
        path.chmod(0o600)  # nobody can connect before listen()
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on the local API's socket {path}: {error.strerror or error}") from error
    return listener


def build_app(node: Node, stop: trio.Event) -> Starlette:
    """The ASGI application; `stop` is set by POST /v1/shutdown."""
    endpoints = _Endpoints(node, stop)
    routes = [
        Route("/v1/status", endpoints.status),
        Route("/v1/jobs", endpoints.jobs),
        Route("/v1/receipts", endpoints.receipts),
        Route("/v1/wallet", endpoints.wallet),
        Route("/v1/models", endpoints.models),
        Route("/v1/models", endpoints.add_model, methods=["POST"]),
        Route("/v1/shutdown", endpoints.shutdown, methods=["POST"]),
        Route("/v1/run", RunEndpoint(node), methods=["POST"]),
        *generate_routes(node),
        *models_routes(node),
        *pull_routes(node),
        *peer_routes(node),
        *why_routes(node),
        *audit_routes(node),
        *market_routes(node, stop),
        *doctor_routes(node),
    ]
    handlers: dict[Any, Any] = {CocoonError: _cocoon_error, HTTPException: _http_error, 500: _bug}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Endpoints:
    """One method an address; each turns a call of the node into JSON."""

    def __init__(self, node: Node, stop: trio.Event) -> None:
        self._node = node
        self._stop = stop

    async def status(self, request: Request) -> Response:
        return json_response(self._node.status())

    async def jobs(self, request: Request) -> Response:
        return json_response({"jobs": self._node.jobs(_limit(request))})

    async def receipts(self, request: Request) -> Response:
        return json_response({"receipts": self._node.receipts(_limit(request))})

    async def wallet(self, request: Request) -> Response:
        return json_response(await self._node.wallet())

    async def models(self, request: Request) -> Response:
        return json_response({"models": self._node.models()})

    async def add_model(self, request: Request) -> Response:
        wanted = await read_json(request)
        known_keys(wanted, ("path", "name", "price_base", "price_per_item"))
        path = text(wanted, "path", chars_max=4096)
        if not path or not os.path.isabs(path):
            raise ConfigError("path: an absolute path of a model is needed: the node may run in another folder")
        added = await self._node.add_model(
            path,
            name=text(wanted, "name", chars_max=NAME_CHARS_MAX),
            price_base=integer(wanted, "price_base", high=AMOUNT_NANOGRAM_MAX),
            price_per_item=integer(wanted, "price_per_item", high=AMOUNT_NANOGRAM_MAX),
        )
        return json_response(added)

    async def shutdown(self, request: Request) -> Response:
        self._stop.set()
        return json_response({"stopping": True})


def _limit(request: Request) -> int:
    given = request.query_params.get("limit")
    if given is None:
        return LIST_ROWS_DEFAULT
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= API_LIST_ROWS_MAX):
        raise ConfigError(f"limit: {given[:20]!r} is no whole number from 1 to {API_LIST_ROWS_MAX}")
    return int(given)


async def _cocoon_error(request: Request, error: CocoonError) -> Response:
    return json_response(error_to_json(error), status_of(error))


async def _http_error(request: Request, error: HTTPException) -> Response:
    what = {404: "there is no such address here", 405: "this address takes another method"}
    message = f"{request.method} {request.url.path}: {what.get(error.status_code, error.detail)}"
    return json_response(error_to_json(CocoonError(message, code="HTTP")), error.status_code)


async def _bug(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer, so that it is logged with its traceback."""
    return json_response(error_to_json(CocoonError("a bug in the node; its log has the details", code="INTERNAL")), 500)
