"""The local API's addresses about peers over the real socket; the node is a stand-in that remembers what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.errors import CocoonError, ConfigError, TransportError
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.node import Node

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
T = TypeVar("T")


class StandIn:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def peers(self) -> list[dict[str, Any]]:
        return [{"peer_id": PEER}]

    def banned(self) -> list[dict[str, Any]]:
        return [{"peer_id": "banned"}]

    def known_peers(self) -> list[str]:
        return [PEER]

    def network(self) -> dict[str, Any]:
        return {"private": False}

    async def connect(self, target: str) -> dict[str, Any]:
        self.calls.append(("connect", target))
        return {"peer_id": PEER}

    def ban(self, peer: str, duration_s: float = 86_400.0) -> dict[str, Any]:
        self.calls.append(("ban", peer, duration_s))
        return {"peer_id": peer, "banned_until_ms": 5}

    def unban(self, peer: str) -> dict[str, Any]:
        self.calls.append(("unban", peer))
        return {"peer_id": peer, "was_banned": True}

    async def ping(self, peer: str) -> float:
        if peer == "gone":
            raise TransportError("no answer", outcome_known=True, code="TIMEOUT", hint="try later")
        return 0.0012345

    def invite(self, **options: Any) -> dict[str, Any]:
        self.calls.append(("invite", options))
        return {"invite": "cocoon1…"}

    async def join(self, invite: str) -> dict[str, Any]:
        self.calls.append(("join", invite))
        return {"peer_id": PEER}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[StandIn, LocalApi]]:
    node, stop, path = StandIn(), trio.Event(), folder / "api.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_local_api, cast(Node, node), path, stop=stop))
        api = LocalApi(path)
        yield node, api
        stop.set()


async def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    return await trio.to_thread.run_sync(partial(function, *arguments, **named))


async def test_looking(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, api):
        assert await call(api.get, "/v1/peers") == {"peers": [{"peer_id": PEER}]}
        assert await call(api.get, "/v1/peers", banned=1) == {"banned": [{"peer_id": "banned"}]}
        assert await call(api.get, "/v1/peers", known=1) == {"known": [PEER]}
        assert await call(api.get, "/v1/network") == {"private": False}
        assert await call(api.post, "/v1/ping", {"peer_id": PEER}) == {"peer_id": PEER, "latency_ms": 1.234}


async def test_doing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        await call(api.post, "/v1/peers/connect", {"target": "/ip4/…"})
        await call(api.post, "/v1/peers/ban", {"peer_id": PEER, "duration_s": 60})
        await call(api.post, "/v1/peers/ban", {"peer_id": PEER, "duration_s": None})
        await call(api.post, "/v1/peers/unban", {"peer_id": PEER})
        await call(api.get, "/v1/invite")
        await call(api.get, "/v1/invite", hours=1.5, with_network_key=1)
        await call(api.post, "/v1/join", {"invite": "cocoon1x"})
        assert node.calls == [
            ("connect", "/ip4/…"),
            ("ban", PEER, 60.0),
            ("ban", PEER, 86_400.0),
            ("unban", PEER),
            ("invite", {"hours": None, "with_network_key": False}),
            ("invite", {"hours": 1.5, "with_network_key": True}),
            ("join", "cocoon1x"),
        ]


async def test_an_error_comes_through_with_its_hint(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, api):
        with pytest.raises(CocoonError, match="no answer") as caught:
            await call(api.post, "/v1/ping", {"peer_id": "gone"})
        assert (caught.value.code, caught.value.hint) == ("TIMEOUT", "try later")


@pytest.mark.parametrize(
    ("address", "body", "message"),
    [
        ("/v1/ping", {}, "peer_id: is missing"),
        ("/v1/ping", {"peer_id": 5}, "peer_id: must be a text"),
        ("/v1/ping", {"peer_id": "x" * 65}, "peer_id: must be a text of 1 to 64"),
        ("/v1/ping", {"peer": PEER}, "peer: there is no such key"),
        ("/v1/peers/ban", {"peer_id": PEER, "duration_s": 0}, "duration_s: must be a number of seconds above 0"),
        ("/v1/peers/ban", {"peer_id": PEER, "duration_s": 1e12}, "duration_s"),
        ("/v1/peers/connect", {"target": ""}, "target: must be a text"),
        ("/v1/join", {"invite": "c" * 5000}, "invite: must be a text"),
    ],
)
async def test_bodies_are_checked(tmp_path: Path, address: str, body: dict[str, Any], message: str) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(ConfigError, match=message):
            await call(api.post, address, body)
        assert node.calls == []


@pytest.mark.parametrize(
    "parameters", [{"hours": "0"}, {"hours": "nan"}, {"hours": "1e9"}, {"hours": "x"}, {"with_network_key": "yes"}]
)
async def test_parameters_are_checked(tmp_path: Path, parameters: dict[str, str]) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(ConfigError, match=next(iter(parameters))):
            await call(api.get, "/v1/invite", **parameters)
        assert node.calls == []
