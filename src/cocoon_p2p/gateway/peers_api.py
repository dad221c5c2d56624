"""The local API's addresses about the network and single peers::

    GET  /v1/peers              whom we are connected to; ?banned=1: whom we refuse; ?known=1: ids of all we could name
    POST /v1/peers/connect      {"target"}: a multiaddr with /p2p/, an invite or a peer id
    POST /v1/peers/ban          {"peer_id", "duration_s"}
    POST /v1/peers/unban        {"peer_id"}
    POST /v1/ping               {"peer_id"}
    GET  /v1/invite             ?hours=, ?with_network_key=1
    POST /v1/join               {"invite"}
    GET  /v1/network            the public network, or a private one's name and fingerprint

What they answer is what `Node`'s methods of these names return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.errors import ConfigError
from cocoon_p2p.gateway.fields import known_keys, seconds, text
from cocoon_p2p.gateway.json_http import json_response, read_json
from cocoon_p2p.limits import BAN_MAX_S, INVITE_CHARS_MAX, INVITE_HOURS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

PEER_ID_CHARS_MAX = 64


def peer_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""
    endpoints = _PeerEndpoints(node)
    return [
        Route("/v1/peers", endpoints.peers),
        Route("/v1/peers/connect", endpoints.connect, methods=["POST"]),
        Route("/v1/peers/ban", endpoints.ban, methods=["POST"]),
        Route("/v1/peers/unban", endpoints.unban, methods=["POST"]),
        Route("/v1/ping", endpoints.ping, methods=["POST"]),
        Route("/v1/invite", endpoints.invite),
        Route("/v1/join", endpoints.join, methods=["POST"]),
        Route("/v1/network", endpoints.network),
    ]


class _PeerEndpoints:
    """One method an address; each turns a call of the node into JSON."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def peers(self, request: Request) -> Response:
        if _flag(request, "banned"):
            return json_response({"banned": self._node.banned()})
        if _flag(request, "known"):
            return json_response({"known": self._node.known_peers()})
        return json_response({"peers": self._node.peers()})

    async def connect(self, request: Request) -> Response:
        wanted = await _fields(request, ("target",))
        return json_response(await self._node.connect(_text(wanted, "target", 2 * INVITE_CHARS_MAX)))

    async def ban(self, request: Request) -> Response:
        wanted = await _fields(request, ("peer_id", "duration_s"))
        peer, duration_s = _text(wanted, "peer_id", PEER_ID_CHARS_MAX), seconds(wanted, "duration_s", high=BAN_MAX_S)
        return json_response(self._node.ban(peer) if duration_s is None else self._node.ban(peer, duration_s))

    async def unban(self, request: Request) -> Response:
        wanted = await _fields(request, ("peer_id",))
        return json_response(self._node.unban(_text(wanted, "peer_id", PEER_ID_CHARS_MAX)))

    async def ping(self, request: Request) -> Response:
        wanted = await _fields(request, ("peer_id",))
        peer = _text(wanted, "peer_id", PEER_ID_CHARS_MAX)
        return json_response({"peer_id": peer, "latency_ms": round(await self._node.ping(peer) * 1000, 3)})

    async def invite(self, request: Request) -> Response:
        hours = _hours(request.query_params.get("hours"))
        return json_response(self._node.invite(hours=hours, with_network_key=_flag(request, "with_network_key")))

    async def join(self, request: Request) -> Response:
        wanted = await _fields(request, ("invite",))
        return json_response(await self._node.join(_text(wanted, "invite", 2 * INVITE_CHARS_MAX)))

    async def network(self, request: Request) -> Response:
        return json_response(self._node.network())


async def _fields(request: Request, known: tuple[str, ...]) -> dict[str, Any]:
    wanted = await read_json(request)
    known_keys(wanted, known)
    return wanted


def _text(wanted: dict[str, Any], key: str, chars_max: int) -> str:
    given = text(wanted, key, chars_max=chars_max)
    if given is None:
        raise ConfigError(f"{key}: is missing")
    return given


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "0")
    if given not in ("0", "1"):
        raise ConfigError(f"{name}: {given[:20]!r} is neither 0 nor 1")
    return given == "1"


def _hours(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        hours = float(given)
    except ValueError:
        hours = 0.0
    if not 0 < hours <= INVITE_HOURS_MAX:  # nan compares false
        raise ConfigError(f"hours: {given[:20]!r} is no number above 0 and up to {INVITE_HOURS_MAX:,.0f}")
    return hours
