"""A generation model in a worker process: its answers, and what comes of it when it is stopped, left, or killed."""

from __future__ import annotations

import os
import signal
import time

import pytest
import trio
from generation_rig import greedy, text_ids, tiny
from served_rig import Served, installed, read, serving

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.generation import GenerationRequest, parse_piece
from cocoon_p2p.tensors import Payload, Tensor

pytestmark = pytest.mark.slow


def request(text: str, count: int, **more: object) -> GenerationRequest:
    return GenerationRequest(prompt=text, max_tokens=count, **more)  # type: ignore[arg-type]


def expected(text: str, count: int) -> list[int]:
    return list(greedy(tiny(), tuple(text_ids(text)), count))


async def test_answers_of_one_worker() -> None:
    async with serving(queue_max=12) as rig:
        await _answers_of_many_clients(rig)
        await _what_a_reader_misses_comes_together(rig)
        await _pauses_at_its_allowance(rig)
        await _errors_of_requests(rig)
        await _turns_of_one_chat(rig)
        await _an_answer_goes_on_elsewhere(rig)
        await _the_queue_is_bounded(rig)
        await _a_worker_that_dies_takes_its_answers_along_and_comes_back(rig)


async def _answers_of_many_clients(rig: Served) -> None:
    texts = {f"prompt number {number}, of some length": 20 + number for number in range(12)}
    found = {}

    async def one(text: str, count: int) -> None:
        async with await rig.generate(request(text, count)) as stream:
            assert stream.prompt_items == len(text)
            found[text] = await read(stream)

    async with trio.open_nursery() as nursery:
        for text, count in texts.items():
            nursery.start_soon(one, text, count)
    served = rig.served
    assert (served.queued, served.running, served.jobs_done) == (0, 0, len(texts))
    assert served.items_done == sum(len(text) + count for text, count in texts.items())
    assert served.item_s is not None
    assert served.item_s > 0
    for text, count in texts.items():
        result = found[text]
        assert (result.ids, result.finish) == (expected(text, count), "length")
        assert result.items == len(text) + count
        assert result.produced[-1].execute_s > 0


async def _what_a_reader_misses_comes_together(rig: Served) -> None:
    async with await rig.generate(request("hello", 60)) as stream:
        await stream.ended.wait()
        only = await read(stream)
        assert len(only.produced) == 1
        assert only.ids == expected("hello", 60)


async def _pauses_at_its_allowance(rig: Served) -> None:
    async with await rig.generate(request("hello", 40), allowed=15) as stream:
        produced = [await stream.receive()]
        while produced[-1].items < 15:
            produced.append(await stream.receive())
        with trio.move_on_after(0.1) as scope:
            await stream.receive()
        assert scope.cancelled_caught
        stream.allow(1000)
        rest = await read(stream)
        ids = [token.id for each in produced for token in parse_piece(each.data).tokens] + rest.ids
        assert ids == expected("hello", 40)


async def _errors_of_requests(rig: Served) -> None:
    for wrong, code in (
        (request("x" * 2000, 5), "ITEMS"),
        (request("hello", 5, regex="(a"), "INPUT"),
        (GenerationRequest(messages=({"role": "nobody", "content": ""},)), "INPUT"),
        (request("hello", 5, resume=(70_000,)), "INPUT"),
        (GenerationRequest(), "INPUT"),
    ):
        with pytest.raises(ExecutionError) as caught:
            await rig.generate(wrong)
        assert caught.value.code == code

    class Wrong(GenerationRequest):
        def payload(self) -> Payload:
            return Payload((Tensor("x", "int64", (1,), bytes(8)),))

    with pytest.raises(ExecutionError, match="one string tensor 'generate'") as caught:
        rig.submit(Wrong())
    assert caught.value.code == "INPUT"
    assert rig.served.running == 0


async def _turns_of_one_chat(rig: Served) -> None:
    first = await read(await rig.generate(request("the first turn", 10, chat="c"), client="a"))
    turn = request("the first turn" + "x", 10, chat="c")
    assert (await read(await rig.generate(turn, client="b"))).reused == 0, "nothing is shared between clients"
    assert (await read(await rig.generate(turn))).reused == 0
    second = await read(await rig.generate(turn, client="a"))
    assert first.reused == 0
    assert second.reused == len("the first turn")
    assert second.ids == expected("the first turn" + "x", 10)


async def _an_answer_goes_on_elsewhere(rig: Served) -> None:
    drawn = {"temperature": 1.0, "seed": 7, "logprobs": 2}
    whole = await read(await rig.generate(request("hello", 30, **drawn)))
    again = await read(await rig.generate(request("hello", 30, **drawn, resume=tuple(whole.ids[:11]))))
    assert again.ids == whole.ids[11:]
    assert whole.text.endswith(again.text)
    tokens = [token for piece in whole.pieces for token in piece.tokens]
    assert all(token.logprob is not None and len(token.top) == 2 for token in tokens)


async def _the_queue_is_bounded(rig: Served) -> None:
    streams = [rig.submit(request("hello", 900), allowed=5) for _ in range(12)]
    with pytest.raises(ExecutionError) as caught:
        rig.submit(request("hello", 5))
    assert caught.value.code == "BUSY"
    for stream in streams:
        stream.abandon()
    with trio.fail_after(5):
        for stream in streams:
            await stream.ended.wait()
    assert rig.worker.pid is not None


async def _a_worker_that_dies_takes_its_answers_along_and_comes_back(rig: Served) -> None:
    streams = [await rig.generate(request(text, 900)) for text in ("hello", "x")]
    for stream in streams:
        await stream.receive()
    pid = rig.worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    for stream in streams:
        with pytest.raises(ExecutionError, match="SIGKILL") as caught:
            await read(stream)
        assert caught.value.code == "WORKER"
        assert caught.value.retryable
    with trio.fail_after(20):
        again = await read(await rig.generate(request("hello", 10)))
    assert again.ids == expected("hello", 10)
    assert time.perf_counter() - began < 15


async def test_stopping_and_leaving_are_quick() -> None:
    model = installed(hidden=512, layers=4, heads=8, kv_heads=4, ffn=2048, context=32768)
    async with serving(model) as rig:
        stream = await rig.generate(request("hello", 30_000))
        await stream.receive()
        stream.stop()
        result = await _soon(read, stream)
        assert result.finish == "caller"
        # In the midst of a prompt, too.
        stream = await rig.generate(request("0123456789" * 3000, 30))
        await trio.sleep(0.2)
        stream.stop()
        result = await _soon(read, stream)
        assert (result.finish, result.ids) == ("caller", [])
        assert 0 <= result.items < 30_000
        # Whoever leaves lets the others go on.
        leaving = await rig.generate(request("0123456789" * 3000, 30))
        other = await rig.generate(request("hello", 3))
        await trio.sleep(0.2)
        async with leaving:
            pass
        await _soon(leaving.ended.wait)
        assert len((await read(other)).ids) == 3
        assert rig.worker.pid is not None


async def _soon(what, *arguments):  # type: ignore[no-untyped-def]
    """0.1 s, and what a busy machine adds; what was stopped would go on for a minute."""
    with trio.fail_after(5):
        return await what(*arguments)
