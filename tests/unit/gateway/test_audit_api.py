"""The local API's addresses about wrong answers, over the real socket; the node is a stand-in that remembers what it was
asked."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.errors import CocoonError, ConfigError
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.limits import AUDIT_PROVIDERS_MAX, EVIDENCE_BYTES_MAX
from cocoon_p2p.node import Node

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
JOB = "ab" * 16
T = TypeVar("T")


class StandIn:
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.begun = trio.Event()
        self.ended = trio.Event()

    async def audit(self, model: str, providers: list[str] | None, count: int, **more: Any) -> list[dict[str, Any]]:
        self.calls.append((model, providers, count, more))
        if model == "slow":
            self.begun.set()
            try:
                await trio.sleep_forever()
            finally:
                self.ended.set()
        if model == "none":
            raise CocoonError("nobody offers it", code="NO_MODEL", hint="look elsewhere")
        return [{"provider": PEER, "verdict": "right"}]

    def evidence_list(self) -> list[dict[str, Any]]:
        return [{"job_id": JOB}]

    def evidence(self, job_id: str) -> bytes | None:
        return b"evidence" if job_id == JOB else None

    async def check_evidence(self, evidence: bytes) -> dict[str, Any]:
        self.calls.append(evidence)
        return {"verdict": "void"}


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


async def test_an_audit(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        assert await call(api.post, "/v1/audit", {"model": "m"}, timeout_s=None) == {
            "audited": [{"provider": PEER, "verdict": "right"}]
        }
        wanted = {"model": "m", "providers": [PEER], "count": 3, "max_price": 5, "tier": "open"}
        await call(api.post, "/v1/audit", wanted)
        assert node.calls == [
            ("m", None, 1, {"max_price": None, "tier": None}),
            ("m", [PEER], 3, {"max_price": 5, "tier": "open"}),
        ]
        with pytest.raises(CocoonError) as caught:
            await call(api.post, "/v1/audit", {"model": "none"})
        assert (caught.value.code, caught.value.hint) == ("NO_MODEL", "look elsewhere")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"model": ""},
        {"model": 5},
        {"model": "m", "count": -1},
        {"model": "m", "count": "many"},
        {"model": "m", "providers": []},
        {"model": "m", "providers": PEER},
        {"model": "m", "providers": [5]},
        {"model": "m", "providers": ["x" * 65]},
        {"model": "m", "providers": [PEER] * (AUDIT_PROVIDERS_MAX + 1)},
        {"model": "m", "provider": PEER},
    ],
)
async def test_what_is_no_audit(tmp_path: Path, wanted: dict[str, Any]) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(ConfigError):
            await call(api.post, "/v1/audit", wanted)
        assert node.calls == []


async def test_hanging_up_ends_an_audit(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, _):
        body = b'{"model":"slow"}'
        head = f"POST /v1/audit HTTP/1.1\r\nhost: node\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "api.sock"))
            client.sendall(head + body)
            with trio.fail_after(5):
                await node.begun.wait()
        with trio.fail_after(5):
            await node.ended.wait()


async def test_evidence(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        assert await call(api.get, "/v1/evidence") == {"evidence": [{"job_id": JOB}]}
        assert await call(api.get_bytes, f"/v1/evidence/{JOB}") == b"evidence"
        with pytest.raises(CocoonError) as caught:
            await call(api.get_bytes, "/v1/evidence/" + "cd" * 16)
        assert caught.value.code == "NO_EVIDENCE"
        answer = await call(api._call, "POST", "/v1/evidence/check", body=iter([b"some"]))
        assert bytes(answer) == b'{"verdict":"void"}'
        assert node.calls == [b"some"]
        with pytest.raises(ConfigError) as refused:
            await call(api._call, "POST", "/v1/evidence/check", body=iter([bytes(EVIDENCE_BYTES_MAX + 1)]))
        assert refused.value.code == "TOO_LARGE"
