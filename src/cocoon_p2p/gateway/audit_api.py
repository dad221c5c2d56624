"""The local API's addresses about wrong answers::

    POST /v1/audit              {"model", "providers", "count", "max_price", "tier"}: canary jobs; hanging up ends them
    GET  /v1/evidence           what evidence this node has
    GET  /v1/evidence/JOB_ID    one piece of it, as its bytes
    POST /v1/evidence/check     the bytes of evidence: what they prove

What they answer is what `Node`'s methods return.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from cocoon_p2p.drivers.plain_nursery import open_plain_nursery
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.bodies import ClientGone, read_body
from cocoon_p2p.gateway.fields import integer, known_keys, text
from cocoon_p2p.gateway.json_http import json_response, read_json
from cocoon_p2p.ids import MODEL_ID_BYTES
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    AUDIT_COUNT_MAX,
    AUDIT_PROVIDERS_MAX,
    EVIDENCE_BYTES_MAX,
    NAME_CHARS_MAX,
)

if TYPE_CHECKING:
    from cocoon_p2p.node import Node

MODEL_CHARS_MAX = max(NAME_CHARS_MAX, 2 * MODEL_ID_BYTES)
PEER_ID_CHARS_MAX = 64


def audit_routes(node: Node) -> list[Route]:
    """The routes, for `local_api.build_app`."""
    endpoints = _AuditEndpoints(node)
    return [
        Route("/v1/audit", endpoints.audit, methods=["POST"]),
        Route("/v1/evidence", endpoints.evidence_list),
        Route("/v1/evidence/check", endpoints.check, methods=["POST"]),
        Route("/v1/evidence/{job_id}", endpoints.evidence),
    ]


class _AuditEndpoints:
    """One method an address; each turns a call of the node into JSON."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def audit(self, request: Request) -> Response:
        wanted = await read_json(request)
        known_keys(wanted, ("model", "providers", "count", "max_price", "tier"))
        model = text(wanted, "model", chars_max=MODEL_CHARS_MAX)
        if model is None:
            raise ConfigError("model: the name or id of a model is needed")
        count = integer(wanted, "count", high=AUDIT_COUNT_MAX)
        audit = self._node.audit(
            model,
            _providers(wanted),
            1 if count is None else count,
            max_price=integer(wanted, "max_price", high=AMOUNT_NANOGRAM_MAX),
            tier=text(wanted, "tier", chars_max=NAME_CHARS_MAX),
        )
        return json_response({"audited": await _unless_gone(request, audit)})

    async def evidence_list(self, request: Request) -> Response:
        return json_response({"evidence": self._node.evidence_list()})

    async def evidence(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        found = self._node.evidence(job_id)
        if found is None:
            raise CocoonError(
                f"there is no evidence about job {job_id[:40]}", code="NO_EVIDENCE", hint="cocoon-node evidence list"
            )
        return Response(found, media_type="application/octet-stream")

    async def check(self, request: Request) -> Response:
        given = await read_body(request.receive, request.headers, EVIDENCE_BYTES_MAX)
        return json_response(await self._node.check_evidence(bytes(given)))


def _providers(wanted: dict[str, Any]) -> list[str] | None:
    given = wanted.get("providers")
    if given is None:
        return None
    peers = [peer for peer in given if isinstance(peer, str)] if isinstance(given, list) else []
    if (
        not 0 < len(peers) <= AUDIT_PROVIDERS_MAX
        or len(peers) != len(given)
        or max(map(len, peers)) > PEER_ID_CHARS_MAX
    ):
        raise ConfigError(f"providers: must be a list of 1 to {AUDIT_PROVIDERS_MAX} peer ids")
    return peers


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of `work`, which ends when the client hangs up: it costs money. Raises ClientGone then."""
    results: list[Any] = []
    async with open_plain_nursery() as nursery:

        async def cancel_when_gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(cancel_when_gone)
        results.append(await work)
        nursery.cancel_scope.cancel()
    if not results:
        raise ClientGone("the client hung up during its audit")
    return results[0]
