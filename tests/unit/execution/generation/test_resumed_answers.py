"""Answers that go on behind another provider's tokens: no gap, no repeat, also where nothing is left to do."""

from __future__ import annotations

import pytest
from generation_rig import Rig, text_ids, tiny

from cocoon_p2p.generation import GenerationRequest


@pytest.fixture(scope="module")
def rig() -> Rig:
    return Rig(tiny())


@pytest.mark.parametrize(
    ("said", "stop", "finish", "text"),
    [
        ("abcd", "cd", "stop", ""),
        ("abcd", "ab", "stop", ""),
        ("abcd", "dx", "length", "d"),
        ("abcd", "ax", "length", ""),
        ("abcd", "bcdx", "length", "bcd"),
    ],
)
def test_what_the_other_held_back_comes_when_all_tokens_are_here(
    rig: Rig, said: str, stop: str, finish: str, text: str
) -> None:
    """The answer had all its tokens, and its provider died before it could say so."""
    request = GenerationRequest(prompt="x", max_tokens=len(said), stop=(stop,), resume=tuple(text_ids(said)))
    result = rig.run(request)
    assert (result.ids, result.finish, result.text) == ([], finish, text)


def test_a_cut_at_any_token_leaves_the_same_text(rig: Rig) -> None:
    whole = GenerationRequest(prompt="Hello wörld", max_tokens=24, temperature=1.0, seed=3, logprobs=2)
    free = rig.run(whole)
    for stop in (free.text[6:9] + "\0", free.text[10:13]):
        request = GenerationRequest(prompt="Hello wörld", max_tokens=24, temperature=1.0, seed=3, stop=(stop,))
        uncut = rig.run(request)
        for count in range(len(uncut.ids)):
            first = rig.add(request)
            while len(rig.result(first).ids) < count:
                rig.step()
            begun = rig.result(first)
            rig.scheduler.cancel(first.number)
            rig.finish()
            rest = rig.run(
                GenerationRequest(
                    prompt="Hello wörld",
                    max_tokens=24,
                    temperature=1.0,
                    seed=3,
                    stop=(stop,),
                    resume=tuple(begun.ids),
                )
            )
            assert begun.text + rest.text == uncut.text, (stop, len(begun.ids))
            assert begun.ids + rest.ids == uncut.ids
            assert rest.finish == uncut.finish


def test_one_that_is_at_its_end_says_so_when_its_prompt_is_paid_for(rig: Rig) -> None:
    request = GenerationRequest(prompt="x", max_tokens=64, resume=tuple(text_ids("abcdefgh")))
    prompt = len(rig.front.answer(0, request.encode().decode(), client=b"", items_max=99, allowed=0, now=0.0).ids)
    answer = rig.add(request, items_max=prompt, allowed=prompt - 1)
    assert not rig.scheduler.has_work
    assert rig.step() == []
    rig.scheduler.allow(answer.number, prompt)
    rig.finish()
    assert rig.result(answer).finish == "length"
    stopped = rig.add(request, items_max=prompt, allowed=0)
    rig.scheduler.stop(stopped.number)
    rig.finish()
    assert rig.result(stopped).finish == "length"
