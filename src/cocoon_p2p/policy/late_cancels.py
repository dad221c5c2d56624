"""Clients that let the work be done and then do not take it: whoever does that with most of its jobs is refused for a while.

Nobody pays for an answer that he does not have (job/1 §3.9), so a client that cancels late costs the provider one job's
work. Asking several providers at once does that now and then; doing it always is living at others' expense.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import (
    LATE_CANCELS_CLIENTS_MAX,
    LATE_CANCELS_COUNTED,
    LATE_CANCELS_MEMORY_S,
    LATE_CANCELS_MIN,
)
from cocoon_p2p.policy.admission import Refused

CANCELLED_LATE = "cancelled after the work was done"
"""The error of such a job in our list of jobs."""
_MEMORY_MS = int(LATE_CANCELS_MEMORY_S * 1000)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One accepted job of a client, however it ended."""

    job_id: JobId
    at_ms: int
    """Unix milliseconds."""
    late: bool
    """Cancelled after the work was done."""


def refusal_for(ended: Sequence[EndedJob], now_ms: int) -> Refused | None:
    """Whether a client whose last accepted jobs (oldest first) ended like this is refused now; None when it is not."""
    # SPEC job/1 §3.9
    counted = [job for job in ended if job.at_ms + _MEMORY_MS > now_ms][-LATE_CANCELS_COUNTED:]
    if not _too_many(counted):
        return None
    jobs, late = len(counted), sum(job.late for job in counted)
    while _too_many(counted):
        fades_at_ms = counted.pop(0).at_ms + _MEMORY_MS
    detail = f"{late} of this client's last {jobs} jobs were cancelled after the work was done"
    return Refused(RefusalReason.STANDING, detail, needed=max(1, fades_at_ms - now_ms))


def _too_many(jobs: Sequence[EndedJob]) -> bool:
    return len(jobs) >= LATE_CANCELS_MIN and 2 * sum(job.late for job in jobs) > len(jobs)


class LateCancels:
    """The last jobs of each client, in memory. Bounded: the client that was quiet longest is forgotten, and read again from
    the list of jobs when it comes back."""

    def __init__(self, *, clients_max: int = LATE_CANCELS_CLIENTS_MAX) -> None:
        self._clients_max = clients_max
        self._ended: OrderedDict[PeerId, OrderedDict[JobId, EndedJob]] = OrderedDict()

    def knows(self, client: PeerId) -> bool:
        return client in self._ended

    def remember(self, client: PeerId, ended: Sequence[EndedJob]) -> None:
        """What the list of jobs has of this client, oldest first."""
        self._ended[client] = OrderedDict((job.job_id, job) for job in ended)
        self._ended.move_to_end(client)
        if len(self._ended) > self._clients_max:
            self._ended.popitem(last=False)

    def note(self, client: PeerId, job: EndedJob) -> None:
        """One more job ended, or one that was done was cancelled after all: then it counts where it stood."""
        if client not in self._ended:
            self.remember(client, ())
        jobs = self._ended[client]
        jobs[job.job_id] = job
        self._ended.move_to_end(client)
        if len(jobs) > LATE_CANCELS_COUNTED:
            jobs.popitem(last=False)

    def refusal(self, client: PeerId, now_ms: int) -> Refused | None:
        return refusal_for(tuple(self._ended.get(client, {}).values()), now_ms)
