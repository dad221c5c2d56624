"""Which models are loaded: room, turns, idleness and replicas, in virtual time with workers that only pretend."""

from __future__ import annotations

import itertools

import pytest
import trio
from pool_parts import LOAD_S, add, come, done, open_pool

from cocoon_p2p.errors import ExecutionError
from cocoon_p2p.execution import engine_pool
from cocoon_p2p.limits import PROBLEM_KEPT_S


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    async def told(pid: int) -> int:
        return pid

    monkeypatch.setattr(engine_pool, "measured_bytes", told)


async def test_a_cold_model_is_loaded_by_its_first_job(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool() as pool:
        model = add(pool, "a")
        status = model.status(pool.devices)
        assert (status.warm, status.loaded, status.loading, status.replicas, status.devices) == (
            False, False, False, 0, (),
        )  # fmt: skip
        assert status.load_s is not None
        come(pool, model)
        await trio.sleep(LOAD_S / 2)
        assert model.status(pool.devices).loading
        await trio.sleep(LOAD_S)
        status = model.status(pool.devices)
        assert (status.warm, status.loaded, status.loading, status.running, status.load_s) == (
            True,
            True,
            False,
            1,
            None,
        )


async def test_the_one_that_was_not_used_for_longest_makes_room(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=250) as pool:
        a, b, c = (add(pool, name) for name in "abc")
        for model in (a, b):
            assert pool.start_if_fits(model)
            await pool.warm(model)
        assert not pool.start_if_fits(c)
        come(pool, a)
        await trio.sleep(1)
        done(pool, a)
        come(pool, c)
        await trio.sleep(2 * LOAD_S)
        assert [model.warm for model in (a, b, c)] == [True, False, True]


async def test_who_is_kept_or_at_work_stays(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=250, room_patience_s=1e6) as pool:
        kept, busy, c = (add(pool, name) for name in ("kept", "busy", "c"))
        kept.keep = True
        for model in (kept, busy):
            await pool.warm(model)
        come(pool, busy)
        come(pool, c)
        await trio.sleep(100)
        assert [model.warm for model in (kept, busy, c)] == [True, True, False]
        done(pool, busy)
        await trio.sleep(2 * LOAD_S)
        assert [model.warm for model in (kept, busy, c)] == [True, False, True]


async def test_two_that_do_not_fit_together_take_turns(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=150, room_patience_s=5) as pool:
        a, b = add(pool, "a"), add(pool, "b")
        turns: list[str] = []
        for model in (a, b):
            come(pool, model)

        async def always_at_work(name: str, model: object) -> None:
            while True:
                await trio.sleep(0.5)
                if model.jobs.busy:  # type: ignore[attr-defined]
                    turns.append(name)
                    done(pool, model)  # type: ignore[arg-type]
                    come(pool, model)  # type: ignore[arg-type]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(always_at_work, "a", a)
            nursery.start_soon(always_at_work, "b", b)
            await trio.sleep(60)
            nursery.cancel_scope.cancel()
        changes = sum(one != other for one, other in itertools.pairwise(turns))
        assert min(turns.count("a"), turns.count("b")) > 20
        assert 4 <= changes <= 20, "each had its turn, and not one job a turn"


async def test_what_can_never_fit_is_refused_with_what_it_would_need(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=250 << 20) as pool:
        with pytest.raises(ExecutionError, match="about 300 MiB of memory, and models may take 250 MiB") as caught:
            add(pool, "large", bytes=300 << 20)
        assert caught.value.code == "LIMITS"
        assert pool.models == {}
        kept = add(pool, "kept", bytes=200 << 20)
        kept.keep = True
        await pool.warm(kept)
        with pytest.raises(ExecutionError, match="kept warm"):
            add(pool, "other", bytes=100 << 20)


async def test_a_model_that_turned_out_too_large_goes(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def larger(pid: int) -> int:
        return 2 * pid

    async with open_pool(budget_bytes=250) as pool:
        a, b = add(pool, "a"), add(pool, "b")
        await pool.warm(a)
        monkeypatch.setattr(engine_pool, "measured_bytes", larger)
        await pool.warm(b)
        await trio.sleep(3)
        assert [model.warm for model in (a, b)] == [False, True]
        assert b.status(pool.devices).memory_bytes == 200


async def test_an_idle_model_is_unloaded_and_comes_back(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(unload_idle_s=60) as pool:
        a, kept = add(pool, "a"), add(pool, "kept")
        kept.keep = True
        for model in (a, kept):
            await pool.warm(model)
        await trio.sleep(50)
        come(pool, a)
        await trio.sleep(100)
        assert a.warm, "it is at work"
        done(pool, a)
        await trio.sleep(50)
        assert a.warm
        await trio.sleep(20)
        assert not a.warm
        assert kept.warm
        come(pool, a)
        await trio.sleep(2 * LOAD_S)
        assert a.warm


async def test_a_model_that_does_not_load_says_why_and_fails_its_jobs(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool() as pool:
        model = add(pool, "a", fault=ExecutionError("no such operator", code="MODEL"))
        come(pool, model)
        await trio.sleep(2 * LOAD_S)
        assert [error.message for error in model.jobs.failures] == ["no such operator"]
        assert model.status(pool.devices).problem == "no such operator"
        assert not model.status(pool.devices).loading
        await trio.sleep(PROBLEM_KEPT_S + 2)
        assert model.status(pool.devices).problem == ""


@pytest.mark.parametrize(
    ("devices", "replicas_max", "expected"),
    [
        (("cpu",), 0, ["cpu"]),
        (("cpu",), 2, ["cpu", "cpu"]),
        (("cuda:0", "cuda:1", "cuda:2"), 0, ["cuda:0", "cuda:1", "cuda:2"]),
        (("cuda:0", "cuda:1", "cuda:2"), 2, ["cuda:0", "cuda:1"]),
    ],
)
async def test_a_long_queue_gets_replicas_on_free_devices(
    autojump_clock: trio.testing.MockClock, devices: tuple[str, ...], replicas_max: int, expected: list[str]
) -> None:
    async with open_pool(*devices, replicas_max=replicas_max, replica_after_s=3, replica_idle_s=30) as pool:
        model = add(pool, "a")
        come(pool, model)
        model.jobs.crowded = True
        await trio.sleep(2 * LOAD_S)
        assert model.jobs.devices == expected[:1], "not at once"
        await trio.sleep(100)
        assert model.jobs.devices == expected
        assert model.status(pool.devices).replicas == len(expected)
        model.jobs.crowded = False
        done(pool, model)
        await trio.sleep(40)
        assert model.status(pool.devices).replicas == 1


async def test_a_device_at_work_for_another_model_is_not_free(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool("cuda:0", "cuda:1", replica_after_s=3) as pool:
        a, b = add(pool, "a"), add(pool, "b")
        for model in (a, b):
            come(pool, model)
            await trio.sleep(2 * LOAD_S)
        assert (a.jobs.devices, b.jobs.devices) == (["cuda:0"], ["cuda:1"])
        a.jobs.crowded = True
        await trio.sleep(10)
        assert a.jobs.devices == ["cuda:0"]
        done(pool, b)
        await trio.sleep(10)
        assert a.jobs.devices == ["cuda:0", "cuda:1"]


async def test_spare_replicas_make_room_first(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool("cuda:0", "cuda:1", budget_bytes=250, replica_after_s=3, replica_idle_s=1e6) as pool:
        a, b = add(pool, "a"), add(pool, "b")
        come(pool, a)
        a.jobs.crowded = True
        await trio.sleep(10)
        assert len(a.lives) == 2
        a.jobs.crowded = False
        done(pool, a)
        come(pool, b)
        await trio.sleep(2 * LOAD_S)
        assert (len(a.lives), len(b.lives)) == (1, 1)


async def test_removing_ends_workers_and_fails_what_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool() as pool:
        model = add(pool, "a")
        come(pool, model)
        await trio.sleep(LOAD_S / 2)
        model.jobs.queued = 1
        await pool.remove(model)
        assert [error.code for error in model.jobs.failures] == ["SHUTTING_DOWN"]
        assert pool.models == {}
        await trio.sleep(2 * LOAD_S)
        assert model.lives == []


async def test_one_at_a_time_makes_a_pause(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=250, room_patience_s=5) as pool:
        a, b, c = (add(pool, name) for name in "abc")
        for model in (a, b):
            await pool.warm(model)
            come(pool, model)
        come(pool, c)
        await trio.sleep(60)
        assert sorted(model.jobs.drains for model in (a, b, c)) == [False, False, True]


async def test_the_pause_is_over_when_room_was_found_elsewhere(autojump_clock: trio.testing.MockClock) -> None:
    async with open_pool(budget_bytes=250, room_patience_s=5) as pool:
        a, b, c = (add(pool, name) for name in "abc")
        for model in (a, b):
            await pool.warm(model)
            come(pool, model)
        come(pool, c)
        await trio.sleep(10)
        pausing, other = (a, b) if a.jobs.drains else (b, a)
        assert pausing.jobs.drains
        done(pool, other)
        await trio.sleep(2 * LOAD_S)
        assert [model.warm for model in (pausing, other, c)] == [True, False, True]
        assert not pausing.jobs.drains
