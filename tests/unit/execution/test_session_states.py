"""State that is kept between calls: what is kept for whom, and when it goes. No worker: the tensors are made up."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution.session_states import SessionBounds, SessionKey, SessionStates, State
from cocoon_p2p.ids import ModelId, PeerId
from cocoon_p2p.tensors import Tensor

ANNA, BERT = PeerId("anna"), PeerId("bert")
MODEL = ModelId("ab" * 32)
BOUNDS = SessionBounds(idle_s=300, bytes_max=10_000, bytes_per_client_max=4_000, per_client_max=3, count_max=6)


def key(client: PeerId = ANNA, session: bytes = b"s" * 16) -> SessionKey:
    return client, MODEL, session


def state(mark: int, size: int = 100) -> State:
    return (Tensor("h", "uint8", (size,), bytes([mark]) * size),)


async def advance(states: SessionStates, where: SessionKey, step: int, mark: int, size: int = 100) -> int | None:
    """One call; the mark of the state that it began with, None for zeros."""
    async with states.turn(where) as turn:
        used = () if step == 0 else turn.state_for(step)
        found = used[0].data[0] if used else None
        turn.keep(step, used, state(mark, size))
    return found


async def refusal(states: SessionStates, where: SessionKey, step: int) -> str:
    with pytest.raises(ExecutionError) as caught:
        await advance(states, where, step, 99)
    assert caught.value.code == "SESSION"
    assert not caught.value.retryable
    return caught.value.message


async def test_each_call_begins_where_the_last_one_ended() -> None:
    states = SessionStates(BOUNDS)
    assert await advance(states, key(), 0, 1) is None
    assert await advance(states, key(), 1, 2) == 1
    assert await advance(states, key(), 2, 3) == 2
    assert await advance(states, key(), 2, 33) == 2, "the answer got lost: made again from the state before"
    assert await advance(states, key(), 3, 4) == 33
    assert await refusal(states, key(), 2) == "call 2 is not the next of this session: 4 is"
    assert "4 is" in await refusal(states, key(), 5)
    assert await advance(states, key(), 0, 5) is None, "begun anew"
    assert "1 is" in await refusal(states, key(), 4)
    assert states.bytes_in_use == 100


async def test_whose_it_is() -> None:
    states = SessionStates(BOUNDS)
    await advance(states, key(ANNA), 0, 1)
    await refusal(states, key(BERT), 1)
    await refusal(states, key(ANNA, b"t" * 16), 1)
    await refusal(states, (ANNA, ModelId("cd" * 32), b"s" * 16), 1)
    await advance(states, key(BERT), 0, 7)
    assert await advance(states, key(ANNA), 1, 2) == 1
    assert states.count == 2, "what came to nothing left nothing"


async def test_calls_come_one_after_the_other() -> None:
    states = SessionStates(BOUNDS)
    order: list[int] = []
    async with trio.open_nursery() as nursery:

        async def call(step: int) -> None:
            async with states.turn(key()) as turn:
                used = () if step == 0 else turn.state_for(step)
                await trio.testing.wait_all_tasks_blocked()
                turn.keep(step, used, state(step))
                order.append(step)

        for step in range(4):
            nursery.start_soon(call, step)
            await trio.testing.wait_all_tasks_blocked()
    assert order == [0, 1, 2, 3]


async def test_what_fails_changes_nothing() -> None:
    states = SessionStates(BOUNDS)
    await advance(states, key(), 0, 1)
    with pytest.raises(ExecutionError, match="worker"):
        async with states.turn(key()) as turn:
            turn.state_for(1)
            raise ExecutionError("the worker died", code="WORKER")
    assert await advance(states, key(), 1, 2) == 1


async def test_state_that_goes_is_wiped(autojump_clock: MockClock) -> None:
    states = SessionStates(BOUNDS)
    kept: list[Tensor] = []

    async def look(step: int, mark: int) -> None:
        await advance(states, key(), step, mark)
        async with states.turn(key()) as turn:
            kept.append(turn.state_for(step + 1)[0])

    for step in range(3):
        await look(step, step + 1)
    assert [tensor.data[0] for tensor in kept] == [0, 2, 3], "of the last two calls only"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(states.expire)
        await trio.sleep(299)
        assert states.count == 1
        await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert (states.count, states.bytes_in_use) == (0, 0)
    assert [any(tensor.data) for tensor in kept] == [False] * 3
    assert await refusal(states, key(), 3) == "this session is not kept here (any more)"


async def test_each_call_gives_it_more_time(autojump_clock: MockClock) -> None:
    states = SessionStates(BOUNDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(states.expire)
        await advance(states, key(), 0, 1)
        await trio.sleep(200)
        await advance(states, key(), 1, 2)
        await advance(states, key(session=b"t" * 16), 0, 1)
        await trio.sleep(200)
        assert await advance(states, key(), 2, 3) == 2
        async with states.turn(key(session=b"t" * 16)) as turn:
            await trio.sleep(1000)  # a long run is no idle time
            assert turn.state_for(1)
        assert states.count == 1
        nursery.cancel_scope.cancel()
    states.close()
    assert states.bytes_in_use == 0


async def test_a_clients_own_oldest_goes_first() -> None:
    states = SessionStates(BOUNDS)
    await advance(states, key(BERT), 0, 1)
    for number in range(4):
        await advance(states, key(ANNA, bytes([number]) * 16), 0, 1)
    await refusal(states, key(ANNA, bytes(16)), 1)
    await advance(states, key(ANNA, bytes([1]) * 16), 1, 2, 2000)  # now three sessions of 100, 100 and 2100 bytes
    await advance(states, key(ANNA, bytes([2]) * 16), 0, 1, 3000)
    assert states.bytes_in_use == 100 + 3000, "there was not room for both large ones, nor did the small one help"
    assert await advance(states, key(BERT), 1, 2) == 1
    with pytest.raises(ExecutionError) as caught:
        await advance(states, key(ANNA), 0, 1, 5000)
    assert caught.value.code == "LIMITS"


async def test_over_the_bound_of_all_whoever_has_most_loses() -> None:
    states = SessionStates(BOUNDS)
    for number in range(3):
        await advance(states, key(PeerId(f"small {number}")), 0, 1, 100)
    for client in (ANNA, BERT):
        await advance(states, key(client), 0, 1, 3900)
    await advance(states, key(PeerId("another")), 0, 1, 3000)
    assert states.bytes_in_use == 3 * 100 + 3900 + 3000
    await refusal(states, key(ANNA), 1)
    for number in range(3):
        assert await advance(states, key(PeerId(f"small {number}")), 1, 2) == 1


async def test_a_models_sessions_end_with_it() -> None:
    states = SessionStates(BOUNDS)
    await advance(states, key(), 0, 1)
    states.drop_model(ModelId("cd" * 32))
    assert states.count == 1
    states.drop_model(MODEL)
    assert (states.count, states.bytes_in_use) == (0, 0)


async def test_a_session_with_a_call_under_way_is_not_dropped_for_another() -> None:
    states = SessionStates(SessionBounds(idle_s=300, bytes_max=10_000, per_client_max=1))
    async with states.turn(key(session=b"a" * 16)) as first:
        first.keep(0, (), state(1))
        await advance(states, key(session=b"b" * 16), 0, 2)
        first.keep(1, first.state_for(1), state(3))
    assert await advance(states, key(session=b"a" * 16), 2, 4) == 3
    assert states.bytes_in_use == 200, "of the one that is left: before and after its last call"
