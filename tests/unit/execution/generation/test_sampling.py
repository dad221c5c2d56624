"""Which token comes next."""

from __future__ import annotations

import json
import math
from collections import Counter

import numpy as np
import pytest
from generation_rig import GRAPHS, Rig, greedy, text_ids, tiny
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.generation.sampling import Sampling, draw, likeliest, logprobs, nucleus
from cocoon_p2p.execution.generation.sampling import drawn as drawn_at
from cocoon_p2p.generation import GenerationRequest

LOGITS = np.log(np.array([0.05, 0.4, 0.05, 0.3, 0.2], np.float32))


def drawn(logits: np.ndarray, count: int = 2000, **how: float) -> Counter[int]:
    sampling = Sampling(how.get("temperature", 1.0), int(how.get("top_k", 0)), how.get("top_p", 1.0), seed=3)
    return Counter(sampling.choose(logits, position) for position in range(count))


def test_greedy_takes_the_first_of_equals() -> None:
    assert Sampling(0.0, 0, 1.0, 0).choose(np.array([1, 3, 3, 2], np.float32), 0) == 1
    assert Sampling(0.0, 0, 1.0, 0).choose(np.array([1, 3, 3, 2], np.float32), 0, np.array([1, 0, 1, 1], bool)) == 2


def test_draws_follow_the_probabilities() -> None:
    counts = drawn(LOGITS)
    for token, probability in enumerate(np.exp(LOGITS)):
        assert abs(counts[token] / 2000 - probability) < 0.04
    hot = drawn(LOGITS, temperature=2.0)
    assert hot[0] > counts[0] * 1.3


def test_top_k_and_top_p_leave_the_likeliest() -> None:
    assert set(drawn(LOGITS, top_k=2)) == {1, 3}
    assert set(drawn(LOGITS, top_p=0.5)) == {1, 3}
    assert set(drawn(LOGITS, top_p=0.39)) == {1}
    assert set(drawn(LOGITS, top_k=3, top_p=0.75)) == {1, 3}, "top_p is of what top_k left"
    assert set(drawn(LOGITS, top_p=0.0)) == {1}
    assert set(drawn(np.zeros(2000, np.float32), top_p=0.9)) == set(drawn(np.zeros(1800, np.float32)))


@pytest.mark.parametrize("temperature", [5e-324, 1e-46, 1e-40, 1e-38])
@pytest.mark.parametrize("top_k", [0, 3])
@pytest.mark.parametrize("top_p", [1.0, 0.5, 1e-320])
def test_the_coldest_temperatures_take_the_likeliest(temperature: float, top_k: int, top_p: float) -> None:
    """They come from clients: none may end the process in which others' answers are made, too."""
    for logits in (LOGITS, np.array([3e38, -3e38, 0, -np.inf], np.float32)):
        counts = drawn(logits, count=50, temperature=temperature, top_k=top_k, top_p=top_p)
        assert set(counts) == {int(logits.argmax())}
    ties = drawn(np.array([0, 2, 1, 2], np.float32), count=200, temperature=temperature)
    assert set(ties) == {1, 3}


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 2.5]), min_size=1, max_size=30), st.integers(1, 30))
def test_the_likeliest_are_those_of_a_stable_sort(weights: list[float], count: int) -> None:
    wanted = sorted(range(len(weights)), key=lambda i: (-weights[i], i))[:count]
    assert likeliest(np.array(weights), count).tolist() == wanted


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=1, max_size=700), st.floats(0, 1, exclude_max=True))
def test_a_draw_falls_where_the_sum_passes_it(weights: list[float], number: float) -> None:
    values = np.array([*weights, 1.0], np.float32)
    place = drawn_at(values, number)
    goal = number * float(values.sum(dtype=np.float64))
    assert values[place] > 0
    assert values[:place].sum(dtype=np.float64) <= goal < values[: place + 1].sum(dtype=np.float64)


@given(st.lists(st.sampled_from([0.001, 0.5, 1.0, 3.0]), min_size=1, max_size=60), st.floats(0.01, 0.999))
def test_a_nucleus_is_the_fewest_that_have_the_share(weights: list[float], share: float) -> None:
    values = np.array(weights, np.float32)
    order = sorted(range(len(weights)), key=lambda i: (-values[i], i))
    wanted: list[int] = []
    while not wanted or values[wanted].sum(dtype=np.float64) < share * values.sum(dtype=np.float64):
        wanted.append(order[len(wanted)])
    assert nucleus(values, share).tolist() == sorted(wanted)


def test_draws_are_philox_of_seed_and_position_alone() -> None:
    assert draw(7, 0) == draw(7, 0) != draw(7, 1)
    assert [draw(0, 0), draw(1, 0), draw(2**63 - 1, 1000)] == pytest.approx(KNOWN_DRAWS, abs=0)


KNOWN_DRAWS = [0.011546754286331562, 0.3035680343067586, 0.031019535562844314]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_numbers_are_the_models_fault(value: float) -> None:
    with pytest.raises(ExecutionError) as caught:
        Sampling(1.0, 0, 1.0, 0).choose(np.array([0.0, value], np.float32), 0)
    assert caught.value.code == "MODEL"


