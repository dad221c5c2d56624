"""Answers that are decoded together are those that would have been decoded alone, whenever each of them came."""

from __future__ import annotations

import numpy as np
import pytest
from generation_rig import GRAPHS, KV_DTYPES, Rig, greedy, special, text_ids, tiny

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.generation import GenerationRequest

PROMPTS = [
    "hello",
    "what is the capital of France?",
    "x",
    "In the beginning was the word, and the word was with someone.",
    "0123456789" * 9,
    "pi is",
    "colourless green ideas sleep furiously",
    "an and and an and",
]
COUNTS = [30, 41, 7, 25, 33, 1, 50, 18]


def request(text: str, count: int, **more: object) -> GenerationRequest:
    return GenerationRequest(prompt=text, max_tokens=count, **more)  # type: ignore[arg-type]


def expected(folder: object, text: str, count: int) -> list[int]:
    return list(greedy(folder, tuple(text_ids(text)), count))  # type: ignore[arg-type]


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("rows", range(1, 9))
def test_staggered_answers_equal_plain_generation(graph: str, kv_dtype: str, rows: int) -> None:
    folder = tiny(graph, kv_dtype)
    rig = Rig(folder, rows_max=rows)
    answers = []
    for text, count in zip(PROMPTS, COUNTS, strict=True):
        answers.append(rig.add(request(text, count)))
        rig.step()
        rig.step()
    rig.finish()
    for answer, text, count in zip(answers, PROMPTS, COUNTS, strict=True):
        result = rig.result(answer)
        assert result.ids == expected(folder, text, count), text
        assert (result.finish, result.prompt_tokens) == ("length", len(text.encode()))
        assert result.items == len(text.encode()) + count
    assert rig.kv.bytes_held == 0
    if rows > 1 and graph != "plain":
        assert max(map(len, rig.runs.runs)) == min(rows, 6)


def test_the_answers_vary() -> None:
    """Else these tests would compare nothing."""
    for text in PROMPTS:
        assert len(set(expected(tiny(), text, 50))) >= 15


def test_each_answer_advances_each_step() -> None:
    rig = Rig(tiny(), rows_max=4)
    for text in PROMPTS[:4]:
        rig.add(request(text, 20))
    rig.step()
    for _ in range(10):
        assert sorted(event.number for event in rig.step()) == [1, 2, 3, 4]


