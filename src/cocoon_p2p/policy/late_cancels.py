"""Clients that let work be done and then do not take it: whoever throws more away than it pays for is refused for a while.

Nobody pays for an answer that he does not have (job/1 §3.9), so a client that cancels late costs the provider one job's
work. Asking a second provider when the first is late (`policy.backup`) does that now and then, as does a line that breaks;
doing it always is living at others' expense. What counts is what the work would have cost, so one long prompt is more than
many short jobs; and against it what the same client paid. Both fade at the same pace. A receipt that is not signed can still
be cancelled, so it counts likewise after a while, and many at the same time are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import (
    LATE_CANCELS_CLIENTS_MAX,
    LATE_CANCELS_HALF_LIFE_S,
    LATE_JOBS_FREE,
    LATE_VALUE_FREE,
    RECEIPT_SIGNED_WITHIN_S,
    RECEIPTS_UNSIGNED_MAX,
)
from cocoon_p2p.policy.admission import Refused
from cocoon_p2p.units import format_nanogram

CANCELLED_LATE = "cancelled after the work was done"
"""The error of such a job in our list of jobs."""
LEFT_LATE = "the connection to the client ended while its answer was on the way"
"""Of one whose client went before the last byte: most of the answer may be there."""
UNPAID_LATE = "the client took the answer and did not pay on"
"""Of an answer in frames whose client went silent after an instalment."""
_HALF_LIFE_MS = LATE_CANCELS_HALF_LIFE_S * 1000
_FADES_MS = int(8 * _HALF_LIFE_MS)
"""Then less than a hundredth of it is left."""
_SIGNED_WITHIN_MS = int(RECEIPT_SIGNED_WITHIN_S * 1000)


@dataclass(frozen=True, slots=True)
class EndedJob:
    """One job of a client, of which work was done."""

    job_id: JobId
    at_ms: int
    """Unix milliseconds."""
    paid: int = 0
    """Nanogram of it that the client owes us for good; of work without a price 1. 0: nothing is."""
    wasted: int = 0
    """The same of what was done for nothing."""


@dataclass(slots=True)
class Account:
    """What one client paid and threw away, in nanogram of `at_ms`: weights that fade, no money."""

    paid: float = 0.0
    wasted: float = 0.0
    jobs: float = 0.0
    """Of which something was thrown away."""
    at_ms: int = 0

    def add(self, job: EndedJob) -> None:
        self._fade(job.at_ms)
        left = _left(self.at_ms - job.at_ms)
        self.paid += left * job.paid
        self.wasted += left * job.wasted
        self.jobs += left * (job.wasted > 0)

    def at(self, now_ms: int) -> Account:
        """As it stands then."""
        account = Account(self.paid, self.wasted, self.jobs, self.at_ms)
        account._fade(now_ms)
        return account

    def refused_ms(self) -> int:
        """For how long nothing more is done for this client; 0 when it is not refused. What is free comes back with time,
        what was paid lasts as long as what it stands against."""
        # SPEC job/1 §3.9
        if self.wasted <= self.paid:
            return 0
        # one accident is free whatever it cost: the first one cannot be told from any other
        over = max(self.jobs / LATE_JOBS_FREE, min(self.wasted / LATE_VALUE_FREE, self.jobs))
        return 0 if over <= 1 else ceil(_HALF_LIFE_MS * log2(over))

    def _fade(self, now_ms: int) -> None:
        if now_ms > self.at_ms:
            left = _left(now_ms - self.at_ms)
            self.paid, self.wasted, self.jobs = left * self.paid, left * self.wasted, left * self.jobs
            self.at_ms = now_ms


def _left(after_ms: int) -> float:
    return float(2.0 ** (-max(0, after_ms) / _HALF_LIFE_MS))


class LateCancels:
    """The accounts of clients, in memory. Bounded: the client that was quiet longest is forgotten, and read again from the
    list of jobs when it comes back."""

    def __init__(self, *, clients_max: int = LATE_CANCELS_CLIENTS_MAX) -> None:
        self._clients_max = clients_max
        self._accounts: OrderedDict[PeerId, Account] = OrderedDict()
        self._unsigned: dict[PeerId, OrderedDict[JobId, EndedJob]] = {}
        """Jobs that were done, whose receipts the client has not signed; of the same clients."""

    def knows(self, client: PeerId) -> bool:
        return client in self._accounts

    def remember(self, client: PeerId, ended: Sequence[EndedJob], unsigned: Sequence[EndedJob] = ()) -> None:
        """What the list of jobs has of this client; and receipts that it has not signed, `paid` being their price."""
        account = self._accounts[client] = Account()
        self._accounts.move_to_end(client)
        for job in ended:
            account.add(job)
        self._unsigned[client] = OrderedDict((job.job_id, job) for job in sorted(unsigned, key=lambda each: each.at_ms))
        if len(self._accounts) > self._clients_max:
            forgotten, _ = self._accounts.popitem(last=False)
            self._unsigned.pop(forgotten, None)

    def note(self, client: PeerId, job: EndedJob) -> None:
        """One more job ended; or one that was done is cancelled after all, and then it is not to be signed any more."""
        if client not in self._accounts:
            self.remember(client, ())
        self._unsigned[client].pop(job.job_id, None)
        self._accounts[client].add(job)
        self._accounts.move_to_end(client)

    def earned(self, client: PeerId, job_id: JobId, at_ms: int, price: int) -> None:
        """A job was done, and its receipt goes out: the client is to sign it."""
        if client not in self._accounts:
            self.remember(client, ())
        self._accounts.move_to_end(client)
        unsigned = self._unsigned[client]
        unsigned[job_id] = EndedJob(job_id, at_ms, paid=max(1, price))
        if len(unsigned) > 2 * RECEIPTS_UNSIGNED_MAX:
            unsigned.popitem(last=False)

    def signed(self, client: PeerId, job_id: JobId) -> None:
        """The client signed it, and it is paid."""
        job = self._unsigned.get(client, OrderedDict()).pop(job_id, None)
        if job is not None:
            self.note(client, job)

    def refusal(self, client: PeerId, now_ms: int) -> Refused | None:
        """Whether this client is refused now, and why; None when it is not."""
        unsigned = self._unsigned.get(client, OrderedDict())
        while unsigned and next(iter(unsigned.values())).at_ms + _FADES_MS <= now_ms:
            unsigned.popitem(last=False)
        if len(unsigned) >= RECEIPTS_UNSIGNED_MAX:
            detail = f"{len(unsigned)} receipts of this client's jobs are not signed: acknowledge them first"
            fades_at_ms = next(iter(unsigned.values())).at_ms + _FADES_MS
            return Refused(RefusalReason.STANDING, detail, needed=max(1, fades_at_ms - now_ms))
        if client not in self._accounts:
            return None
        account = self._accounts[client].at(now_ms)
        open_ones = [job for job in unsigned.values() if job.at_ms + _SIGNED_WITHIN_MS < now_ms]
        for job in open_ones:
            account.add(EndedJob(job.job_id, job.at_ms, wasted=job.paid))
        needed_ms = account.refused_ms()
        if not needed_ms:
            return None
        return Refused(RefusalReason.STANDING, _why(account, len(open_ones)), needed=needed_ms)


def _why(account: Account, open_ones: int) -> str:
    """And what would help."""
    wasted, paid = (format_nanogram(round(amount)) for amount in (account.wasted, account.paid))
    text = (
        f"of this client's jobs, {round(account.jobs)} were left lately after work worth {wasted} was done for nothing, "
        f"and {paid} were paid: that fades, so come again later"
    )
    return text if not open_ones else f"{text}; or acknowledge the receipts that are open ({open_ones})"
