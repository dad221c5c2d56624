"""The idle rules at work, in virtual time: the desk closes and opens, and what runs gets its grace."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import trio
import trio.testing
from serving_parts import make_desk

from cocoon_p2p.drivers.clock import SystemClock
from cocoon_p2p.drivers.idling import TOLD_TO_CLIENTS, Idling
from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.policy.idle import IdleRules, MachineFacts

RULES = IdleRules(user_idle_s=600)
USED, IDLE = MachineFacts(0, user_idle_s=120), MachineFacts(0, user_idle_s=3600)


class ScriptedMachine:
    def __init__(self, facts: MachineFacts) -> None:
        self.now = facts
        self.looks = 0

    async def facts(self) -> MachineFacts:
        self.looks += 1
        return self.now


class Jobs:
    """Accepted jobs that end when they are told."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.yielded: list[tuple[float, str]] = []

    async def settled(self) -> None:
        await self.ended.wait()

    async def yield_jobs(self, detail: str) -> None:
        self.yielded.append((trio.current_time(), detail))
        self.ended.set()


class Town:
    """One provider's rules and what they are about."""

    def __init__(self, facts: MachineFacts = IDLE, *, grace_s: float = 30.0) -> None:
        self.machine = ScriptedMachine(facts)
        self.desk = make_desk()
        self.jobs = Jobs()
        self.changes: list[tuple[float, bool]] = []
        self.idling = Idling(RULES, self.machine, self.desk, self.jobs, SystemClock(), grace_s=grace_s)
        self.idling.changed = lambda: self.changes.append((trio.current_time(), self.desk.rests is not None))


async def test_the_first_look_counts_before_anything_is_offered(caplog: pytest.LogCaptureFixture) -> None:
    town = Town(USED)
    with caplog.at_level(logging.WARNING):
        assert await town.idling.look()
    assert town.desk.rests == Refused(RefusalReason.IDLE_POLICY, TOLD_TO_CLIENTS, 480_001)
    assert town.idling.row() == {
        "resting": True,
        "detail": "somebody uses this machine (idle for 2 of 10 minutes)",
        "needed_ms": 480_001,
    }
    assert "this node rests: somebody uses this machine" in caplog.text


async def test_clients_are_not_told_what_somebody_does_at_the_machine() -> None:
    town = Town(USED)
    await town.idling.look()
    assert town.desk.rests is not None
    for word in ("somebody", "idle for", "battery"):
        assert word not in town.desk.rests.detail


async def test_it_closes_at_once_and_opens_again(autojump_clock: trio.testing.MockClock) -> None:
    town = Town()
    town.jobs.ended.set()
    await town.idling.look()
    assert town.desk.rests is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.idling.run)
        await trio.sleep(17)
        town.machine.now = USED
        await trio.sleep(10)
        town.machine.now = replace(USED, user_idle_s=130)
        await trio.sleep(5)
        assert town.desk.rests is not None
        assert town.desk.rests.needed == 470_001  # it is said anew with each look
        town.machine.now = IDLE
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert town.changes == [(20, True), (35, False)]
    assert town.desk.rests is None
    assert town.idling.row() == {"resting": False, "detail": None, "needed_ms": None}
    assert town.jobs.yielded == []
    assert town.machine.looks == 1 + 7


async def test_jobs_that_take_longer_than_the_grace_are_handed_back(autojump_clock: trio.testing.MockClock) -> None:
    town = Town()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.idling.run)
        town.machine.now = USED
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert town.jobs.yielded == [(35, TOLD_TO_CLIENTS)]


async def test_jobs_that_end_within_the_grace_are_left_alone(autojump_clock: trio.testing.MockClock) -> None:
    town = Town()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.idling.run)
        town.machine.now = USED
        await trio.sleep(34)
        town.jobs.ended.set()
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert town.jobs.yielded == []


async def test_whoever_leaves_within_the_grace_has_nothing_handed_back(autojump_clock: trio.testing.MockClock) -> None:
    town = Town()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.idling.run)
        town.machine.now = USED
        await trio.sleep(12)
        town.machine.now = IDLE
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert town.changes == [(5, True), (15, False)]
    assert town.jobs.yielded == []


async def test_without_grace_jobs_go_at_once(autojump_clock: trio.testing.MockClock) -> None:
    town = Town(grace_s=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(town.idling.run)
        town.machine.now = USED
        await trio.sleep(6)
        nursery.cancel_scope.cancel()
    assert town.jobs.yielded == [(5, TOLD_TO_CLIENTS)]
