"""Clients that let the work be done and then do not take it: whoever does that with most of its jobs is refused for a while.

Nobody pays for an answer that he does not have (job/1 §3.9), so a client that cancels late costs the provider one job's
work. Asking a second provider when the first is late (`policy.backup`) does that now and then; doing it always is living at
others' expense. A receipt that is not signed can still be cancelled, so it counts likewise after a while, and many at the
same time are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import (
    LATE_CANCELS_CLIENTS_MAX,
    LATE_CANCELS_COUNTED,
    LATE_CANCELS_MEMORY_S,
    LATE_CANCELS_MIN,
    RECEIPT_SIGNED_WITHIN_S,
    RECEIPTS_UNSIGNED_MAX,
)
from cocoon_p2p.policy.admission import Refused

CANCELLED_LATE = "cancelled after the work was done"
"""The error of such a job in our list of jobs."""
LEFT_LATE = "the connection to the client ended while its answer was on the way"
"""Of one whose client went before the last byte: most of the answer may be there."""
UNPAID_LATE = "the client took the answer and did not pay on"
"""Of an answer in frames whose client went silent after an instalment."""
LATE_ERRORS = (CANCELLED_LATE, LEFT_LATE, UNPAID_LATE)
_MEMORY_MS = int(LATE_CANCELS_MEMORY_S * 1000)
_SIGNED_WITHIN_MS = int(RECEIPT_SIGNED_WITHIN_S * 1000)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One job of a client whose work was done, however it ended."""

    job_id: JobId
    at_ms: int
    """Unix milliseconds."""
    late: bool
    """Cancelled, or left, after the work was done."""


def refusal_for(ended: Sequence[EndedJob], now_ms: int) -> Refused | None:
    """Whether a client whose last jobs (oldest first) ended like this is refused now; None when it is not."""
    # SPEC job/1 §3.9
    counted = [job for job in ended if job.at_ms + _MEMORY_MS > now_ms][-LATE_CANCELS_COUNTED:]
    if not _too_many(counted):
        return None
    jobs, late = len(counted), sum(job.late for job in counted)
    while _too_many(counted):
        fades_at_ms = counted.pop(0).at_ms + _MEMORY_MS
    detail = f"{late} of this client's last {jobs} jobs were cancelled after the work was done, or never acknowledged"
    return Refused(RefusalReason.STANDING, detail, needed=max(1, fades_at_ms - now_ms))


def _too_many(jobs: Sequence[EndedJob]) -> bool:
    return len(jobs) >= LATE_CANCELS_MIN and 2 * sum(job.late for job in jobs) > len(jobs)


class LateCancels:
    """The last jobs of each client, in memory. Bounded: the client that was quiet longest is forgotten, and read again from
    the list of jobs when it comes back."""

    def __init__(self, *, clients_max: int = LATE_CANCELS_CLIENTS_MAX) -> None:
        self._clients_max = clients_max
        self._ended: OrderedDict[PeerId, OrderedDict[JobId, EndedJob]] = OrderedDict()
        self._unsigned: dict[PeerId, OrderedDict[JobId, int]] = {}
        """When jobs were done whose receipts the client has not signed, Unix milliseconds; of the same clients."""

    def knows(self, client: PeerId) -> bool:
        return client in self._ended

    def remember(self, client: PeerId, ended: Sequence[EndedJob], unsigned: Mapping[JobId, int] | None = None) -> None:
        """What the list of jobs has of this client, oldest first; and receipts that it has not signed, with when the job was
        done."""
        self._ended[client] = OrderedDict((job.job_id, job) for job in ended)
        self._ended.move_to_end(client)
        self._unsigned[client] = OrderedDict(sorted((unsigned or {}).items(), key=lambda each: each[1]))
        if len(self._ended) > self._clients_max:
            forgotten, _ = self._ended.popitem(last=False)
            self._unsigned.pop(forgotten, None)

    def note(self, client: PeerId, job: EndedJob) -> None:
        """One more job ended, or one that was done was cancelled after all: then it counts where it stood."""
        if client not in self._ended:
            self.remember(client, ())
        jobs = self._ended[client]
        jobs[job.job_id] = job
        self._ended.move_to_end(client)
        if len(jobs) > LATE_CANCELS_COUNTED:
            jobs.popitem(last=False)

    def earned(self, client: PeerId, job_id: JobId, at_ms: int) -> None:
        """A job was done, and its receipt goes out: the client is to sign it."""
        self.note(client, EndedJob(job_id, at_ms, late=False))
        unsigned = self._unsigned[client]
        unsigned[job_id] = at_ms
        if len(unsigned) > 2 * RECEIPTS_UNSIGNED_MAX:
            unsigned.popitem(last=False)

    def signed(self, client: PeerId, job_id: JobId) -> None:
        """The client signed it; or it is taken back."""
        self._unsigned.get(client, OrderedDict()).pop(job_id, None)

    def refusal(self, client: PeerId, now_ms: int) -> Refused | None:
        unsigned = self._unsigned.get(client, OrderedDict())
        while unsigned and next(iter(unsigned.values())) + _MEMORY_MS <= now_ms:
            unsigned.popitem(last=False)
        if len(unsigned) >= RECEIPTS_UNSIGNED_MAX:
            detail = f"{len(unsigned)} receipts of this client's jobs are not signed: acknowledge them first"
            fades_at_ms = next(iter(unsigned.values())) + _MEMORY_MS
            return Refused(RefusalReason.STANDING, detail, needed=max(1, fades_at_ms - now_ms))
        late_by_ms = now_ms - _SIGNED_WITHIN_MS
        ended = [
            replace(job, late=True) if unsigned.get(job.job_id, now_ms) < late_by_ms else job
            for job in self._ended.get(client, {}).values()
        ]
        return refusal_for(ended, now_ms)
