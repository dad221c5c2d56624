"""The engine `upstream` against clusters that fail, hang and lie: each job ends with an error that says what to do, in time."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from upstream_cluster import SIGNATURE, Answer, open_rude_cluster, reply

from cocoon_p2p.errors import CocoonError, ExecutionError
from cocoon_p2p.execution.arrays import to_payload
from cocoon_p2p.execution.upstream.engine import UpstreamEngine, open_upstream_engine
from cocoon_p2p.execution.upstream.settings import UpstreamSettings
from cocoon_p2p.execution.upstream.sse import EventReader, EventTooLarge
from cocoon_p2p.generation import GenerationRequest, parse_piece
from cocoon_p2p.ids import ModelId
from cocoon_p2p.limits import (
    ANSWER_BYTES_MORE,
    ANSWER_BYTES_PER_TOKEN,
    UPSTREAM_EVENT_BYTES_MAX,
    UPSTREAM_JSON_BYTES_MAX,
)
from cocoon_p2p.testing.engine_contract import buffer_of, refusal_of

SECRET = "my very private words"
TENSORS = to_payload({"x": np.array([1.0, 2.0], np.float32)})
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@asynccontextmanager
async def rude(
    kind: str, answer: Answer | bytes, *, signature: Any = SIGNATURE, **settings: Any
) -> AsyncIterator[tuple[UpstreamEngine, ModelId]]:
    async with (
        open_rude_cluster(answer, signature=signature) as url,
        open_upstream_engine(**settings.pop("bounds", {})) as engine,
    ):
        manifest = await engine.add(UpstreamSettings("theirs", kind, url, "m", **settings))
        await engine.load(manifest.model_id, Path())
        yield engine, manifest.model_id


async def failure_of(answer: Answer | bytes, **settings: Any) -> ExecutionError:
    """What a tensor job comes to."""
    async with rude("open-inference", answer, **settings) as (engine, model_id):
        return await refusal_of(lambda: engine.run(model_id, buffer_of(engine, TENSORS), items_max=9))


async def failure_of_stream(answer: Answer | bytes, **settings: Any) -> tuple[str, ExecutionError]:
    """What came of an answer before it failed, and how it failed."""
    text = ""
    async with rude("openai", answer, signature={"data": []}, **settings) as (engine, model_id):
        buffer = buffer_of(engine, GenerationRequest(prompt=SECRET, max_tokens=20).payload())
        try:
            stream = await engine.generate(model_id, buffer, items_max=1000, items_allowed=1000)
            async with stream:
                while True:
                    text += parse_piece((await stream.receive()).data).text
        except ExecutionError as error:
            return text, error


def inferred(**changes: Any) -> bytes:
    """An answer to TENSORS that is right but for the changes to its output."""
    output = {"name": "y", "datatype": "FP32", "shape": [2], "data": [1.0, 2.0]} | changes
    return reply(json.dumps({"outputs": [output]}).encode())


def event(text: str, finish: str | None = None) -> bytes:
    tree = {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
    return b"data: " + json.dumps(tree).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        ("400 Bad Request", "INPUT", False),
        ("422 Unprocessable", "INPUT", False),
        ("401 Unauthorized", "WORKER", True),
        ("404 Not Found", "MODEL", True),
        ("429 Too Many Requests", "BUSY", True),
        ("500 Internal Server Error", "MODEL", True),
        ("503 Service Unavailable", "BUSY", True),
        ("302 Found", "MODEL", True),
    ],
)
async def test_errors_by_status(status: str, code: str, retryable: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    answer = reply(SECRET.encode(), status=status, head="location: http://127.0.0.1:1/elsewhere\r\n")
    error = await failure_of(answer)
    _, of_stream = await failure_of_stream(answer)
    for each in (error, of_stream):
        assert (each.code, each.retryable) == (code, retryable)
        assert SECRET not in each.message
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"{]"),
        reply(b"[" * 100_000),
        reply(b"[]"),
        reply(b'{"outputs": [7]}'),
        reply(b'{"outputs": []}'),
        inferred(name="z"),
        inferred(datatype="FP64"),
        inferred(datatype="NEW"),
        inferred(shape=[3]),
        inferred(shape=[2**40]),
        inferred(shape=[-2]),
        inferred(shape=[1, 2]),
        inferred(data=[1.0]),
        inferred(data=[1.0, "2"]),
        inferred(data=[1.0, 10**400]),
        inferred(data=[[1.0, 2.0], [3.0]]),
        inferred(data="12"),
        inferred(parameters={"binary_data_size": 8}),
        inferred(parameters={"binary_data_size": -1}),
        reply(b"{}", head="inference-header-content-length: 99\r\n"),
        reply(b"{}", head="inference-header-content-length: -1\r\n"),
        reply(b"{}", head="content-encoding: gzip\r\n"),
    ],
)  # fmt: skip
async def test_answers_that_are_none(answer: bytes) -> None:
    error = await failure_of(answer)
    assert (error.code, error.message) == ("MODEL", "the provider's cluster gave what is no answer")


async def test_connections_that_break(caplog: pytest.LogCaptureFixture) -> None:
    for answer in (b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", reply(b'{"outp', length=100)):
        error = await failure_of(answer)
        assert (error.code, error.retryable) == ("WORKER", True), answer
    text, error = await failure_of_stream(
        STREAM_HEAD.replace(b"connection", b"content-length: 999\r\nconnection") + event("Hallo")
    )
    assert (text, error.code) == ("Hallo", "WORKER")


async def test_a_cluster_that_is_down_is_told_to_the_operator_once(caplog: pytest.LogCaptureFixture) -> None:
    async with open_upstream_engine() as engine:
        with socket.socket() as held:  # bound, not listening: refused
            held.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{held.getsockname()[1]}"
            error = await refusal_of(lambda: engine.add(UpstreamSettings("theirs", "openai", url, "m")))
    assert (error.code, error.retryable) == ("WORKER", True)
    assert f"upstream theirs cannot be reached at {url}" in caplog.text

    caplog.clear()
    async with open_rude_cluster(b"") as url, open_upstream_engine() as engine:
        manifest = await engine.add(UpstreamSettings("theirs", "open-inference", url, "m"))
        await engine.load(manifest.model_id, Path())
        assert engine.models()[0].loaded
        engine._known[manifest.model_id]._http._client.base_url = "http://127.0.0.1:1"  # it went away
        for _ in range(3):
            error = await refusal_of(lambda: engine.run(manifest.model_id, buffer_of(engine, TENSORS), items_max=9))
            assert error.code == "WORKER"
        assert not engine.models()[0].loaded
    assert caplog.text.count("cannot be reached") == 1


async def test_silence_ends_by_timeout_s() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def stalling(stream: trio.SocketStream) -> None:
        await stream.send_all(STREAM_HEAD + event("Hallo"))
        await trio.sleep_forever()

    error = await failure_of(silent, timeout_s=0.1)
    assert (error.code, error.message) == ("WORKER", "the provider's cluster went silent")
    text, error = await failure_of_stream(stalling, timeout_s=0.1)
    assert (text, error.code) == ("Hallo", "WORKER")


async def test_bodies_without_end() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
        while True:
            await stream.send_all(b"1" * 1_000_000)

    error = await failure_of(endless)
    assert (error.code, error.message) == ("LIMITS", f"the answer is larger than {UPSTREAM_JSON_BYTES_MAX} bytes")


async def test_streams_without_end() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(STREAM_HEAD)
        while True:
            await stream.send_all(event("") * 100)

    text, error = await failure_of_stream(endless)
    assert (text, error.code, error.message) == ("", "MODEL", "the provider's cluster did not end its answer")

    async def one_event(stream: trio.SocketStream) -> None:
        await stream.send_all(STREAM_HEAD + b"data: ")
        while True:
            await stream.send_all(b"1" * 100_000)

    _, error = await failure_of_stream(one_event)
    assert error.code == "MODEL"


@pytest.mark.parametrize("wide", ["x", "\N{GRINNING FACE}"])
async def test_more_text_than_its_tokens_can_have_ends_the_answer_here(wide: str) -> None:
    """A client would refuse it, after it paid for what came before."""
    most = (ANSWER_BYTES_MORE + 2 * ANSWER_BYTES_PER_TOKEN) // len(wide.encode())
    text, error = await failure_of_stream(STREAM_HEAD + event("Hallo") + event(most * wide))
    assert text == "Hallo"
    assert (error.code, error.message) == ("MODEL", "the provider's cluster sends more text than its tokens can have")
    assert error.retryable
    text, error = await failure_of_stream(STREAM_HEAD + event((most - ANSWER_BYTES_PER_TOKEN) * wide) + event("Hallo"))
    assert text.endswith("Hallo")
    assert error.message == "the provider's cluster gave what is no answer", "it lacks its end, and nothing else"


async def test_more_tokens_than_were_asked_for_are_cut_off() -> None:
    async def endless(stream: trio.SocketStream) -> None:
        await stream.send_all(STREAM_HEAD)
        while True:
            await stream.send_all(event("x") * 10)

    async with rude("openai", endless, signature={"data": []}) as (engine, model_id):
        buffer = buffer_of(engine, GenerationRequest(prompt="p", max_tokens=20).payload())
        async with await engine.generate(model_id, buffer, items_max=1000, items_allowed=1000) as stream:
            pieces = [parse_piece((await stream.receive()).data)]
            while pieces[-1].finish is None:
                pieces.append(parse_piece((await stream.receive()).data))
    assert "".join(piece.text for piece in pieces) == "x" * 20
    assert pieces[-1].finish == "length"


@pytest.mark.parametrize(
    "events",
    [
        event("Hallo"),  # and then the end, without [DONE]
        event("Hallo") + b"data: {]\n\n",
        event("Hallo") + b'data: {"error": {"message": "out of memory"}}\n\n',
        event("Hallo") + b'data: {"choices": [{"index": 0, "text": 7}]}\n\n',
        event("Hallo") + b'data: {"choices": [{"index": 1, "text": "x"}]}\n\n',
        event("Hallo") + b'data: {"choices": [], "usage": {"prompt_tokens": -1}}\n\n',
        event("Hallo") + b'data: {"choices": [], "usage": {"prompt_tokens": 1e9}}\n\n',
        event("Hallo") + b"data: 7\n\n",
        event("Hallo") + event("\ud83d"),  # half a character, which nothing can write
        event("Hallo") + b"data: " + b"1" * (UPSTREAM_EVENT_BYTES_MAX + 1) + b"\n\n",
    ],
)
async def test_events_that_are_none(events: bytes) -> None:
    text, error = await failure_of_stream(STREAM_HEAD + events)
    assert (error.code, error.message) == ("MODEL", "the provider's cluster gave what is no answer")
    assert text in ("", "Hallo")


async def test_signatures_that_are_none() -> None:
    for signature in (
        [],
        {},
        {"inputs": 7, "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP32"}], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP8", "shape": [1]}], "outputs": []},
        {"inputs": [{"name": "", "datatype": "FP32", "shape": [1]}], "outputs": []},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}] * 2, "outputs": []},
    ):
        with pytest.raises(CocoonError) as caught:
            async with rude("open-inference", b"", signature=signature):
                pass
        assert caught.value.code in ("MODEL", "CONFIG"), signature


async def test_numbers_that_json_lacks_are_the_inputs_fault() -> None:
    async with rude("open-inference", b"") as (engine, model_id):
        payload = to_payload({"x": np.array([np.nan], np.float32)})
        error = await refusal_of(lambda: engine.run(model_id, buffer_of(engine, payload), items_max=9))
        assert (error.code, engine.models()[0].running) == ("INPUT", 0)


async def test_cancelling_closes_the_connection() -> None:
    closed = trio.Event()
    begun = trio.Event()

    async def slow(stream: trio.SocketStream) -> None:
        begun.set()
        if await stream.receive_some() == b"":
            closed.set()

    async with rude("open-inference", slow) as (engine, model_id), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: engine.run(model_id, buffer_of(engine, TENSORS), items_max=9))
        await begun.wait()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True), trio.fail_after(5):
            await closed.wait()
        assert engine.models()[0].running == 0


def test_events_whatever_the_pieces_they_come_in() -> None:
    stream = b": hello\r\ndata: one\r\n\r\ndata:two\ndata: more\n\nevent: x\nid: 7\ndata: three\r\r\n\ndata: lost"
    for size in range(1, len(stream)):
        reader = EventReader(1000)
        events = [e for i in range(0, len(stream), size) for e in reader.feed(stream[i : i + size])]
        assert events == [b"one", b"two\nmore", b"three"], size
    reader = EventReader(10)
    with pytest.raises(EventTooLarge):
        list(reader.feed(b"data: 12345678901"))
