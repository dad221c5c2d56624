"""The local API over its real socket, with the command line's own client at the other end. Only the node is a stand-in:
what a real one answers is shown in tests/processes."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import trio

from cocoon_p2p.cli.api_client import LocalApi, connect
from cocoon_p2p.errors import (
    CocoonError,
    ConfigError,
    ExecutionError,
    PeerRefused,
    RefusalReason,
    SettlementError,
    TransportError,
)
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.limits import API_HEAD_BYTES_MAX, API_LIST_ROWS_MAX
from cocoon_p2p.node import Node, RunRequest, RunResult
from cocoon_p2p.tensors import Payload, Tensor, string_tensor

PEER = "12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N"
TEXT = Payload((string_tensor("text", ["how do I earn?"]),))
T = TypeVar("T")


class StandIn:
    """Answers at once, remembers what it was asked, and hands inputs back as outputs."""

    def __init__(self) -> None:
        self.requests: list[RunRequest] = []
        self.calls: list[Any] = []
        self.failure: BaseException | None = None
        self.hang = False
        self.started = trio.Event()
        self.cancelled = trio.Event()

    async def run_payload(self, request: RunRequest, payload: Payload) -> RunResult:
        self.requests.append(request)
        self.started.set()
        if self.failure is not None:
            raise self.failure
        if self.hang:
            try:
                await trio.sleep_forever()
            finally:
                self.cancelled.set()
        return RunResult(
            payload, "ab" * 16, "cd" * 32, PEER, 110_000, {"total": 8.5}, {"job_id": "ab" * 16}, [{"provider": PEER}]
        )

    def status(self) -> dict[str, Any]:
        return {"peer_id": PEER, "name": "Zürich"}

    def jobs(self, limit: int) -> list[dict[str, Any]]:
        return [{"limit": limit}]

    async def wallet(self) -> dict[str, Any]:
        return {"available_nanogram": 2**63 - 1}

    def models(self) -> list[dict[str, Any]]:
        raise RuntimeError("a bug")

    async def add_model(self, path: str, **given: Any) -> dict[str, Any]:
        self.calls.append((path, given))
        return {"model_id": "cd" * 32}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[StandIn, LocalApi]]:
    node, stop, path = StandIn(), trio.Event(), folder / "api.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_local_api, cast(Node, node), path, stop=stop))
        api = LocalApi(path)
        yield node, api
        stop.set()
    assert not path.exists()


async def call(function: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The client is synchronous."""
    return await trio.to_thread.run_sync(partial(function, *arguments, **named))


async def raw(folder: Path, request: bytes) -> bytes:
    """What is answered to these bytes, up to the end of the connection."""
    stream = await trio.open_unix_socket(str(folder / "api.sock"))
    async with stream:
        await stream.send_all(request)
        return b"".join([piece async for piece in stream])


