"""Bounds of what is kept: money, standing, the databases, the local API."""

from __future__ import annotations

from cocoon_p2p.limits.jobs import CLOSED_JOBS_REMEMBERED_MAX, JOB_BYTES_MAX
from cocoon_p2p.limits.sizes import KIB, MIB

# --- money -----------------------------------------------------------------------------------------------------------
AMOUNT_NANOGRAM_MAX = 2**63 - 1
"""Fits SQLite's signed 64-bit integer; 9.2 billion GRAM, more than there are."""
LOCAL_GRANT_NANOGRAM = 10 * 1_000_000_000
"""Play money that a new `local` wallet begins with."""
LOCAL_DEPOSIT_NANOGRAM = 500_000_000
"""0.5 GRAM a channel, the least of the recommended 0.5–5 GRAM."""
DEPOSIT_NANOGRAM_MAX = 20 * 1_000_000_000
"""Our own client refuses to lock more in one channel while the contract is unaudited."""


# --- standing --------------------------------------------------------------------------------------------------------
STANDING_BAN_S = 600.0


# --- local API -------------------------------------------------------------------------------------------------------
API_BODY_BYTES_MAX = JOB_BYTES_MAX + MIB
API_LIST_ROWS_MAX = 1000


# --- store/, settlement/ and policy/ ---------------------------------------------------------------------------------
JOBS_KEPT_MAX = 20_000
"""Finished jobs that are remembered, at about 300 bytes each; they are for people to look at."""
RECEIPTS_KEPT_MAX = 200_000
"""Evidence, so more of them: at about 600 bytes each 120 MB."""
RECEIPTS_CHECKED_MAX = 4096
"""Receipts that no client has signed, read at the start: 0.1 s. Few are unsigned, since a client signs at once."""
DAMAGED_ROWS_KEPT_MAX = 10_000
"""Rows that were set aside because nobody can read them, at about 1 KB each."""
DAMAGED_ROWS_TOLD_MS = 7 * 86_400_000
"""For a week `status` and `doctor` speak of them."""
DATABASE_CHECK_BYTES_MAX = 64 * MIB
"""A database up to this size is checked as a whole when it is opened: 0.04 s (measured)."""
DATABASE_LOCK_TIMEOUT_S = 1.0
"""Nobody but the CLI, which only reads, shares a database with the node."""
DATABASE_WAL_BYTES_KEPT_MAX = 16 * MIB
LOCAL_CHALLENGE_PERIOD_S = 0
"""Play money has no chain on which a payee could object in the meantime."""
CHANNELS_PER_PAYER_MAX = 16
"""Open channels that one payer may have with us: an honest one needs one, and a new one when it lost its ledger."""
CHANNELS_KEPT_MAX = 100_000
"""Channels in a ledger, at about 800 bytes each 80 MB; beyond that the idle one that was used longest ago goes."""
RESERVATIONS_KEPT_MAX = CLOSED_JOBS_REMEMBERED_MAX
"""Ended reservations that are remembered, so that a repeated job id is known."""
SELECTION_SAMPLE = 5
"""Random candidates out of which the best is taken: enough to find a good one, few enough that not
everybody runs to the same."""
STANDING_HALF_LIFE_S = 600.0
"""A fault weighs half after ten minutes, as long as a ban lasts."""
STANDING_PENALTY_MAX = 100.0
"""The sum of faults that gets a peer banned; `policy.reputation.WEIGHTS` is in its hundredths."""
API_HEAD_BYTES_MAX = 64 * KIB
"""JSON of a request: names, paths and numbers. A result's JSON holds a receipt and a timeline, about 2 KB."""
