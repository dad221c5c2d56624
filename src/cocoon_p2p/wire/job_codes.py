"""job/1: the numbers that its messages carry (protocols/job/1/spec.md §3.13, §7). Those of refusals: `errors.RefusalReason`."""

from __future__ import annotations

from enum import IntEnum


class FailureCode(IntEnum):
    """Why an accepted job ended without a result (job/1 §7). The numbers are on the wire and never change."""

    INPUT = 1
    ITEMS = 2
    MODEL = 3
    WORKER = 4
    LIMITS = 5
    ENVELOPE = 6
    DEADLINE = 7
    CANCELLED = 8
    SHUTTING_DOWN = 9
    PAYMENT = 10
    BUSY = 11
    IDLE_POLICY = 12
    SESSION = 13


class Phase(IntEnum):
    """Where an accepted job stands (job/1 §3.13). The numbers are on the wire and never change."""

    QUEUED = 1
    RUNNING = 2