async def test_the_socket_is_ours_alone(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert stat.S_IMODE((tmp_path / "api.sock").stat().st_mode) == 0o600


async def test_json_comes_through(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, api):
        assert await call(api.get, "/v1/status") == {"peer_id": PEER, "name": "Zürich"}
        assert await call(api.get, "/v1/wallet") == {"available_nanogram": 2**63 - 1}
        assert await call(api.get, "/v1/jobs", limit=7) == {"jobs": [{"limit": 7}]}


@pytest.mark.parametrize("limit", ["0", "-1", "x", str(API_LIST_ROWS_MAX + 1), "9" * 5000, "٣"])
async def test_a_limit_is_checked(tmp_path: Path, limit: str) -> None:
    async with serving(tmp_path) as (_, api):
        with pytest.raises(ConfigError, match=r"limit: .* is no whole number from 1 to 1000"):
            await call(api.get, "/v1/jobs", limit=limit)


async def test_a_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        head = {"model": "minilm", "tier": "open", "max_price": 5, "provider": PEER, "timeout_s": 2}
        result, outputs = await call(api.run, head, TEXT)
        assert node.requests == [RunRequest("minilm", "open", 5, PEER, 2.0)]
        assert (result["price_nanogram"], result["provider"], result["timeline_ms"]) == (110_000, PEER, {"total": 8.5})
        assert result["receipt"] == {"job_id": "ab" * 16}
        assert [(t.name, t.dtype, t.shape, bytes(t.data)) for t in outputs.tensors] == [
            (t.name, t.dtype, t.shape, bytes(t.data)) for t in TEXT.tensors
        ]


async def test_what_is_left_out_is_left_to_the_node(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        await call(api.run, {"model": "m", "max_price": None}, TEXT)
        assert node.requests == [RunRequest("m")]


async def test_a_payload_of_many_pieces_and_types(tmp_path: Path) -> None:
    big = bytes(range(256)) * (3 * 4096 + 1)
    payload = Payload(
        (
            Tensor("big", "uint8", (len(big),), big),
            Tensor("none", "float32", (0, 3), b""),
            Tensor("one", "bool", (), b"\1"),
        )
    )
    async with serving(tmp_path) as (_, api):
        _, outputs = await call(api.run, {"model": "m"}, payload)
        assert [(t.name, t.shape) for t in outputs.tensors] == [("big", (len(big),)), ("none", (0, 3)), ("one", ())]
        assert outputs.tensors[0].data == big


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({}, "model: the name or id of a model is needed"),
        ({"model": 1}, "model: must be a text"),
        ({"model": "m", "teir": "open"}, "teir: there is no such key"),
        ({"model": "m", "tier": "best"}, "tier: 'best' is none of sealed, open"),
        ({"model": "m", "max_price": -1}, "max_price: must be a whole number from 0"),
        ({"model": "m", "max_price": 1.5}, "max_price: must be a whole number"),
        ({"model": "m", "max_price": True}, "max_price: must be a whole number"),
        ({"model": "m", "provider": "12D3"}, "provider: '12D3' is no peer id"),
        ({"model": "m", "timeout_s": 0}, "timeout_s: must be a number of seconds above 0"),
        ({"model": "m", "timeout_s": 10**400}, "timeout_s"),
    ],
)
async def test_fields_of_a_job_are_checked(tmp_path: Path, head: dict[str, Any], message: str) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(ConfigError) as caught:
            await call(api.run, head, TEXT)
        assert message in caught.value.message
        assert not node.requests


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a", hint="h"), 400),
        (SettlementError("b"), 402),
        (PeerRefused(RefusalReason.PRICE, "c", needed=5), 409),
        (ExecutionError("d", code="INPUT"), 422),
        (TransportError("e", outcome_known=False), 502),
        (CocoonError("f", code="NO_MODEL", hint="did you mean g?"), 500),
    ],
)
async def test_errors_keep_what_they_say(tmp_path: Path, error: CocoonError, status: int) -> None:
    async with serving(tmp_path) as (node, api):
        node.failure = error
        with pytest.raises(CocoonError) as caught:
            await call(api.run, {"model": "m"}, TEXT)
        got = caught.value
        assert (got.message, got.code, got.hint, got.retryable) == (
            error.message, error.code, error.hint, error.retryable,
        )  # fmt: skip
        assert isinstance(got, ConfigError) == isinstance(error, ConfigError)
        body = b'\0\0\0\x0d{"model":"m"}' + b"\1" + bytes(7) + b"\x0c" + bytes(55)
        request = b"POST /v1/run HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        assert (await raw(tmp_path, request + body)).startswith(b"HTTP/1.1 %d " % status)


async def test_a_bug_is_one_answer_and_one_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(CocoonError, match="a bug in the node") as caught:
            await call(api.get, "/v1/models")
        assert caught.value.code == "INTERNAL"
        node.failure = RuntimeError("another bug")
        with pytest.raises(CocoonError, match="a bug in the node"):
            await call(api.run, {"model": "m"}, TEXT)
        node.failure = None
        assert (await call(api.run, {"model": "m"}, TEXT))[0]["provider"] == PEER
    assert "RuntimeError: a bug" in caplog.text
    assert "RuntimeError: another bug" in caplog.text


