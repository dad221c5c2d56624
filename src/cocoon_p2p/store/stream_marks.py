"""What a client has acknowledged of the answers that come piece by piece: it is owed, and known after a crash too."""

from __future__ import annotations

from typing import cast

from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import JOBS_UNSETTLED_MAX
from cocoon_p2p.store.database import Database

_PRUNE_EVERY = 256


class StreamMarks:
    """The table of marks: of every stream that is not settled, at most `kept_max`."""

    def __init__(self, database: Database, *, kept_max: int = JOBS_UNSETTLED_MAX) -> None:
        self._database = database
        self._kept_max = kept_max
        self._added = 0

    def put(self, job_id: JobId, provider: PeerId, owed: bytes) -> None:
        """Replaces what was kept of this job at this provider."""
        with self._database.transaction():
            changed = self._database.execute(
                "UPDATE stream_marks SET owed=? WHERE job_id=? AND peer_id=?", (owed, job_id, provider)
            )
            if changed:
                return
            self._database.execute(
                "INSERT INTO stream_marks (job_id, peer_id, owed) VALUES (?,?,?)", (job_id, provider, owed)
            )
            if self._added % _PRUNE_EVERY == 0:
                self._prune()
            self._added += 1

    def get(self, job_id: JobId, provider: PeerId) -> bytes | None:
        row = self._database.one("SELECT owed FROM stream_marks WHERE job_id=? AND peer_id=?", (job_id, provider))
        return None if row is None else cast(bytes, row[0])

    def all(self) -> list[tuple[JobId, PeerId, bytes]]:
        """Job, provider, and what is owed; the oldest first."""
        rows = self._database.all("SELECT job_id, peer_id, owed FROM stream_marks ORDER BY number")
        return [(JobId(cast(bytes, job)), PeerId(cast(str, peer)), cast(bytes, owed)) for job, peer, owed in rows]

    def remove(self, job_id: JobId, provider: PeerId) -> None:
        """It is settled. Idempotent."""
        self._database.execute("DELETE FROM stream_marks WHERE job_id=? AND peer_id=?", (job_id, provider))

    def _prune(self) -> None:
        self._database.execute(
            "DELETE FROM stream_marks "
            "WHERE number <= (SELECT number FROM stream_marks ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self._kept_max,),
        )
