"""The machine as its sensors tell it: readings in the types of psutil, and this machine itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import trio

from cocoon_p2p.machine.commands import ask
from cocoon_p2p.machine.sensors import GPU_TEMPERATURES, SystemMachine
from cocoon_p2p.policy.idle import IdleRules, MachineFacts


class sbattery(NamedTuple):  # noqa: N801 -- psutil's own name
    percent: float
    secsleft: int
    power_plugged: bool | None


class shwtemp(NamedTuple):  # noqa: N801 -- psutil's own name
    label: str
    current: float
    high: float | None
    critical: float | None


EVERYTHING = IdleRules(600, mains_power=True, temperature_max_c=80, load_max=2)
LAPTOP = {
    "acpitz": [shwtemp("", 27.8, 119.0, 119.0)],
    "coretemp": [shwtemp("Package id 0", 61.0, 100.0, 100.0), shwtemp("Core 0", 58.0, 100.0, 100.0)],
    "nvme": [shwtemp("Composite", 40.85, 81.85, 84.85)],
    "nct6775": [shwtemp("AUXTIN1", 255.0, None, None), shwtemp("AUXTIN2", -128.0, None, None)],
}


class FakeReadings:
    """What psutil would give, and how much was worked at which time."""

    def __init__(self) -> None:
        self.plugged: Any = sbattery(percent=93, secsleft=16628, power_plugged=True)
        self.chips: Mapping[str, Sequence[Any]] = LAPTOP
        self.busy, self.own = 1000.0, 400.0
        self.fails = False

    def battery(self) -> Any | None:
        self._maybe_fail()
        return self.plugged

    def temperatures(self) -> Mapping[str, Sequence[Any]]:
        self._maybe_fail()
        return self.chips

    def busy_s(self) -> float:
        self._maybe_fail()
        return self.busy

    def own_s(self) -> float:
        return self.own

    def terminals(self) -> Sequence[str] | None:
        return None

    def booted(self) -> float:
        return 0.0

    def _maybe_fail(self) -> None:
        if self.fails:
            raise psutil.AccessDenied


class Ticking:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def nothing(command: Sequence[str]) -> str | None:
    del command
    return None


def machine(
    rules: IdleRules, readings: FakeReadings, clock: Ticking | None = None, ask: Any = nothing
) -> SystemMachine:
    return SystemMachine(rules, readings=readings, ask=ask, monotonic=clock or Ticking())


async def test_power() -> None:
    readings = FakeReadings()
    laptop = machine(IdleRules(mains_power=True), readings)
    for plugged, on_mains in ((True, True), (False, False), (None, None)):
        readings.plugged = sbattery(50, 1, plugged)
        assert (await laptop.facts()).on_mains is on_mains
    readings.plugged = None  # a machine without a battery
    assert (await laptop.facts()).on_mains is True
    readings.fails = True
    assert (await laptop.facts()).on_mains is None


async def test_the_hottest_sensor_counts_and_nonsense_does_not() -> None:
    readings = FakeReadings()
    asked: list[Sequence[str]] = []

    async def nvidia(command: Sequence[str]) -> str | None:
        asked.append(command)
        return "45\n67\n[N/A]\n"

    assert (await machine(IdleRules(temperature_max_c=80), readings).facts()).temperature_c == 61
    assert (await machine(IdleRules(temperature_max_c=80), readings, ask=nvidia).facts()).temperature_c == 67
    assert asked == [GPU_TEMPERATURES]
    readings.chips = {}
    assert (await machine(IdleRules(temperature_max_c=80), readings).facts()).temperature_c is None
    readings.fails = True
    assert (await machine(IdleRules(temperature_max_c=80), readings).facts()).temperature_c is None


async def test_load_is_what_others_used_since_the_last_look(autojump_clock: trio.testing.MockClock) -> None:
    readings, clock = FakeReadings(), Ticking()
    looked = machine(IdleRules(load_max=2), readings, clock)

    async def work(seconds: float, busy: float, own: float) -> float | None:
        clock.now += seconds
        readings.busy += busy
        readings.own += own
        return (await looked.facts()).foreign_load_cores

    async with trio.open_nursery() as nursery:
        nursery.start_soon(looked.facts)  # the first look takes its time; the clock stands still, so it cannot tell
    assert autojump_clock.current_time() > 0
    assert await work(10, busy=14.0, own=4.0) == pytest.approx(1.0)
    assert await work(5, busy=2.0, own=2.0) == 0
    assert await work(5, busy=1.0, own=1.5) == 0  # the two are not read at the same moment
    assert await work(5, busy=0.5, own=-3.0) == pytest.approx(0.1)  # a worker that nobody counts any more
    readings.fails = True
    assert await work(5, busy=1.0, own=0) is None


async def test_only_what_a_rule_asks_about_is_read() -> None:
    readings = FakeReadings()
    readings.fails = True

    async def never(command: Sequence[str]) -> str | None:
        raise AssertionError(command)

    facts = await machine(IdleRules(hours=((0, 1),)), readings, ask=never).facts()
    assert facts == MachineFacts(facts.local_minutes)
    local = time.localtime()
    assert (60 * local.tm_hour + local.tm_min - facts.local_minutes) % 1440 <= 1


async def test_this_machine_itself() -> None:
    """Whatever it is: the answers are of the right kind, and a process that works beside us is seen, one of ours is not."""
    facts = await SystemMachine(EVERYTHING).facts()
    assert facts.user_idle_s is None or facts.user_idle_s >= 0
    assert facts.temperature_c is None or -40 <= facts.temperature_c <= 150
    assert facts.foreign_load_cores is not None
    assert facts.foreign_load_cores >= 0


WORKER = "import time\nwhile time.process_time() < 0.5: pass"
WITNESS = f"""
import subprocess, sys
from cocoon_p2p.machine.sensors import PsutilReadings
readings = PsutilReadings()
own, busy = readings.own_s(), readings.busy_s()
subprocess.run([sys.executable, "-c", {WORKER!r}], check=True)
print(readings.own_s() - own, readings.busy_s() - busy)
"""


def test_work_of_ours_is_counted_as_ours_also_when_its_process_has_ended() -> None:
    """In a process of its own, below which nothing else comes and goes. The kernel counts in hundredths."""
    done = subprocess.run([sys.executable, "-c", WITNESS], check=True, capture_output=True, text=True)
    own, busy = map(float, done.stdout.split())
    assert own >= 0.4
    assert busy >= 0.4


async def test_programs_are_bounded(tmp_path: Path) -> None:
    assert await ask([sys.executable, "-c", "print('hello')"]) == "hello\n"
    assert await ask([sys.executable, "-c", "raise SystemExit(3)"]) is None
    assert await ask([str(tmp_path / "missing")]) is None
    assert await ask([sys.executable, "-c", "print('x' * 300_000)"]) is None


async def test_a_program_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cocoon_p2p.machine.commands.SENSOR_TIMEOUT_S", 0.1)
    assert await ask([sys.executable, "-c", "import time; time.sleep(60)"]) is None
