"""What one turn of a chat leaves for the next, and for nobody else."""

from __future__ import annotations

import numpy as np
import pytest
from generation_rig import GRAPHS, Rig, greedy, text_ids, tiny

from cocoon_p2p.generation import GenerationRequest
from cocoon_p2p.limits import GENERATION_PREFIX_KEPT_S

FIRST = "Tell me of the sea."


def turn(text: str, chat: str = "c", count: int = 12) -> GenerationRequest:
    return GenerationRequest(prompt=text, max_tokens=count, chat=chat)


def expected(graph: str, text: str, count: int = 12) -> list[int]:
    return list(greedy(tiny(graph), tuple(text_ids(text)), count))


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_next_turn_computes_only_what_differs(graph: str) -> None:
    rig = Rig(tiny(graph))
    first = rig.run(turn(FIRST))
    assert first.reused == 0
    assert rig.scheduler.kept == 1
    following = FIRST + first.text + " And of the hills?"
    extended = []
    extend = rig.kv.extend
    rig.kv.extend = lambda row, ids, options: (extended.append(len(ids)), extend(row, ids, options))[1]  # type: ignore[method-assign]
    second = rig.run(turn(following))
    assert second.ids == expected(graph, following)
    assert second.reused == len(FIRST) + 11, "the last token was never fed"
    assert extended[0] == len(following) - second.reused
    assert second.items == len(following) + 12
    again = rig.run(turn(following))
    assert again.ids == second.ids
    assert again.reused == len(following) - 1, "one token is needed for the logits behind it"


def test_a_turn_that_differs_early_keeps_what_is_the_same() -> None:
    rig = Rig(tiny())
    rig.run(turn(FIRST))
    other = rig.run(turn(FIRST[:9] + "my aunt"))
    assert other.reused == 9
    assert other.ids == expected("grouped", FIRST[:9] + "my aunt")
    assert rig.run(turn("x" + FIRST)).reused == 0
    assert rig.scheduler.kept == 1


def test_nothing_is_shared_and_nothing_kept_without_a_name() -> None:
    rig = Rig(tiny())
    rig.run(turn(FIRST), client=b"a")
    assert rig.run(turn(FIRST), client=b"b").reused == 0
    assert rig.run(turn(FIRST, chat="d"), client=b"a").reused == 0
    assert rig.run(turn(FIRST, chat=""), client=b"a").reused == 0
    assert rig.scheduler.kept == 3
    assert rig.run(turn(FIRST), client=b"a").reused == len(FIRST) - 1


def test_it_is_wiped_when_its_time_has_come() -> None:
    rig = Rig(tiny())
    rig.run(turn(FIRST))
    buffer = rig.kv._memory.buffers[0]  # type: ignore[attr-defined]
    assert np.any(buffer)
    assert rig.scheduler.next_expiry() == GENERATION_PREFIX_KEPT_S
    rig.now = GENERATION_PREFIX_KEPT_S
    rig.step()
    assert not np.any(buffer)
    assert (rig.scheduler.kept, rig.kv.bytes_held, rig.scheduler.next_expiry()) == (0, 0, None)
    assert rig.run(turn(FIRST)).reused == 0


def test_the_one_used_longest_ago_goes_first() -> None:
    rig = Rig(tiny(), rows_max=3)
    for chat in ("a", "b", "c"):
        rig.run(turn(FIRST + chat, chat=chat))
    rig.run(turn(FIRST + "a", chat="a"))
    rig.run(turn("something else", chat=""))
    assert rig.scheduler.kept == 2
    assert rig.run(turn(FIRST + "a", chat="a")).reused > 0
    assert rig.run(turn(FIRST + "b", chat="b")).reused == 0


def test_two_answers_of_one_chat_at_a_time() -> None:
    rig = Rig(tiny())
    answers = [rig.add(turn(FIRST)), rig.add(turn(FIRST + " More."))]
    rig.finish()
    assert rig.result(answers[0]).ids == expected("grouped", FIRST)
    assert rig.result(answers[1]).ids == expected("grouped", FIRST + " More.")
    assert rig.scheduler.kept == 1


def test_what_is_reused_of_an_answer_is_none_of_the_prompt() -> None:
    rig = Rig(tiny())
    first = rig.run(turn(FIRST))
    resumed = GenerationRequest(prompt=FIRST, max_tokens=14, chat="c", resume=tuple(first.ids))
    assert rig.run(resumed).reused == len(FIRST)
