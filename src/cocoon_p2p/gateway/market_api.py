"""The local API's addresses about the market::

    GET  /v1/offers             ?model=, ?tier=: the order book and its offers; with ?after=VERSION&wait_s=N not before
                                they differ from that version, at the latest after N seconds

What they answer is what `Node`'s methods of these names return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import ConfigError, TransportError
from cocoon_p2p.gateway.json_http import json_response
from cocoon_p2p.ids import MODEL_ID_BYTES, Tier
from cocoon_p2p.limits import MARKET_WAIT_MAX_S, NAME_CHARS_MAX

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

MODEL_CHARS_MAX = max(NAME_CHARS_MAX, 2 * MODEL_ID_BYTES)
VERSION_CHARS_MAX = 64


def market_routes(node: Node, stop: trio.Event) -> list[Route]:
    """The routes, for `local_api.build_app`. `stop` ends the waiting when the node stops."""
    endpoints = _MarketEndpoints(node, stop)
    return [Route("/v1/offers", endpoints.offers)]


class _MarketEndpoints:
    """One method an address; each turns a call of the node into JSON."""

    def __init__(self, node: Node, stop: trio.Event) -> None:
        self._node = node
        self._stop = stop

    async def offers(self, request: Request) -> Response:
        model, tier = _short(request, "model", MODEL_CHARS_MAX), _tier(request)
        after, wait_s = _short(request, "after", VERSION_CHARS_MAX), _wait_s(request)
        if after is None:
            return json_response(await self._node.market(model, tier=tier))
        return json_response(await self._changed(after, wait_s, model, tier))

    async def _changed(self, after: str, wait_s: float, model: str | None, tier: Tier | None) -> dict[str, Any]:
        found: dict[str, Any] | None = None
        async with open_plain_nursery() as nursery:

            async def end() -> None:
                await self._stop.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            found = await self._node.market_after(after, wait_s, model, tier=tier)
            nursery.cancel_scope.cancel()
        if found is None:
            raise TransportError("the node stops", outcome_known=True, code="NODE_GONE")
        return found


def _short(request: Request, name: str, chars_max: int) -> str | None:
    given = request.query_params.get(name)
    if given is not None and not 0 < len(given) <= chars_max:
        raise ConfigError(f"{name}: must be a text of 1 to {chars_max} characters")
    return given


def _tier(request: Request) -> Tier | None:
    given = request.query_params.get("tier")
    if given is None:
        return None
    try:
        return Tier[given.upper()]
    except KeyError:
        known = ", ".join(tier.name.lower() for tier in sorted(Tier, reverse=True))
        raise ConfigError(f"tier: {given[:20]!r} is none of {known}") from None


def _wait_s(request: Request) -> float:
    given = request.query_params.get("wait_s", "0")
    try:
        wait_s = float(given)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MARKET_WAIT_MAX_S:  # nan compares false
        raise ConfigError(f"wait_s: {given[:20]!r} is no number of seconds from 0 to {MARKET_WAIT_MAX_S:.0f}")
    return wait_s
