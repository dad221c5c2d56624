"""The market over the local API's real socket; the node is a stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.ids import Tier
from cocoon_p2p.limits import MARKET_WAIT_MAX_S
from cocoon_p2p.node import Node


class Market:
    """Says what it was asked; waits for ever, or until it is told."""

    def __init__(self) -> None:
        self.waiting = trio.Event()
        self.changed = trio.Event()

    async def market(self, model: str | None = None, *, tier: Tier | None = None) -> dict[str, Any]:
        return {"model": model, "tier": tier}

    async def market_after(self, version: str, wait_s: float, model: str | None, *, tier: Tier | None) -> Any:
        self.waiting.set()
        await self.changed.wait()
        return {"model": model, "tier": tier, "after": version, "wait_s": wait_s}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Market, LocalApi, trio.Event]]:
    node, stop, path = Market(), trio.Event(), folder / "api.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_local_api, cast(Node, node), path, stop=stop))
        api = LocalApi(path)
        yield node, api, stop
        stop.set()


async def get(api: LocalApi, **parameters: Any) -> dict[str, Any]:
    """The client is synchronous."""
    return await trio.to_thread.run_sync(partial(api.get, "/v1/offers", **parameters))


async def test_model_and_tier_come_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, api, _):
        assert await get(api) == {"model": None, "tier": None}
        assert await get(api, model="a/b c", tier="open") == {"model": "a/b c", "tier": Tier.OPEN}


async def test_an_answer_that_waits_for_a_change(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api, _), trio.open_nursery() as nursery:

        async def ask() -> None:
            found = await get(api, model="m", after="v1", wait_s=30)
            assert found == {"model": "m", "tier": None, "after": "v1", "wait_s": 30.0}

        nursery.start_soon(ask)
        with trio.fail_after(5):
            await node.waiting.wait()
        node.changed.set()


async def test_a_node_that_stops_waits_no_longer(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api, stop), trio.open_nursery() as nursery:

        async def ask() -> None:
            with pytest.raises(CocoonError) as caught:
                await get(api, after="v1", wait_s=MARKET_WAIT_MAX_S)
            assert caught.value.code == "NODE_GONE"

        with trio.fail_after(2.5):  # less than the grace that requests under way are given
            nursery.start_soon(ask)
            await node.waiting.wait()
            stop.set()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tier": "best"}, "tier: 'best' is none of attested, sealed, open"),
        ({"model": ""}, "model: must be a text of 1 to 64 characters"),
        ({"model": "m" * 65}, "model: must be a text"),
        ({"after": "v" * 65}, "after: must be a text"),
        ({"after": "v", "wait_s": "x"}, "wait_s: 'x' is no number of seconds from 0 to 50"),
        ({"after": "v", "wait_s": "nan"}, "wait_s"),
        ({"after": "v", "wait_s": "51"}, "wait_s"),
        ({"after": "v", "wait_s": "-1"}, "wait_s"),
    ],
)
async def test_what_is_asked_is_checked(tmp_path: Path, asked: dict[str, str], message: str) -> None:
    async with serving(tmp_path) as (_, api, _):
        with pytest.raises(ConfigError, match=message):
            await get(api, **asked)
