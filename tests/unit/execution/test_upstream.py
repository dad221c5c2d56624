"""The engine `upstream` against a cluster that behaves."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from upstream_cluster import KEY, MODEL, open_cluster

from cocoon_p2p.errors import ConfigError, ExecutionError
from cocoon_p2p.execution.arrays import to_arrays, to_payload
from cocoon_p2p.execution.port import TokenStream
from cocoon_p2p.execution.upstream.engine import UpstreamEngine, open_upstream_engine
from cocoon_p2p.generation import GenerationRequest, Piece, parse_piece
from cocoon_p2p.ids import ModelId
from cocoon_p2p.models.manifest import parse_manifest
from cocoon_p2p.tensors import Payload, decode_payload
from cocoon_p2p.testing.engine_contract import buffer_of, refusal_of, texts

PLENTY = 10_000
CHAT = GenerationRequest(messages=({"role": "user", "content": "say the secret word"},), max_tokens=50)


@asynccontextmanager
async def opened(kind: str, *, how: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Any]:
    """A cluster, an engine, and the id of its model, loaded."""
    async with open_cluster(**(how or {})) as cluster, open_upstream_engine() as engine:
        manifest = await engine.add(cluster.settings(kind, **settings))
        await engine.load(manifest.model_id, Path())
        yield cluster, engine, manifest.model_id


async def run(engine: UpstreamEngine, model_id: ModelId, payload: Payload) -> dict[str, Any]:
    with await engine.run(model_id, buffer_of(engine, payload), items_max=64) as result:
        return {name: array.copy() for name, array in to_arrays(decode_payload(bytes(result.payload))).items()}


async def begin(engine: UpstreamEngine, model_id: ModelId, request: GenerationRequest, **bounds: int) -> TokenStream:
    buffer = buffer_of(engine, request.payload())
    items_max = bounds.get("items_max", PLENTY)
    return await engine.generate(
        model_id, buffer, items_max=items_max, items_allowed=bounds.get("items_allowed", PLENTY)
    )


async def read(stream: TokenStream) -> list[Piece]:
    """All pieces; holds what a stream of job/1 relies on."""
    pieces = []
    items = stream.prompt_items
    async with stream:
        while True:
            produced = await stream.receive()
            piece = parse_piece(produced.data)
            pieces.append(piece)
            items += len(piece.tokens)
            assert produced.items == items
            assert produced.final == (piece.finish is not None)
            assert piece.tokens or produced.final
            if produced.final:
                return pieces


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


@pytest.mark.parametrize("binary", [True, False])
async def test_tensors_by_the_open_inference_protocol(binary: bool) -> None:
    a = np.array([[1, 2, 3], [4, 5, 6.5]], np.float32)
    async with opened("open-inference", how={"binary": binary}, model="adder") as (cluster, engine, model_id):
        outputs = await run(engine, model_id, to_payload({"b": a, "a": a}))
        (chosen,) = await run(engine, model_id, to_payload({"a": a, "b": a}, ["n"]))
        status = engine.models()[0]
        error = await refusal_of(lambda: run(engine, model_id, to_payload({"a": a})))
    assert np.array_equal(outputs["sum"], a + a)
    assert outputs["n"].tolist() == [7, 7]
    assert chosen == "n"
    assert (b'"data":' in cluster.bodies[0]) != binary
    assert (status.device.name, status.loaded, status.jobs_done, status.items_done) == ("upstream", True, 2, 4)
    assert error.message == "input 'b' is missing: it must be float32[batch,3]"


@pytest.mark.parametrize("binary", [True, False])
async def test_texts_by_the_open_inference_protocol(binary: bool) -> None:
    async with opened("open-inference", how={"binary": binary}, model="shout") as (_, engine, model_id):
        outputs = await run(engine, model_id, to_payload({"word": np.array(["grüße", ""], dtype=object)}))
        empty = await run(engine, model_id, to_payload({"word": np.array([], dtype=object).astype(str)}))
    assert outputs["loud"].tolist() == ["GRÜSSE", ""]
    assert empty["loud"].tolist() == []


async def test_half_precision_needs_the_binary_extension() -> None:
    async with opened("open-inference", model="half") as (_, engine, model_id):
        outputs = await run(engine, model_id, to_payload({"x": np.array([1.5], np.float16)}))
    assert outputs["y"].tolist() == [3.0]
    with pytest.raises(ConfigError, match="travels in binary only"):
        async with opened("open-inference", how={"binary": False}, model="half"):
            pass


@pytest.mark.parametrize("as_base64", [True, False])
async def test_embeddings(as_base64: bool) -> None:
    async with opened("openai", how={"base64": as_base64}, task="embedding") as (_, engine, model_id):
        outputs = await run(engine, model_id, texts("banana", "b"))
        error = await refusal_of(lambda: engine.run(model_id, buffer_of(engine, texts("a", "b")), items_max=1))
    assert outputs["embedding"].tolist() == [[6, 1], [1, 0]]
    assert error.code == "ITEMS"


async def test_two_providers_of_one_model_have_one_id() -> None:
    async with open_cluster() as one, open_cluster() as other, open_upstream_engine() as engine:
        first = await engine.add(one.settings("openai"))
        second = await engine.add(replace(other.settings("openai"), name="ours"))
        vectors = await engine.add(one.settings("openai", task="embedding"))
    assert first.model_id == second.model_id != vectors.model_id
    assert parse_manifest(first.encode()) == first
    assert (first.files, first.kind, first.upstream and first.upstream.model) == ((), "generation", MODEL)


@pytest.mark.parametrize("usage_each", [True, False])
async def test_an_answer_token_by_token(usage_each: bool) -> None:
    async with opened("openai", how={"usage_each": usage_each}) as (cluster, engine, model_id):
        stream = await begin(engine, model_id, CHAT)
        pieces = await read(stream)
        assert engine.models()[0].jobs_done == 1
        again = await read(await begin(engine, model_id, replace(CHAT, messages=(), prompt="once upon")))
    assert text_of(pieces) == text_of(again) == "Hallo Welt, grüß dich!"
    assert pieces[-1].finish == "stop"
    assert pieces[0].prompt_tokens == stream.prompt_items
    assert stream.prompt_items == (5 if usage_each else len(CHAT.encode()) // 4)
    tokens = [token for piece in pieces for token in piece.tokens]
    assert len(tokens) == 7  # the last is the end's, which is told with the last word on usage
    assert {token.id for token in tokens} == {0}
    # Asked in vain once, and then no more.
    assert len(cluster.asked) == (2 if usage_each else 3)
    assert cluster.asked[-1]["prompt"] == "once upon"


async def test_what_is_asked_for_is_passed_on() -> None:
    request = replace(
        CHAT, temperature=0.5, top_p=0.9, seed=7, stop=("x",), logprobs=1, json_schema={"type": "object"}, max_tokens=2
    )
    async with opened("openai", how={"tokens_an_event": 2}) as (cluster, engine, model_id):
        pieces = await read(await begin(engine, model_id, request))
        plain = await read(await begin(engine, model_id, replace(request, messages=(), prompt="p")))
    asked = cluster.asked[0]
    assert (asked["model"], asked["temperature"], asked["top_p"], asked["seed"]) == (MODEL, 0.5, 0.9, 7)
    assert (asked["stop"], asked["max_tokens"], asked["top_logprobs"]) == (["x"], 2, 1)
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert "top_k" not in asked
    for answer in (pieces, plain):
        tokens = [token for piece in answer for token in piece.tokens]
        assert [token.logprob for token in tokens] == [-500_000] * 2
        assert tokens[0].top == ((0, "x", -2_000_000),)
        assert answer[-1].finish == "length"


async def test_tool_calls_are_lines_of_json() -> None:
    async with opened("openai", how={"tool_calls": True}) as (_, engine, model_id):
        pieces = await read(await begin(engine, model_id, replace(CHAT, tools=({"type": "function"},))))
    assert text_of(pieces) == '{"name": "look", "arguments": {"at": "me"}}'
    assert pieces[-1].finish == "tool_calls"


async def test_nothing_goes_out_that_is_not_paid_for() -> None:
    async with opened("openai", how={"tokens_an_event": 3}) as (_, engine, model_id):
        stream = await begin(engine, model_id, CHAT, items_allowed=4)  # less than the prompt has
        async with stream:
            assert stream.prompt_items == 5
            with trio.move_on_after(0.05) as scope:
                await stream.receive()
            assert scope.cancelled_caught
            stream.allow(7)
            first = parse_piece((await stream.receive()).data)
            assert (len(first.tokens), first.text) == (2, "")  # a text goes with the last of its tokens
            stream.allow(8)
            second = parse_piece((await stream.receive()).data)
            assert (len(second.tokens), second.text) == (1, "Hallo Welt,")
            stream.allow(PLENTY)
            rest = parse_piece((await stream.receive()).data)
    assert rest.text == " grüß dich!"


async def test_the_bound_on_items_ends_an_answer() -> None:
    async with opened("openai") as (cluster, engine, model_id):
        pieces = await read(await begin(engine, model_id, CHAT, items_max=8))
        error = await refusal_of(lambda: begin(engine, model_id, CHAT, items_max=4))
    assert sum(len(piece.tokens) for piece in pieces) == 3
    assert pieces[-1].finish == "length"
    assert error.code == "ITEMS"
    assert cluster.asked[0]["max_tokens"] == 8


async def test_stopping_ends_the_work_at_the_cluster() -> None:
    async with opened("openai", how={"hold": trio.Event()}) as (cluster, engine, model_id):
        async with await begin(engine, model_id, CHAT) as stream:
            await stream.receive()
            stream.stop()
            produced = await stream.receive()
            while not produced.final:
                produced = await stream.receive()
            assert parse_piece(produced.data).finish == "caller"
        with trio.fail_after(5):
            await cluster.cut_off.wait()
        assert engine.models()[0].running == 0


async def test_leaving_and_cancelling_end_the_work_at_the_cluster() -> None:
    async with opened("openai", how={"hold": trio.Event()}) as (cluster, engine, model_id):
        async with await begin(engine, model_id, CHAT) as stream:
            await stream.receive()
        with trio.fail_after(5):
            await cluster.cut_off.wait()
        assert engine.models()[0].running == 0


async def test_unloading_ends_its_jobs() -> None:
    async with opened("openai", how={"hold": trio.Event()}) as (_, engine, model_id):
        async with await begin(engine, model_id, CHAT) as stream:
            await stream.receive()
            await engine.unload(model_id)
            with pytest.raises(ExecutionError) as caught:
                while True:
                    await stream.receive()
        assert engine.models() == ()
    assert caught.value.code == "SHUTTING_DOWN"


async def test_places_are_bounded() -> None:
    async with opened("openai", how={"hold": trio.Event()}, parallel=1) as (cluster, engine, model_id):
        assert engine.models()[0].wait_s == 0.0
        running = await begin(engine, model_id, CHAT)
        async with running:
            assert engine.models()[0].wait_s is None, "how long nobody can tell"
            with trio.move_on_after(0.05) as scope:
                await begin(engine, model_id, CHAT)
            assert scope.cancelled_caught
            assert engine.models()[0].queued == 0
            assert len(cluster.asked) == 1


async def test_what_an_upstream_cannot_do() -> None:
    async with opened("openai") as (cluster, engine, model_id):
        for request, words in (
            (replace(CHAT, resume=(0, 0)), "cannot go on behind tokens"),
            (replace(CHAT, regex="a+"), "no regex"),
        ):
            error = await refusal_of(lambda r=request: begin(engine, model_id, r))  # type: ignore[misc]
            assert error.code == "INPUT"
            assert words in error.message
        assert not cluster.asked


async def test_a_wrong_key_and_a_wrong_model_are_the_operators(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_cluster() as cluster, open_upstream_engine() as engine:
        good = cluster.settings("openai")
        wrong = replace(good, api_key="sk-wrong")
        error = await refusal_of(lambda: engine.add(wrong))
        assert (error.code, error.retryable) == ("WORKER", True)
        with pytest.raises(ConfigError, match="does not list a model 'other'"):
            await engine.add(replace(good, model="other"))
        missing = await refusal_of(lambda: engine.add(cluster.settings("open-inference", model="none")))
        assert missing.code == "MODEL"
    assert "does not let this node in" in caplog.text
    assert "sk-" not in caplog.text
    assert KEY not in repr(good)