async def test_unknown_addresses_and_methods(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, api):
        with pytest.raises(CocoonError, match="GET /v1/nothing: there is no such address here"):
            await call(api.get, "/v1/nothing")
        with pytest.raises(CocoonError, match="POST /v1/status: this address takes another method"):
            await call(api.post, "/v1/status", {})


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0", b"\xff\xff\xff\xff{}", b"\0\0\0\x02[]" + bytes(64), b'\0\0\0\x0d{"model":"m"}', b"\0\0\0\2{}" + bytes(64),
     b"\0\0\0\1\xff" + bytes(64), b'\0\0\0\x0d{"model":"m"}' + bytes(63)],
)  # fmt: skip
async def test_malformed_bodies(tmp_path: Path, body: bytes) -> None:
    async with serving(tmp_path) as (node, _):
        request = b"POST /v1/run HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        answer = await raw(tmp_path, request + body)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "MALFORMED"
        assert not node.requests


async def test_a_body_without_a_length_is_taken_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, _):
        body = b'\0\0\0\x0d{"model":"m"}' + b"\1" + bytes(7) + b"\x0c" + bytes(55)
        request = b"POST /v1/run HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        assert (await raw(tmp_path, request + chunks)).startswith(b"HTTP/1.1 200 ")
        assert node.requests == [RunRequest("m")]


async def test_a_body_over_the_bound_is_refused_before_it_is_read(tmp_path: Path) -> None:
    async with serving(tmp_path):
        for address, size in ((b"/v1/run", 2**40), (b"/v1/models", API_HEAD_BYTES_MAX + 1)):
            request = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (address, size)
            answer = await raw(tmp_path, request)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"TOO_LARGE" in answer


async def test_a_client_that_hangs_up_cancels_its_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        node.hang = True
        body = b'\0\0\0\x0d{"model":"m"}' + b"\1" + bytes(7) + b"\x0c" + bytes(55)
        stream = await trio.open_unix_socket(str(tmp_path / "api.sock"))
        await stream.send_all(b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        with trio.fail_after(5):
            await node.started.wait()
            await stream.aclose()
            await node.cancelled.wait()
        assert (await call(api.get, "/v1/status"))["peer_id"] == PEER


async def test_a_client_that_hangs_up_within_its_body_harms_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        stream = await trio.open_unix_socket(str(tmp_path / "api.sock"))
        await stream.send_all(b"POST /v1/run HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\nabc")
        await stream.aclose()
        assert (await call(api.get, "/v1/status"))["peer_id"] == PEER
        assert not node.requests


async def test_adding_a_model(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        asked = {"path": "/models/a.onnx", "name": "a", "price_base": 0, "price_per_item": None}
        assert await call(api.post, "/v1/models", asked) == {"model_id": "cd" * 32}
        assert node.calls == [("/models/a.onnx", {"name": "a", "price_base": 0, "price_per_item": None})]
        for wrong in ({"path": "a.onnx"}, {}, {"path": "/a", "price": 1}, {"path": "/a", "price_base": "1"}):
            with pytest.raises(ConfigError):
                await call(api.post, "/v1/models", wrong)


async def test_shutdown_lets_running_jobs_end(tmp_path: Path) -> None:
    node, path, ended = StandIn(), tmp_path / "api.sock", trio.Event()

    async def serve(task_status: Any) -> None:
        await serve_local_api(cast(Node, node), path, task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        api = LocalApi(path)
        assert await call(api.post, "/v1/shutdown", {}) == {"stopping": True}
        with trio.fail_after(5):
            await ended.wait()
    assert connect(path) is None


async def test_a_socket_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot listen on the local API's socket"):
        await serve_local_api(cast(Node, StandIn()), tmp_path / "nowhere" / "api.sock")


def test_nobody_there(tmp_path: Path) -> None:
    assert connect(tmp_path / "api.sock") is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "api.sock"))
    assert connect(tmp_path / "api.sock") is None, "a socket whose node was killed"
    assert connect(tmp_path / ("x" * 200)) is None


async def test_a_node_that_dies_while_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()

        async def die() -> None:
            accepted, _ = await listener.accept()
            with accepted:
                await accepted.recv(65536)
                await accepted.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(die)
            api = LocalApi(path)
            with pytest.raises(TransportError, match="the node stopped answering"):
                await call(api.get, "/v1/status")