def test_logprobs_are_of_the_whole_vocabulary() -> None:
    own, top = logprobs(LOGITS, 3, 5)
    assert own == round(math.log(0.3) * 1e6)
    assert [token for token, _ in top] == [1, 3, 4, 0, 2]
    assert sum(math.exp(micro / 1e6) for _, micro in top) == pytest.approx(1, abs=1e-5)
    assert logprobs(np.array([0.0, -np.inf], np.float32), 1, 0) == (-(10**9), [])


def test_logprobs_of_an_answer() -> None:
    result = Rig(tiny()).run(GenerationRequest(prompt="hello", max_tokens=12, logprobs=20))
    for token in result.tokens:
        assert token.logprob is not None
        assert token.top[0][0] == token.id
        assert token.top[0][2] == token.logprob
        assert len(token.top) == 20
        assert 0.05 < sum(math.exp(micro / 1e6) for _, _, micro in token.top) <= 1.00001
    result = Rig(tiny()).run(GenerationRequest(prompt="hello", max_tokens=3, logprobs=0, temperature=1.0))
    assert all(token.logprob is not None and token.top == () for token in result.tokens)


@pytest.mark.parametrize("graph", GRAPHS)
def test_seeds_reproduce_at_every_batch_size_and_wherever_an_answer_is_resumed(graph: str) -> None:
    def request(seed: int, resume: tuple[int, ...] = ()) -> GenerationRequest:
        return GenerationRequest(
            prompt="hello", max_tokens=16, temperature=1.1, top_p=0.95, top_k=50, seed=seed, resume=resume, stop=("zq",)
        )

    alone = {seed: Rig(tiny(graph), rows_max=1).run(request(seed)) for seed in range(6)}
    assert len({tuple(result.ids) for result in alone.values()}) == 6
    for rows in (2, 3, 8):
        rig = Rig(tiny(graph), rows_max=rows)
        answers = {seed: rig.add(request(seed)) for seed in alone}
        rig.finish()
        for seed, answer in answers.items():
            assert rig.result(answer).ids == alone[seed].ids
    whole = alone[0]
    for split in range(1, len(whole.ids)):
        rest = Rig(tiny(graph)).run(request(0, tuple(whole.ids[:split])))
        assert rest.ids == whole.ids[split:]
        before = "".join(e.piece.text for e in whole.events[:split] if e.piece is not None)
        assert before + rest.text == whole.text
        assert rest.items == whole.items
        assert (rest.finish, rest.prompt_tokens) == (whole.finish, 5)
    over = Rig(tiny(graph)).run(request(0, tuple(whole.ids)))
    assert (over.ids, over.finish, over.items) == ([], whole.finish, 0)


def test_stop_strings_end_an_answer_before_them() -> None:
    ids = greedy(tiny(), tuple(text_ids("hello")), 60)
    text = bytes(token - 9 for token in ids[:25]).decode()
    stop = text[20:23]
    place = text.find(stop)
    result = Rig(tiny()).run(GenerationRequest(prompt="hello", max_tokens=60, stop=(stop, "nowhere")))
    assert (result.text, result.finish) == (text[:place], "stop")
    assert len(result.ids) == place + 3
    held = Rig(tiny()).run(GenerationRequest(prompt="hello", max_tokens=22, stop=(text[20:23],)))
    assert (held.text, held.finish) == (text[:22], "length"), "what was held back comes at the end"


def test_json_follows_its_schema_at_any_temperature() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    rig = Rig(tiny())
    answers = [
        rig.add(GenerationRequest(prompt="x", max_tokens=90, json_schema=schema, temperature=t, seed=seed))
        for t, seed in ((0.0, 0), (1.0, 1), (2.0, 2), (2.0, 3))
    ]
    free = rig.add(GenerationRequest(prompt="hello", max_tokens=20))
    rig.finish()
    for answer in answers:
        result = rig.result(answer)
        assert result.finish == "stop"
        tree = json.loads(result.text)
        assert set(tree) == {"name", "age"}
        assert len(tree["name"]) <= 8
        assert type(tree["age"]) is int
    assert rig.result(free).ids == list(greedy(tiny(), tuple(text_ids("hello")), 20))


def test_regex_and_resume_within_it() -> None:
    request = GenerationRequest(prompt="x", max_tokens=90, regex="(ab|cd){3}[0-9]{2}é", temperature=1.0)
    whole = Rig(tiny()).run(request)
    assert len(whole.text) == 9
    assert whole.text.endswith("é")
    for split in range(1, len(whole.ids)):
        resumed = GenerationRequest(
            prompt="x", max_tokens=90, regex=request.regex, temperature=1.0, resume=tuple(whole.ids[:split])
        )
        assert Rig(tiny()).run(resumed).ids == whole.ids[split:]
    wrong = GenerationRequest(prompt="x", regex="[0-9]+", resume=tuple(text_ids("no")))
    with pytest.raises(ExecutionError, match="does not follow") as caught:
        Rig(tiny()).add(wrong)
    assert caught.value.code == "INPUT"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"json_schema": {"type": "wrong"}}, "json_schema is not understood: Invalid type: wrong"),
        ({"json_schema": {"not": {"type": "string"}, "unevaluatedProperties": False}}, "Unimplemented keys"),
        ({"regex": "(a|b"}, "unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
    ],
)
def test_grammars_that_are_not_understood_say_why(wrong: dict[str, object], why: str) -> None:
    with pytest.raises(ExecutionError, match=why) as caught:
        Rig(tiny()).add(GenerationRequest(prompt="x", **wrong))  # type: ignore[arg-type]
    assert caught.value.code == "INPUT"
