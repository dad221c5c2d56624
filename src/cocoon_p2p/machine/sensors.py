"""The real machine: power, temperature and load by psutil, GPUs by nvidia-smi, the user by `user_idle`.

Only what the rules ask about is read: a look every few seconds must cost next to nothing."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import psutil
import trio

from cocoon_p2p.machine.commands import Ask, ask
from cocoon_p2p.machine.user_idle import user_idle_s
from cocoon_p2p.policy.idle import IdleRules, MachineFacts

log = logging.getLogger(__name__)

FIRST_LOAD_S = 0.5
"""Load is a difference: the first look takes so long."""
GPU_TEMPERATURES = ("nvidia-smi", "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits")
UTMP_FILES = (Path("/run/utmp"), Path("/var/run/utmp"), Path("/var/run/utmpx"))
TEMPERATURE_PLAUSIBLE_C = (-40.0, 150.0)
"""Some boards have sensors that are not connected and say 255 or -128."""


class Readings(Protocol):
    """What is read of psutil. A test puts in its own."""

    def battery(self) -> Any | None: ...

    def temperatures(self) -> Mapping[str, Sequence[Any]]: ...

    def busy_s(self) -> float:
        """CPU seconds that all programs together have used since the machine was started."""

    def own_s(self) -> float:
        """CPU seconds that this process and all below it have used, those that ended included."""

    def terminals(self) -> Sequence[str] | None: ...

    def booted(self) -> float: ...


class PsutilReadings:
    """Of this machine."""

    def battery(self) -> Any | None:
        read: Callable[[], Any | None] | None = getattr(psutil, "sensors_battery", None)
        return None if read is None else read()

    def temperatures(self) -> Mapping[str, Sequence[Any]]:
        """Empty on systems for which psutil knows none: macOS, Windows."""
        read: Callable[[], Mapping[str, Sequence[Any]]] | None = getattr(psutil, "sensors_temperatures", None)
        return {} if read is None else read()

    def busy_s(self) -> float:
        times = psutil.cpu_times()._asdict()
        # guest time is in user time already (proc(5))
        busy = ("user", "nice", "system", "irq", "softirq", "interrupt", "dpc")
        return sum(float(times.get(name, 0.0)) for name in busy)

    def own_s(self) -> float:
        this = psutil.Process()
        used = 0.0
        for process in [this, *this.children(recursive=True)]:
            with suppress(psutil.Error):  # it has just ended, and its parent counts it
                times = process.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        return used

    def terminals(self) -> Sequence[str] | None:
        if sys.platform == "linux" and not any(file.exists() for file in UTMP_FILES):
            return None
        return [user.terminal or "" for user in psutil.users()]

    def booted(self) -> float:
        return psutil.boot_time()


class SystemMachine:
    """Implements `Machine`. The parameters behind `rules` are for tests."""

    def __init__(
        self,
        rules: IdleRules,
        *,
        readings: Readings | None = None,
        ask: Ask = ask,
        devices: Path = Path("/dev"),
        platform: str = sys.platform,
        unix: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._readings = readings or PsutilReadings()
        self._ask = ask
        self._devices = devices
        self._platform = platform
        self._unix = unix
        self._monotonic = monotonic
        self._load = _LoadOfOthers(self._readings, monotonic)

    async def facts(self) -> MachineFacts:
        rules = self._rules
        local = time.localtime(self._unix())
        return MachineFacts(
            local_minutes=60 * local.tm_hour + local.tm_min,
            user_idle_s=await self._user_idle_s() if rules.user_idle_s else None,
            on_mains=await trio.to_thread.run_sync(self._on_mains) if rules.mains_power else None,
            temperature_c=await self._temperature_c() if rules.temperature_max_c else None,
            foreign_load_cores=await self._foreign_load() if rules.load_max else None,
        )

    async def _user_idle_s(self) -> float | None:
        return await user_idle_s(
            self._ask,
            self._readings.terminals,
            now=self._unix(),
            booted=self._readings.booted(),
            devices=self._devices,
            platform=self._platform,
        )

    def _on_mains(self) -> bool | None:
        """A machine without a battery is on mains."""
        try:
            battery = self._readings.battery()
        except (OSError, psutil.Error) as error:
            log.debug("the battery cannot be read: %s", error)
            return None
        if battery is None:
            return True
        return None if battery.power_plugged is None else bool(battery.power_plugged)

    async def _temperature_c(self) -> float | None:
        found = await trio.to_thread.run_sync(self._board_temperatures)
        gpus = await self._ask(GPU_TEMPERATURES)
        found += [float(line) for line in (gpus or "").split() if line.isdigit()]
        lowest, highest = TEMPERATURE_PLAUSIBLE_C
        return max((each for each in found if lowest <= each <= highest), default=None)

    def _board_temperatures(self) -> list[float]:
        try:
            chips = self._readings.temperatures()
        except (OSError, psutil.Error) as error:
            log.debug("temperatures cannot be read: %s", error)
            return []
        return [float(sensor.current) for sensors in chips.values() for sensor in sensors if sensor.current is not None]

    async def _foreign_load(self) -> float | None:
        if not self._load.began:
            await trio.to_thread.run_sync(self._load.measure)
            await trio.sleep(FIRST_LOAD_S)
        return await trio.to_thread.run_sync(self._load.measure)


class _LoadOfOthers:
    """CPU cores in use by others between two looks: what all used, less what this process and those below it did."""

    def __init__(self, readings: Readings, monotonic: Callable[[], float]) -> None:
        self._readings = readings
        self._monotonic = monotonic
        self._before: tuple[float, float, float] | None = None

    @property
    def began(self) -> bool:
        return self._before is not None

    def measure(self) -> float | None:
        """None when it cannot be read, and of the first look. Reads files: call it in a thread."""
        try:
            now = (self._monotonic(), self._readings.busy_s(), self._readings.own_s())
        except (OSError, psutil.Error) as error:
            log.debug("the load cannot be read: %s", error)
            self._before = None
            return None
        before, self._before = self._before, now
        if before is None or now[0] <= before[0]:
            return None
        elapsed, busy, own = (new - old for new, old in zip(now, before, strict=True))
        cores = (busy - max(0.0, own)) / elapsed
        return min(max(0.0, cores), float(os.cpu_count() or 1))
