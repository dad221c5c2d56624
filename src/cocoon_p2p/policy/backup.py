"""When a job that has no answer yet is given to one more provider: a backup request.

Giving every job to several providers at once multiplies the load; asking a second one only when the first is later than it
usually is cuts the slowest answers for a few percent of it (Dean and Barroso, The Tail at Scale, CACM 56(2), 2013, "hedged
requests").
"""

from __future__ import annotations

from cocoon_p2p.limits import (
    BACKUP_ANNOUNCED_FACTOR,
    BACKUP_LEARNED_FACTOR,
    BACKUP_MIN_S,
    BACKUP_TRANSFER_BYTES_PER_S,
    BACKUP_UNKNOWN_S,
)
from cocoon_p2p.policy.selection import LATENCY_UNKNOWN_MS, Candidate, Wanted


def backup_delay_s(wanted: Wanted, candidate: Candidate) -> float:
    """Seconds that a provider has to deliver before a second one gets the same job: behind what waits there (its queue, and
    jobs of ours that its announcement may not count yet), more than the work usually takes."""
    work_s = wanted.items * candidate.item_us / 1e6
    if candidate.expected_ms is not None:
        own_s = BACKUP_LEARNED_FACTOR * candidate.expected_ms / 1000
    elif candidate.item_us:
        latency_ms = LATENCY_UNKNOWN_MS if candidate.latency_ms is None else candidate.latency_ms
        own_s = BACKUP_ANNOUNCED_FACTOR * (latency_ms / 1000 + work_s)
    else:
        own_s = BACKUP_UNKNOWN_S
    waits_s = candidate.queue_ms / 1000 + candidate.in_flight * work_s
    transfer_s = wanted.input_bytes / BACKUP_TRANSFER_BYTES_PER_S
    return waits_s + max(own_s + transfer_s, BACKUP_MIN_S)