def test_a_long_prompt_is_worked_on_in_parts_while_others_go_on() -> None:
    rig = Rig(tiny(), rows_max=2)
    rig.scheduler._pace.tokens = lambda seconds, before: 50  # type: ignore[method-assign]
    rig.scheduler._pace.seconds = lambda *, alone: 1.0  # type: ignore[method-assign]
    first = rig.add(request("hello", 40))
    rig.step()
    extend = rig.kv.extend

    def slow(*arguments: object) -> object:
        rig.now += 1.0
        return extend(*arguments)  # type: ignore[arg-type]

    rig.kv.extend = slow  # type: ignore[method-assign, assignment]
    long = "The quick brown fox. " * 20
    second = rig.add(request(long, 5))
    steps = 0
    while not rig.events[second.number]:
        assert first.number in {event.number for event in rig.step()}
        steps += 1
    assert steps == -(-len(long) // 50)
    rig.finish()
    assert rig.result(first).ids == expected(tiny(), "hello", 40)
    assert rig.result(second).ids == expected(tiny(), long, 5)


def test_an_answer_pauses_where_its_allowance_ends() -> None:
    rig = Rig(tiny())
    answer = rig.add(request("hello", 30), allowed=5)
    other = rig.add(request("x", 30))
    rig.finish()
    assert not rig.events[answer.number], "nothing is worked on that is not paid for"
    rig.scheduler.allow(answer.number, 12)
    rig.finish()
    assert rig.result(answer).items == 12
    assert rig.result(answer).finish is None
    rig.scheduler.allow(answer.number, 7)
    assert not rig.scheduler.has_work
    rig.scheduler.allow(answer.number, 1000)
    rig.finish()
    assert rig.result(answer).ids == expected(tiny(), "hello", 30)
    assert rig.result(other).ids == expected(tiny(), "x", 30)


def test_a_paused_answer_gives_way_and_comes_back() -> None:
    rig = Rig(tiny(), rows_max=1)
    first = rig.add(request("hello", 30), allowed=15)
    second = rig.add(request("x", 10))
    rig.finish()
    assert rig.result(second).ids == expected(tiny(), "x", 10)
    assert len(rig.result(first).ids) == 10
    rig.scheduler.allow(first.number, 1000)
    rig.finish()
    assert rig.result(first).ids == expected(tiny(), "hello", 30)


def test_who_has_paused_for_longest_gives_way() -> None:
    rig = Rig(tiny(), rows_max=2)
    answers = []
    for text in ("hello", "aloha"):
        answers.append(rig.add(request(text, 30), allowed=10))
        rig.finish()
        rig.now += 1
    rig.add(request("x", 3))
    rig.finish()
    assert [answer.row is not None for answer in answers] == [False, True]


@pytest.mark.parametrize("graph", ["grouped", "plain"])
def test_memory_is_bounded_and_the_answers_are_the_same(graph: str) -> None:
    folder = tiny(graph)
    rig = Rig(folder, rows_max=8, tokens_max=600)
    bound = 600 * rig.spec.kv_bytes_per_token
    counts = [200, 190, 260, 150, 240, 100, 300, 220]
    answers = [rig.add(request(text, count)) for text, count in zip(PROMPTS, counts, strict=True)]
    most = 0
    while rig.scheduler.has_work:
        rig.step()
        assert rig.kv.bytes_held <= bound
        most = max(most, len({event.number for event in rig.scheduler._events}))
    assert most > 1
    for answer, text, count in zip(answers, PROMPTS, counts, strict=True):
        assert rig.result(answer).ids == expected(folder, text, count)
        assert rig.result(answer).finish == "length"


def test_an_answer_that_outgrows_the_memory_ends_there() -> None:
    rig = Rig(tiny(), tokens_max=300)
    result = rig.run(request("hello", 500))
    assert result.finish == "length"
    assert result.ids == expected(tiny(), "hello", 500)[: len(result.ids)]
    assert 250 < result.items <= 301
    with pytest.raises(ExecutionError, match="no memory") as caught:
        rig.add(request("x" * 400, 5))
    assert caught.value.code == "LIMITS"


@pytest.mark.parametrize(("items_max", "wanted"), [(12, 7), (5, 0), (2000, 1019)])
def test_answers_end_at_what_was_agreed_and_at_the_context(items_max: int, wanted: int) -> None:
    rig = Rig(tiny())
    result = rig.run(request("hello", 5000), items_max=items_max)
    assert result.finish == "length"
    assert result.ids == expected(tiny(), "hello", wanted)


def test_prompts_that_are_too_long_are_refused() -> None:
    rig = Rig(tiny())
    for items_max, text in ((4, "hello"), (10_000, "x" * 1025), (10_000, "x" * 100_000)):
        with pytest.raises(ExecutionError) as caught:
            rig.add(request(text, 5), items_max=items_max)
        assert caught.value.code == "ITEMS"


def test_a_prompt_that_is_far_too_long_is_not_counted_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs nothing to send one, and whoever has an answer made would wait meanwhile."""
    rig = Rig(tiny())
    counted = 0
    encode = rig.front.codec.encode

    def counting(text: str, *, special: bool) -> list[int]:
        nonlocal counted
        ids = encode(text, special=special)
        counted += len(ids)
        return ids

    monkeypatch.setattr(rig.front.codec, "encode", counting)
    long = 60 * 1024
    for text in ("x" * long, "<|eos|>" * 500 + "x" * long):
        counted = 0
        with pytest.raises(ExecutionError) as caught:
            rig.add(request(text, 5))
        assert caught.value.code == "ITEMS"
        assert counted < 12_000
    sparse = "<|eos|>" * 1010 + "xyz"
    assert len(sparse) > 6 * 1024
    assert rig.add(request(sparse, 5)).prompt_tokens == len(encode(sparse, special=True))


def test_the_end_token_ends_an_answer() -> None:
    rig = Rig(tiny())
    ids = expected(tiny(), "hello", 30)
    end = ids[12]
    rig.front.spec = rig.spec.__class__(
        **{name: getattr(rig.spec, name) for name in rig.spec.__slots__} | {"eos_ids": (end,)}
    )
    result = rig.run(request("hello", 30))
    assert result.finish == "stop"
    assert result.ids == ids[: ids.index(end) + 1]


def test_stopping_ends_with_what_was_made() -> None:
    rig = Rig(tiny())
    answer = rig.add(request("hello", 1000))
    other = rig.add(request("x", 20))
    waiting = rig.add(request("y", 20), allowed=0)
    for _ in range(5):
        rig.step()
    for number in (answer.number, waiting.number):
        rig.scheduler.stop(number)
    rig.step()
    made = rig.result(answer)
    assert made.finish == "caller"
    assert made.ids == expected(tiny(), "hello", 1000)[: len(made.ids)]
    assert made.items == len("hello") + len(made.ids)
    assert (rig.result(waiting).finish, rig.result(waiting).items) == ("caller", 0)
    rig.finish()
    assert rig.result(other).ids == expected(tiny(), "x", 20)


def test_cancelling_ends_one_and_not_the_others() -> None:
    rig = Rig(tiny())
    answer, other = rig.add(request("hello", 1000)), rig.add(request("x", 20))
    rig.step()
    rig.runs.cancelled.add(answer.number)
    rig.finish()
    error = rig.result(answer).error
    assert error is not None
    assert error.code == "CANCELLED"
    assert rig.result(other).ids == expected(tiny(), "x", 20)
    assert rig.kv.bytes_held == 0


def test_a_failing_model_fails_its_answers_only_one_by_one() -> None:
    rig = Rig(tiny())
    answers = [rig.add(request(text, 20)) for text in PROMPTS[:3]]
    rig.step()
    step = rig.kv.step

    def failing(rows: list[object], ids: list[int], options: object) -> object:
        if answers[1].row in rows:
            raise RuntimeError("no such luck")
        return step(rows, ids, options)  # type: ignore[arg-type]

    rig.kv.step = failing  # type: ignore[method-assign, assignment]
    rig.finish()
    error = rig.result(answers[1]).error
    assert error is not None
    assert (error.code, error.message) == ("MODEL", "the model failed: no such luck")
    for answer, text in ((answers[0], PROMPTS[0]), (answers[2], PROMPTS[2])):
        assert rig.result(answer).ids == expected(tiny(), text, 20)


def test_numbers_that_are_none_fail_the_answer() -> None:
    rig = Rig(tiny())
    answer = rig.add(request("hello", 20))
    rig.step()
    rig.kv.step = lambda rows, ids, options: np.full((1, rig.spec.vocab), np.nan, np.float32)  # type: ignore[method-assign]
    rig.finish()
    error = rig.result(answer).error
    assert error is not None
    assert error.code == "MODEL"


def test_slots_shrink_when_a_long_answer_has_gone() -> None:
    rig = Rig(tiny(), rows_max=32)
    assert rig.run(request("hello", 900)).finish == "length"
    assert rig.kv.bytes_held == 0


def test_chats_go_through_the_template() -> None:
    rig = Rig(tiny())
    result = rig.run(GenerationRequest(messages=({"role": "user", "content": "hello"},), max_tokens=9))
    ids = [special("bos"), special("user"), *text_ids("hello"), special("eos"), special("assistant")]
    assert result.ids == list(greedy(tiny(), tuple(ids), 9))
