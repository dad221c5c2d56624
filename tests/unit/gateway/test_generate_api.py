"""`POST /v1/generate` over its real socket, with the command line's own client at the other end. The answer is a script's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.lowlevel

from cocoon_p2p.cli.api_client import LocalApi
from cocoon_p2p.drivers.generating import GenerationWish
from cocoon_p2p.drivers.stream_answer import Answer
from cocoon_p2p.errors import CocoonError, ConfigError, ExecutionError, TransportError
from cocoon_p2p.gateway.local_api import serve_local_api
from cocoon_p2p.generation import GenerationRequest, Piece, Token
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.node import Generation, Node, RunRequest

PEER = PeerId("12D3KooWQpD9Yi1M7BkMK7fUa1XU9S3wvSQHykdWhsdK4nDz8e6N")
JOB = JobId(bytes(range(16)))
PIECES = (
    Piece((Token(5, -693147, ((5, "Grüß", -693147), (6, " x", -700000))),), "Grüß", prompt_tokens=7, reused_tokens=2),
    Piece((Token(6),), " Gott\n"),
    Piece((), "!", finish="stop"),
)


class Script:
    """Writes `pieces`, then fails, or waits to be stopped."""

    def __init__(self) -> None:
        self.pieces = PIECES
        self.failure: CocoonError | None = None
        self.hang_after: int | None = None
        self.stopped = trio.Event()

    async def run(self, wish: GenerationWish | None, answer: Answer) -> None:
        for number, piece in enumerate(self.pieces):
            if number == self.hang_after:
                await answer.stop_wanted.wait()
                answer.price = 33
                self.stopped.set()
                return answer.end()
            answer.add(piece, PEER, float(number))
            await trio.lowlevel.checkpoint()
        answer.price = 1080
        return answer.end(self.failure)


class StandIn:
    def __init__(self, nursery: trio.Nursery) -> None:
        self.script = Script()
        self.asked: list[tuple[RunRequest, GenerationRequest, bool]] = []
        self._nursery = nursery

    def generate_request(self, limits: RunRequest, request: GenerationRequest, *, raw: bool = False) -> Generation:
        self.asked.append((limits, request, raw))
        return Generation(self._nursery, cast(Any, self.script), cast(Any, None), Answer(JOB, started=-1.0))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[StandIn, LocalApi]]:
    stop, path = trio.Event(), folder / "api.sock"
    async with trio.open_nursery() as nursery:
        node = StandIn(nursery)
        await nursery.start(partial(serve_local_api, cast(Node, node), path, stop=stop))
        yield node, LocalApi(path)
        stop.set()


async def lines_of(api: LocalApi, **head: Any) -> list[dict[str, Any]]:
    return await trio.to_thread.run_sync(lambda: list(api.generate({"model": "writer", "prompt": "Hi"} | head)))


async def test_lines_as_they_come(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        start, *pieces, end = await lines_of(api, max_tokens=9, tier="open", logprobs=2, seed=3)
    assert start == {"start": {"job_id": JOB.hex()}}
    assert "".join(line["piece"]["text"] for line in pieces) == "Grüß Gott\n!"
    first = pieces[0]["piece"]["tokens"]
    top = [{"id": 5, "text": "Grüß", "logprob": -0.693147}, {"id": 6, "text": " x", "logprob": -0.7}]
    assert first == [{"id": 5, "logprob": -0.693147, "top": top}]
    assert pieces[1]["piece"]["tokens"] == [{"id": 6}]
    result = end["result"]
    assert (result["text"], result["finish"], result["price_nanogram"]) == ("Grüß Gott\n!", "stop", 1080)
    assert result["usage"] == {"prompt_tokens": 7, "reused_tokens": 2, "completion_tokens": 2}
    assert (result["provider"], result["first_token_s"], result["tokens_s"]) == (PEER, 1.0, 0.5)
    ((limits, request, raw),) = node.asked
    assert (limits.model, limits.tier, raw) == ("writer", "open", False)
    assert (request.prompt, request.max_tokens, request.logprobs, request.seed) == ("Hi", 9, 2, 3)


async def test_an_error_before_the_first_piece_is_an_ordinary_one(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        node.script.pieces = ()
        node.script.failure = ExecutionError("no such thing", code="INPUT", hint="ask otherwise")
        with pytest.raises(CocoonError, match="no such thing") as caught:
            await lines_of(api)
        assert (caught.value.code, caught.value.hint) == ("INPUT", "ask otherwise")


async def test_an_error_in_the_middle_comes_with_what_it_came_to(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        node.script.pieces = PIECES[:2]
        node.script.failure = TransportError("all are gone", outcome_known=False)
        lines = await lines_of(api)
    assert lines[-1]["error"]["message"] == "all are gone"
    assert lines[-1]["result"]["text"] == "Grüß Gott\n"


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ({"prompt": None}, "prompt or messages"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "x"}]}, "prompt or messages"),
        ({"temprature": 1}, "temprature"),
        ({"resume": [1]}, "resume"),
        ({"raw": 1}, "raw"),
        ({"max_price": -1}, "max_price"),
        ({"hedge": 2}, "hedge"),
    ],
)
async def test_wrong_requests_name_the_key(tmp_path: Path, head: dict[str, Any], named: str) -> None:
    async with serving(tmp_path) as (node, api):
        with pytest.raises(ConfigError, match=named):
            await lines_of(api, **head)
        assert not node.asked


async def first_line(api: LocalApi, then: Callable[[Any], Any]) -> Any:
    """Reads the first line in a thread, and does `then` with the rest."""

    def read() -> Any:
        lines = api.generate({"model": "writer", "prompt": "Hi"})
        assert next(lines) == {"start": {"job_id": JOB.hex()}}
        return then(lines)

    return await trio.to_thread.run_sync(read)


async def test_a_client_that_goes_stops_the_job(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        node.script.hang_after = 1
        with trio.fail_after(10):
            await first_line(api, lambda lines: lines.close())
            await node.script.stopped.wait()


async def test_stopping_by_name_gives_the_result(tmp_path: Path) -> None:
    async with serving(tmp_path) as (node, api):
        node.script.hang_after = 2

        def stop_and_read(lines: Any) -> list[dict[str, Any]]:
            assert api.post(f"/v1/generate/{JOB.hex()}/stop", {}) == {"stopped": True}
            return list(lines)

        with trio.fail_after(10):
            *_, end = await first_line(api, stop_and_read)
        assert (end["result"]["finish"], end["result"]["price_nanogram"]) == ("caller", 33)
        with pytest.raises(CocoonError, match="no such answer"):
            await trio.to_thread.run_sync(partial(api.post, f"/v1/generate/{JOB.hex()}/stop", {}))
