"""Receive windows and their budget."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from yamux_pairs import connected

from cocoon_p2p.limits import STREAM_WINDOW_BYTES_INITIAL, STREAM_WINDOW_BYTES_MAX
from cocoon_p2p.net.yamux.window import ReceiveWindow, WindowBudget

INITIAL = STREAM_WINDOW_BYTES_INITIAL
UNLIMITED = 1 << 60


def read_a_window(window: ReceiveWindow, now: float, round_trip_s: float | None) -> int:
    """Fill half the window and read it; the credit."""
    half = window.size // 2
    assert window.receive(half)
    assert window.note_read(half)
    return window.grant(now, round_trip_s)


def test_credit_comes_when_half_is_read() -> None:
    window = ReceiveWindow(WindowBudget(0), 0.0)
    assert window.receive(INITIAL)
    assert not window.note_read(INITIAL // 2 - 1)
    assert window.grant(9.0, 0.01) == 0
    assert window.note_read(1)
    assert window.grant(9.0, 0.01) == INITIAL // 2
    assert window.grant(9.0, 0.01) == 0


def test_overrun() -> None:
    window = ReceiveWindow(WindowBudget(0), 0.0)
    assert window.receive(INITIAL)
    assert not window.receive(1)


@pytest.mark.parametrize(
    ("round_trip_s", "sizes"), [(0.05, (4, 16, 64, 256, 256)), (0.001, (2, 4, 8, 16, 32, 64, 128, 256, 256))]
)
def test_it_grows_while_it_holds_the_writer_up(round_trip_s: float, sizes: tuple[int, ...]) -> None:
    budget = WindowBudget(UNLIMITED)
    window = ReceiveWindow(budget, 0.0)
    now = 0.0
    for size in sizes:
        now += 1.8 * round_trip_s
        assert read_a_window(window, now, round_trip_s) >= window.size // 4
        assert window.size == size * INITIAL
    assert window.size == STREAM_WINDOW_BYTES_MAX
    read_a_window(window, now + 10, 0.05)
    assert window.size == window.allowed == STREAM_WINDOW_BYTES_MAX
    window.end()
    assert budget.available == UNLIMITED
    window.end()
    assert budget.available == UNLIMITED


@pytest.mark.parametrize(("took_s", "round_trip_s"), [(0.5, 0.05), (0.1, None)])
def test_it_stays_when_the_reader_is_slow_or_the_way_unknown(took_s: float, round_trip_s: float | None) -> None:
    window = ReceiveWindow(WindowBudget(UNLIMITED), 0.0)
    for turn in range(1, 5):
        read_a_window(window, turn * took_s, round_trip_s)
    assert window.size == INITIAL


def test_a_budget_is_shared() -> None:
    node = WindowBudget(4 * INITIAL)
    one, other = WindowBudget(3 * INITIAL, node), WindowBudget(3 * INITIAL, node)
    assert one.take(3 * INITIAL) and not one.take(1)
    assert not other.take(2 * INITIAL) and other.take(INITIAL)
    one.give_back(3 * INITIAL)
    assert (node.available, one.available, other.available) == (3 * INITIAL, 3 * INITIAL, 2 * INITIAL)


@given(
    st.lists(st.tuples(st.integers(1, 300_000), st.integers(1, 300_000), st.floats(0, 1)), max_size=60),
    st.integers(0, 8 * INITIAL),
)
def test_window_and_budget_add_up(turns: list[tuple[int, int, float]], bytes_max: int) -> None:
    budget = WindowBudget(bytes_max)
    window = ReceiveWindow(budget, 0.0)
    now, unread = 0.0, 0
    for to_send, to_read, pause_s in turns:
        sent = min(to_send, window.allowed)
        assert window.receive(sent)
        unread += sent
        read = min(to_read, unread)
        unread -= read
        now += pause_s
        if window.note_read(read):
            window.grant(now, 0.1)
        assert unread + window.allowed <= window.size <= STREAM_WINDOW_BYTES_MAX
        assert unread + window.allowed > window.size // 2 - 1  # it never closes for good
        assert window.size - INITIAL + budget.available == bytes_max
    window.end()
    assert budget.available == bytes_max


async def transfer_s(budget: WindowBudget, size: int) -> float:
    """How long a transfer takes over a line of 25 ms each way."""
    async with (
        connected(delay_s=0.025, capacity=1 << 30, budget=budget) as (alice, bob),
        trio.open_nursery() as nursery,
    ):
        ours = await alice.open()
        await ours.write(b"x")
        theirs = await bob.accept()
        await trio.sleep(1)  # the first ping
        started = trio.current_time()
        nursery.start_soon(ours.write, bytes(size))
        await theirs.read_exactly(size + 1)
        took = trio.current_time() - started
        await ours.reset()
        await trio.sleep(1)
        return took


async def test_over_a_long_way_a_growing_window_is_faster(autojump_clock: MockClock) -> None:
    budget = WindowBudget(UNLIMITED)
    size = 32 * 2**20
    fixed_s = await transfer_s(WindowBudget(0), size)
    growing_s = await transfer_s(budget, size)
    assert fixed_s > size / INITIAL * 0.05 * 0.5
    assert growing_s * 4 < fixed_s
    assert budget.available == UNLIMITED  # given back with the stream
