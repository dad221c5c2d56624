"""What is remembered of each job: who, what, for how much, and how it ended. Never its input or output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from cocoon_p2p.ids import JobId, ModelId, PeerId, Tier
from cocoon_p2p.limits import API_LIST_ROWS_MAX, DETAIL_CHARS_MAX, JOBS_KEPT_MAX
from cocoon_p2p.store.database import Database, Row

JobRole = Literal["client", "provider"]
JobState = Literal["running", "done", "failed", "unknown"]
"""`unknown`: the connection or the process ended before the outcome was known."""

_COLUMNS = (
    "job_id, role, model_id, model_name, peer_id, tier, state, price, items, created_at_ms, finished_at_ms, error"
)
_ONE = (
    "SELECT {columns} FROM jobs WHERE job_id=? AND role=? AND peer_id=coalesce(?, peer_id) ORDER BY number DESC LIMIT 1"
)
_PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job in one role with one peer: as a client we may give it to several. `price` is nanogram, times are Unix milliseconds, `error` is "" unless it failed."""

    job_id: JobId
    role: JobRole
    model_id: ModelId
    model_name: str
    peer_id: PeerId
    """The other side."""
    tier: Tier
    state: JobState
    price: int
    items: int
    created_at_ms: int
    finished_at_ms: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class WorkDone:
    """What a job at us brought, and what was thrown away of it, both in nanogram."""

    job_id: JobId
    at_ms: int
    price: int
    wasted: int


class Jobs:
    """The table of jobs: every unfinished one, and the newest `kept_max` in all."""

    def __init__(self, database: Database, *, kept_max: int = JOBS_KEPT_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._inserted = 0

    def insert(self, record: JobRecord) -> bool:
        """Remember a new job. False, and nothing is changed, when this job id is known in this role with this peer."""
        with self._database.transaction():
            added = self._database.execute(
                f"INSERT OR IGNORE INTO jobs ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                _row_of(record),
            )
            if self._inserted % _PRUNE_EVERY == 0:
                self.prune()
            self._inserted += 1
        return added == 1

    def finish(
        self,
        job_id: JobId,
        role: JobRole,
        state: JobState,
        *,
        finished_at_ms: int | None,
        price: int = 0,
        items: int | None = None,
        error: str = "",
        peer: PeerId | None = None,
    ) -> bool:
        """Write down how a job ended, with this peer or with the last one it was given to. False when there is no such job.
        Without `finished_at_ms` it is not over yet: what is left to do is done after a crash, too (`unfinished`)."""
        changed = self._database.execute(
            "UPDATE jobs SET state=?, price=?, items=coalesce(?, items), finished_at_ms=?, error=? WHERE number="
            f"({_ONE.format(columns='number')})",
            (state, price, items, finished_at_ms, error[:DETAIL_CHARS_MAX], job_id, role, peer),
        )
        return changed == 1

    def get(self, job_id: JobId, role: JobRole, *, peer: PeerId | None = None) -> JobRecord | None:
        """With this peer, or with the last one that it was given to."""
        row = self._database.one(_ONE.format(columns=_COLUMNS), (job_id, role, peer))
        return _record_of(row) if row else None

    def newest(self, limit: int = 100) -> list[JobRecord]:
        """The newest jobs, newest first; at most `limits.API_LIST_ROWS_MAX`."""
        rows = self._database.all(
            f"SELECT {_COLUMNS} FROM jobs ORDER BY number DESC LIMIT ?",
            (min(max(limit, 0), API_LIST_ROWS_MAX),),
        )
        return [_record_of(row) for row in rows]

    def unfinished(self) -> tuple[JobRecord, ...]:
        """Jobs that a crash may have left behind, oldest first."""
        rows = self._database.all(f"SELECT {_COLUMNS} FROM jobs WHERE finished_at_ms IS NULL ORDER BY number")
        return tuple(_record_of(row) for row in rows)

    def without_outcome(self, provider: PeerId, limit: int) -> tuple[JobId, ...]:
        """As a client: the newest jobs at this provider of which we do not know whether it earned anything."""
        rows = self._database.all(
            "SELECT job_id FROM jobs WHERE peer_id=? AND role='client' AND state='unknown' ORDER BY number DESC LIMIT ?",
            (provider, max(limit, 0)),
        )
        return tuple(JobId(cast(bytes, row[0])) for row in rows)

    def note_wasted(self, job_id: JobId, client: PeerId, wasted: int) -> None:
        """As a provider: of this job, work worth so many nanogram was done for nothing."""
        self._database.execute(
            "UPDATE jobs SET wasted=? WHERE job_id=? AND role='provider' AND peer_id=?", (wasted, job_id, client)
        )

    def work_done(self, client: PeerId, limit: int) -> list[WorkDone]:
        """As a provider: the last jobs of this client that were done, or whose work was thrown away, oldest first."""
        rows = self._database.all(
            "SELECT job_id, finished_at_ms, price, wasted FROM jobs WHERE peer_id=? AND role='provider' "
            "AND finished_at_ms IS NOT NULL AND (state='done' OR wasted>0) ORDER BY number DESC LIMIT ?",
            (client, max(limit, 0)),
        )
        return [
            WorkDone(JobId(cast(bytes, job_id)), cast(int, at_ms), cast(int, price), cast(int, wasted))
            for job_id, at_ms, price, wasted in reversed(rows)
        ]

    def served(self) -> dict[ModelId, int]:
        """As a provider: of the jobs that are remembered, how many were done on each model."""
        rows = self._database.all(
            "SELECT model_id, count(*) FROM jobs WHERE role='provider' AND state='done' GROUP BY model_id"
        )
        return {ModelId(cast(str, row[0])): cast(int, row[1]) for row in rows}

    def prune(self) -> int:
        """Forget the oldest finished jobs beyond the bound; how many. `insert` does it now and then by itself."""
        return self._database.execute(
            "DELETE FROM jobs WHERE finished_at_ms IS NOT NULL "
            "AND number <= (SELECT number FROM jobs ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._kept_max,),
        )


def _row_of(record: JobRecord) -> Row:
    return (
        record.job_id,
        record.role,
        record.model_id,
        record.model_name,
        record.peer_id,
        int(record.tier),
        record.state,
        record.price,
        record.items,
        record.created_at_ms,
        record.finished_at_ms,
        record.error[:DETAIL_CHARS_MAX],
    )


def _record_of(row: Row) -> JobRecord:
    job_id, role, model_id, model_name, peer_id, tier, *rest = row
    state, price, items, created_at_ms, finished_at_ms, error = rest
    return JobRecord(
        job_id=JobId(cast(bytes, job_id)),
        role=cast(JobRole, role),
        model_id=ModelId(cast(str, model_id)),
        model_name=cast(str, model_name),
        peer_id=PeerId(cast(str, peer_id)),
        tier=Tier(cast(int, tier)),
        state=cast(JobState, state),
        price=cast(int, price),
        items=cast(int, items),
        created_at_ms=cast(int, created_at_ms),
        finished_at_ms=cast("int | None", finished_at_ms),
        error=cast(str, error),
    )
