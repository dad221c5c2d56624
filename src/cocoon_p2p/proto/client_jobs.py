"""What one provider's sessions know of each other: a client may have several streams, and its jobs are counted on all of them
together. An accepted job goes on in one place only, since it is paid with one reservation. Pure."""

from __future__ import annotations

from collections import Counter

from cocoon_p2p.ids import JobId, PeerId


class ClientJobs:
    """Emptied by the sessions as their jobs end, so it is as large as they are."""

    # SPEC job/1 §2
    def __init__(self) -> None:
        self._open: Counter[PeerId] = Counter()
        self._accepted: set[tuple[PeerId, JobId]] = set()

    def count(self, client: PeerId) -> int:
        """Jobs that are quoted or running."""
        return self._open[client]

    def opened(self, client: PeerId) -> None:
        self._open[client] += 1

    def closed(self, client: PeerId) -> None:
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    def is_accepted(self, client: PeerId, job_id: JobId) -> bool:
        return (client, job_id) in self._accepted

    def accepted(self, client: PeerId, job_id: JobId) -> None:
        self._accepted.add((client, job_id))

    def ended(self, client: PeerId, job_id: JobId) -> None:
        self._accepted.discard((client, job_id))
