"""How long an answer waits for its place among those that are decoded together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from generation_rig import Rig, spec_of, tiny

from cocoon_p2p.execution.answer_wait import StepPace, steps_until_place
from cocoon_p2p.execution.device import CPU, ChosenDevice
from cocoon_p2p.execution.generator_stream import GeneratorStream
from cocoon_p2p.execution.pipe import Tag
from cocoon_p2p.execution.port import Device
from cocoon_p2p.execution.served_generator import ServedGenerator
from cocoon_p2p.execution.worker_link import ModelSettings
from cocoon_p2p.generation import GenerationRequest, Piece, Token
from cocoon_p2p.ids import ModelId

ONE = Piece((Token(5),), "x").encode()
LAST = Piece((Token(5),), "x", "stop").encode()


@pytest.mark.parametrize(
    "counts", [[], [9, 4], [9, 4, 7], [9, 4, 7, 3], [9, 4, 7, 3, 5, 8], [2, 30, 30, 9, 9, 9, 1], [5, 5, 5, 5, 5, 5, 5]]
)
def test_the_steps_are_those_that_the_scheduler_takes(counts: list[int]) -> None:
    """With three places, and nobody who ends before he must."""
    rig = Rig(tiny(), rows_max=3)
    for count in counts:
        rig.add(GenerationRequest(prompt="hello", max_tokens=count))
    newcomer = rig.add(GenerationRequest(prompt="hello", max_tokens=5))
    steps = 0
    while not newcomer.started:
        rig.step()
        steps += 1
    needs = [count - 1 for count in counts]  # the step that ends a prompt draws two tokens
    assert steps - 1 == steps_until_place(3, needs)


def test_a_pace_is_of_steps_under_way() -> None:
    pace = StepPace()
    pace.note(1, 100.0)
    first = pace.step_s
    assert first is None
    pace.note(0, 100.3)
    pace.note(1, 100.5)
    assert pace.step_s == 0.5
    for at in range(101, 200):
        pace.note(4, at)  # four of them were read together
    assert pace.step_s == pytest.approx(0.25)
    pace.rest()
    pace.note(1, 300.0)
    assert pace.step_s == pytest.approx(0.25), "nobody had anything to do"


class Wait:
    """A generation model whose worker says what the test says."""

    def __init__(self, rows: int, *, kv_bytes_max: int = 1 << 30) -> None:
        manifest = SimpleNamespace(generation=spec_of(tiny()), size=0)
        self.served = ServedGenerator(
            ModelId("ab" * 32),
            manifest,  # type: ignore[arg-type]
            ModelSettings(1, 1, 1, 100),
            rows_max=rows,
            kv_bytes_max=kv_bytes_max,
        )
        self.worker = self.served.add_worker(Path(), ChosenDevice(Device("cpu", ""), CPU))
        self.items: dict[int, int] = {}

    def begin(self, prompt: int, answer: int, *, paid: int | None = None) -> GeneratorStream:
        number, most = len(self.items) + 1, prompt + answer
        stream = GeneratorStream(
            number, "{}", client=b"", items_max=most, items_allowed=most if paid is None else paid, maker=self.served
        )
        stream.hand_to(self.worker)
        self.worker.handed[number] = stream
        self.items[number] = prompt
        self.worker._take_all([[Tag.BEGUN, number, prompt]])
        return stream

    async def steps(self, count: int, step_s: float, *numbers: int, last: bool = False) -> None:
        for left in range(count, 0, -1):
            await trio.sleep(step_s)
            entries: list[object] = []
            for number in numbers:
                self.items[number] += 1
                entries.append([number, LAST if last and left == 1 else ONE, self.items[number], 10, 10])
            self.worker._take_all([[Tag.PRODUCED, entries]])


async def test_an_answer_waits_for_none_where_there_is_a_place(autojump_clock: trio.testing.MockClock) -> None:
    model = Wait(3)
    assert (model.served.wait_s, model.served.next_end_s) == (0, None)
    model.begin(prompt=1, answer=500)
    model.begin(prompt=100, answer=60)
    await model.steps(11, 0.25, 1, 2)
    assert model.served.wait_s == 0
    assert model.served.next_end_s == pytest.approx((60 - 11) * 0.25)
    third = model.begin(prompt=9, answer=20)
    await model.steps(1, 0.25, 1, 2, 3)
    assert model.served.wait_s == pytest.approx(19 * 0.25), "until the third is at its end"
    model.begin(prompt=9, answer=40)
    assert model.served.wait_s == pytest.approx(48 * 0.25), (
        "the fourth has the third's place then, and needs it for longer"
    )
    third.stop()
    assert model.served.wait_s == pytest.approx(40 * 0.25)
    await model.steps(10, 1.0, 1, 2, last=True)
    assert (len(model.worker.handed), model.served.wait_s) == (2, 0)


async def test_an_answer_that_is_not_paid_for_gives_its_place_up(autojump_clock: trio.testing.MockClock) -> None:
    model = Wait(1)
    stream = model.begin(prompt=5, answer=100, paid=9)
    await model.steps(3, 0.5, 1)
    assert model.served.wait_s == pytest.approx(97 * 0.5), "it may be paid for to its end"
    await model.steps(1, 0.5, 1)
    assert model.served.wait_s == 0
    await trio.sleep(100)
    stream.allow(50)
    await model.steps(2, 0.5, 1)
    assert model.served.wait_s == pytest.approx(94 * 0.5), "a pause is no slow step"


async def test_places_are_fewer_where_memory_is_short(autojump_clock: trio.testing.MockClock) -> None:
    model = Wait(8, kv_bytes_max=200 * spec_of(tiny()).kv_bytes_per_token)
    model.begin(prompt=30, answer=90)
    model.begin(prompt=30, answer=90)
    await model.steps(2, 0.5, 1, 2)
    assert model.served.wait_s == 0
    model.begin(prompt=90, answer=50)
    assert model.served.wait_s == pytest.approx(88 * 0.5)
