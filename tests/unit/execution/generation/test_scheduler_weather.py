"""Answers that come, pause, go on, are stopped and cancelled at random, with too little memory for all: each is as if alone."""

from __future__ import annotations

import random

import pytest
from generation_rig import Rig, greedy, special, text_ids, tiny

from cocoon_p2p.execution.generation.answer import Answer
from cocoon_p2p.generation import GenerationRequest

TEXTS = ["sea", "the hills are far", "0123456789" * 7, "x", "what of it? " * 11, "an answer"]
LONGEST = 330


def expected(graph: str, text: str) -> list[int]:
    return list(greedy(tiny(graph), tuple(text_ids(text)), LONGEST))


@pytest.mark.parametrize(("graph", "seed"), [*(("grouped", seed) for seed in range(6)), ("plain", 4)])
def test_each_answer_is_as_if_alone(graph: str, seed: int) -> None:
    rng = random.Random(seed)
    rig = Rig(tiny(graph), rows_max=rng.randint(1, 5), tokens_max=rng.randint(530, 1200))
    rig.scheduler._pace.tokens = lambda seconds, before: 40  # type: ignore[method-assign]
    rig.scheduler._pace.seconds = lambda *, alone: 1.0  # type: ignore[method-assign]
    asked: list[tuple[Answer, str, int]] = []
    cut: set[int] = set()
    for turn in range(120):
        rig.now += 0.3
        what = rng.random()
        if what < 0.25 and turn < 80:
            text, count = rng.choice(TEXTS), rng.choice([3, 40, LONGEST])
            split = rng.choice([0, 0, 2])
            request = GenerationRequest(
                prompt=text,
                max_tokens=count,
                chat=rng.choice(["", "", "a", "b"]),
                resume=tuple(expected(graph, text)[:split]),
            )
            asked.append((rig.add(request, allowed=rng.choice([0, 60, 10**6])), text, count))
        elif asked and what < 0.6:
            answer = rng.choice(asked)[0]
            rig.scheduler.allow(answer.number, len(answer.ids) + rng.randint(1, 80))
        elif asked and what < 0.64:
            answer = rng.choice(asked)[0]
            cut.add(answer.number)
            rng.choice([rig.scheduler.stop, rig.scheduler.cancel, rig.runs.cancelled.add])(answer.number)
        for _ in range(rng.randint(1, 6)):
            rig.step()
        assert rig.kv.bytes_held <= 1200 * rig.spec.kv_bytes_per_token
    for answer, _, _ in asked:
        rig.scheduler.allow(answer.number, 10**6)
    for _ in range(10_000):
        rig.step()
        if not rig.scheduler.has_work:
            break
    assert rig.scheduler.answers == 0
    for answer, text, count in asked:
        wanted, ids = expected(graph, text)[:count], answer.ids[len(text) :]
        assert ids == wanted[: len(ids)]
        told = rig.result(answer)
        assert told.ids == ids[len(answer.request.resume) :]
        if answer.number not in cut:
            assert told.finish == "length"
            assert len(ids) == count or not rig.kv.holds(len(answer.ids) + 1)
    rig.now += 1000.0
    rig.step()
    assert rig.kv.bytes_held == 0


def test_calls_of_tools_are_told_apart_where_a_token_marks_them() -> None:
    tools = ({"name": "weather"},)
    chat = ({"role": "user", "content": "?"},)
    for given, finish in ((tools, "tool_calls"), ((), "stop")):
        rig = Rig(tiny())
        request = GenerationRequest(messages=chat, tools=given, resume=(special("tool_call"), special("eos")))
        assert rig.run(request).finish == finish
    rig = Rig(tiny())
    request = GenerationRequest(messages=chat, tools=tools, resume=(*text_ids("no"), special("eos")))
    assert rig.run(request).finish == "stop"
