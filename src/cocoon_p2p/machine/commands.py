"""Programs that are asked about the machine, within bounds of time and output."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Awaitable, Callable, Sequence

import trio

from cocoon_p2p.limits import SENSOR_OUTPUT_MAX, SENSOR_TIMEOUT_S

log = logging.getLogger(__name__)

Ask = Callable[[Sequence[str]], Awaitable[str | None]]
"""A program with its arguments in, what it printed out; None when it is missing, failed or took too long."""


async def ask(command: Sequence[str]) -> str | None:
    """Run a program of this machine. Its standard error is not read."""
    with trio.move_on_after(SENSOR_TIMEOUT_S):
        try:
            done = await trio.run_process(
                list(command), capture_stdout=True, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
            )
        except OSError as error:
            log.debug("%s cannot be run: %s", command[0], error)
            return None
        if done.returncode != 0 or len(done.stdout) > SENSOR_OUTPUT_MAX:
            log.debug("%s ended with status %d and %d bytes", command[0], done.returncode, len(done.stdout))
            return None
        return done.stdout.decode(errors="replace")
    log.debug("%s took longer than %.0f s", command[0], SENSOR_TIMEOUT_S)
    return None
