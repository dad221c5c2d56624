"""The port `Settlement`: channels, cumulative vouchers and balances, whatever stands behind them.

A payer has one channel to each payee it works with. A voucher says "of this channel's deposit you may take `cumulative`
in all"; it only ever grows. Credit is what was signed and not yet earned. protocols/voucher/1 has the rules.
`cocoon_p2p.testing.settlement_contract` holds the tests that every backend passes.

What a method did has been written when it returns, and survives `kill -9`; after `kept` it survives a power cut too.
All amounts are nanogram. All raise SettlementError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cocoon_p2p.ids import JobId, PeerId

ReservationEnd = Literal["released", "refused", "unknown", "cancelled"]


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One channel, seen from this node."""

    channel: bytes
    """32 bytes, the account id of the channel's address."""
    role: Literal["payer", "payee"]
    other: PeerId
    deposit: int
    cumulative: int
    """Highest amount signed by the payer (and known here)."""
    earned: int
    """Sum of the prices of the jobs whose receipts are settled."""
    reserved: int
    """Sum of the maximum prices of the jobs in progress."""
    claimed: int
    closed: bool


@dataclass(frozen=True, slots=True)
class Balance:
    network_id: int
    available: int
    """Not in any channel."""
    deposited: int
    """Locked in channels that we pay from."""
    spent: int
    earned: int
    claimed: int


@dataclass(frozen=True, slots=True)
class OpenReservation:
    """Set aside for a job that has not ended."""

    job_id: JobId
    role: Literal["payer", "payee"]
    """Ours."""
    other: PeerId


class Settlement(Protocol):
    @property
    def network_id(self) -> int:
        """0 for play money, −3 for TON's testnet, −239 for its mainnet."""

    # --- as a payer ---
    async def reserve(self, payee: PeerId, job_id: JobId, max_total: int) -> bytes:
        """Set `max_total` aside for a job, opening or topping up the channel when needed, and return the payment (the
        bytes of voucher/1 §4) that entitles the payee to it. Code BALANCE when the wallet has too little."""

    async def reserve_more(self, payee: PeerId, job_id: JobId, total: int) -> bytes:
        """Raise what is set aside for a job in progress to `total`, on the channel that it is paid over, and return the
        payment that entitles the payee to that. The same total again gives a payment as good. Code BALANCE when the wallet,
        or what one channel may hold, does not reach; JOB_UNKNOWN, JOB_ENDED, and AMOUNT for less than was set aside."""

    async def paid(self, job_id: JobId, price: int, *, payee: PeerId | None = None) -> None:
        """The job's receipt is verified: `price` (at most its reservation) was spent. Idempotent. `payee` is needed where
        one job was given to several; without it the last one that was reserved for is meant."""

    async def end_reservation(self, job_id: JobId, end: ReservationEnd, *, payee: PeerId | None = None) -> None:
        """ "released": the payee cannot have earned it, so the credit serves the next job. "cancelled": likewise, because we
        wanted it so; it says nothing against the channel. "refused": likewise, and the payee counts otherwise than we do
        (one of us lost a file), so the next job opens a new channel. "unknown": the payee may have earned it; it is counted
        as spent until a receipt, or "released", says otherwise. Idempotent. `payee` as in `paid`."""

    # --- as a payee ---
    async def accept_payment(self, payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> None:
        """Verify and keep a payment, and reserve `max_total` of the payer's credit; for a job that failed before, anew. Raises RemoteProtocolError for what
        an honest payer never sends (bad signature, stale or foreign voucher), SettlementError(code="CREDIT", with the
        cumulative amount needed in `needed`) when the credit does not cover the job."""

    async def accept_more(self, payer: PeerId, job_id: JobId, payment: bytes, total: int) -> None:
        """A further payment of a job in progress: verify and keep it, and raise the reservation to `total`. Repeated, it
        changes nothing. Raises as `accept_payment`, RemoteProtocolError (VOUCHER_FOREIGN) also for another channel than the
        job's, and SettlementError JOB_UNKNOWN, JOB_ENDED, and AMOUNT for less than is reserved. What was reserved before
        stays so."""

    async def kept(self) -> None:
        """Wait until the payments accepted so far would survive a power cut. The job goes on meanwhile; its result does
        not go out before. Code DATABASE when the disk fails."""

    async def earned(self, job_id: JobId, price: int, *, payer: PeerId | None = None) -> None:
        """The job is done and its receipt signed: `price` of its reservation is ours. Idempotent. `payer` tells jobs of one id
        apart, which clients choose; without it the last one that was paid for is meant."""

    async def release(self, job_id: JobId, *, payer: PeerId | None = None) -> None:
        """The job failed: the payer's credit is free again. What was earned stays earned. Idempotent. `payer` as in
        `earned`."""

    async def refund(self, job_id: JobId, *, payer: PeerId | None = None) -> None:
        """The job is not owed after all: what was earned with it is the payer's credit again, as if it had failed.
        Idempotent. What was claimed meanwhile pays for the payer's next jobs on the channel; from a closed channel, which
        has been paid out, nothing comes back. `payer` as in `earned`."""

    # --- both ---
    async def open_reservations(self) -> Sequence[OpenReservation]:
        """What was reserved and not ended, after a crash for instance."""

    async def claim(self, channel: bytes) -> int:
        """As a payee: take what was earned out of the channel. The amount."""

    async def close(self, channel: bytes) -> None: ...

    async def channels(self) -> Sequence[ChannelStatus]: ...

    async def balance(self) -> Balance: ...
