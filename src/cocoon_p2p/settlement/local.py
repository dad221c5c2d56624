"""The `local` settlement network: channels and vouchers of the real kind over play money, in one SQLite file a node.

There is no chain that both sides look at. Each has its own replica of every channel it takes part in: the payer's is
funded from a wallet that begins with `limits.LOCAL_GRANT_NANOGRAM`, the payee's is what the payer's signed opening says.
So nothing stops a payer from signing more play money than it was granted; that is what makes it play money.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cocoon_p2p.errors import ConfigError, SettlementError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.channel import Claim, FinishClose, PayeeClose, Redeemed, StartClose, apply
from cocoon_p2p.settlement.ledger import Channel, Ledger
from cocoon_p2p.settlement.ledger_schema import LEDGER_SCHEMA
from cocoon_p2p.settlement.payee import Payee
from cocoon_p2p.settlement.payer import Payer
from cocoon_p2p.settlement.port import Balance, ChannelStatus, OpenReservation, ReservationEnd
from cocoon_p2p.store.database import open_database
from cocoon_p2p.store.flushing import Flusher
from cocoon_p2p.units import LOCAL_NETWORK_ID


class LocalSettlement:
    """The port `Settlement` over a ledger file. Made by `open_local_settlement`."""

    def __init__(self, ledger: Ledger, flusher: Flusher, identity: IdentityKey, channel_key: IdentityKey) -> None:
        self._ledger = ledger
        self._flusher = flusher
        self._payer = Payer(ledger, identity, channel_key, self._close_as_payer)
        self._payee = Payee(ledger, identity.peer_id, self._close_as_payee)

    @property
    def network_id(self) -> int:
        return LOCAL_NETWORK_ID

    async def reserve(self, payee: PeerId, job_id: JobId, max_total: int) -> bytes:
        """See the port. b"" for a job that costs nothing."""
        return self._payer.reserve(payee, job_id, max_total)

    async def reserve_more(self, payee: PeerId, job_id: JobId, total: int) -> bytes:
        """See the port."""
        return self._payer.reserve_more(payee, job_id, total)

    async def paid(self, job_id: JobId, price: int, *, payee: PeerId | None = None) -> None:
        """See the port. Also raises codes JOB_UNKNOWN, JOB_ENDED (paid otherwise, or released before) and PRICE."""
        self._payer.paid(job_id, price, payee)

    async def end_reservation(self, job_id: JobId, end: ReservationEnd, *, payee: PeerId | None = None) -> None:
        """See the port. A job that is not known, or was paid, is left as it is; "unknown" may become "released"."""
        self._payer.end_reservation(job_id, end, payee)

    async def accept_payment(self, payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> None:
        """See the port. RemoteProtocolError: MALFORMED, BOUND, UNKNOWN_TAG, CHANNEL_SIGNATURE, VOUCHER_SIGNATURE,
        VOUCHER_STALE, VOUCHER_FOREIGN, DEPOSIT, REPLAY. SettlementError, all retryable: CREDIT, CHANNEL_UNKNOWN
        (the next payment brings the opening by itself), CHANNEL_CLOSED, CHANNELS."""
        self._payee.accept_payment(payer, job_id, payment, max_total)

    async def accept_more(self, payer: PeerId, job_id: JobId, payment: bytes, total: int) -> None:
        """See the port."""
        self._payee.accept_more(payer, job_id, payment, total)

    async def kept(self) -> None:
        await self._flusher.flush()

    async def earned(self, job_id: JobId, price: int, *, payer: PeerId | None = None) -> None:
        """See the port. Also raises codes JOB_UNKNOWN, JOB_ENDED (earned otherwise, or released before) and PRICE."""
        self._payee.earned(job_id, price, payer)

    async def release(self, job_id: JobId, *, payer: PeerId | None = None) -> None:
        self._payee.release(job_id, payer)

    async def refund(self, job_id: JobId, *, payer: PeerId | None = None) -> None:
        self._payee.refund(job_id, payer)

    async def open_reservations(self) -> Sequence[OpenReservation]:
        return tuple(OpenReservation(each.job_id, each.role, each.other) for each in self._ledger.open_reservations())

    async def claim(self, channel: bytes) -> int:
        """See the port. 0 when there is nothing new to claim."""
        with self._ledger.transaction():
            ours = self._ledger.channel("payee", channel)
            if ours is None:
                raise SettlementError("no channel of this address pays us", code="CHANNEL_UNKNOWN")
            claimed = self._claimed(ours)
            self._ledger.save_channel(claimed)
            return claimed.state.claimed - ours.state.claimed

    async def close(self, channel: bytes) -> None:
        """As its payer: what was not spent comes back to the wallet. As its payee: what was earned is claimed first.
        Idempotent. Code IN_FLIGHT while jobs are in progress on it."""
        with self._ledger.transaction():
            sides = [side for role in ("payee", "payer") if (side := self._ledger.channel(role, channel)) is not None]
            if not sides:
                raise SettlementError("there is no channel of this address", code="CHANNEL_UNKNOWN")
            for side in sides:
                if side.reserved:
                    raise SettlementError(
                        "jobs are in progress on this channel; close it when they have ended",
                        code="IN_FLIGHT",
                        retryable=True,
                    )
                if side.state.closed:
                    continue
                if side.role == "payer":
                    self._close_as_payer(side)
                else:
                    self._close_as_payee(side)

    async def channels(self) -> Sequence[ChannelStatus]:
        return channels_of(self._ledger)

    async def balance(self) -> Balance:
        return balance_of(self._ledger)

    def _claimed(self, channel: Channel) -> Channel:
        """As a payee. Not saved yet."""
        if channel.state.closed or channel.settled <= channel.state.claimed:
            return channel
        # the payee holds a voucher over at least this much, and takes no more of it than it earned
        outcome = apply(channel.state, Claim(Redeemed(channel.settled)), "payee", _now_s())
        self._ledger.change_wallet(available=outcome.to_payee, claimed=outcome.to_payee)
        return replace(channel, state=outcome.state)

    def _close_as_payee(self, channel: Channel) -> None:
        claimed = self._claimed(channel)
        # what goes back to the payer shows in the payer's own ledger when it closes its side
        outcome = apply(claimed.state, PayeeClose(), "payee", _now_s())
        self._ledger.save_channel(replace(claimed, state=outcome.state))

    def _close_as_payer(self, channel: Channel) -> None:
        """The payee's part is handed over first, as anybody may do with a voucher on a chain; the rest comes back."""
        state, now_s = channel.state, _now_s()
        if channel.settled > state.claimed:
            state = apply(state, Claim(Redeemed(channel.settled)), "payer", now_s).state
        state = apply(state, StartClose(), "payer", now_s).state
        outcome = apply(state, FinishClose(), "payer", now_s + state.challenge_period_s)
        self._ledger.save_channel(replace(channel, state=outcome.state))
        self._ledger.change_wallet(available=outcome.to_payer)


@contextmanager
def open_local_settlement(
    path: Path, identity: IdentityKey, channel_key: IdentityKey, *, threads: bool = True
) -> Iterator[LocalSettlement]:
    """Open the ledger in the file `path`, making it (with the grant of play money) when it does not exist. Without
    `threads` the disk is waited for on the spot, as a virtual clock needs it.

    Raises ConfigError, naming the file and what to do, when it is damaged, too new, or another identity's.
    """
    with open_database(path, LEDGER_SCHEMA, failure=SettlementError) as database:
        ledger = Ledger(database)
        with ledger.transaction():
            owner = ledger.owner()
            if not owner:
                ledger.set_owner(identity.peer_id)
            elif owner != identity.peer_id:
                raise ConfigError(
                    f"{path} is the ledger of {owner}, but this node's identity is {identity.peer_id}",
                    hint="put the identity's key file back, or move the ledger away",
                )
        yield LocalSettlement(ledger, Flusher(database, in_thread=threads), identity, channel_key)


def read_local_settlement(path: Path) -> tuple[Balance, Sequence[ChannelStatus]]:
    """What a ledger says, without keys and without changing it; a running node may have it open. A file that does not
    exist reads as a new ledger. Raises ConfigError, SettlementError."""
    with open_database(path, LEDGER_SCHEMA, failure=SettlementError, read_only=True) as database:
        ledger = Ledger(database)
        return balance_of(ledger), channels_of(ledger)


def balance_of(ledger: Ledger) -> Balance:
    wallet = ledger.wallet()
    return Balance(
        network_id=LOCAL_NETWORK_ID,
        available=wallet.available,
        deposited=ledger.locked(),
        spent=wallet.spent,
        earned=wallet.earned,
        claimed=wallet.claimed,
    )


def channels_of(ledger: Ledger) -> tuple[ChannelStatus, ...]:
    """The last used first."""
    return tuple(
        ChannelStatus(
            channel=channel.channel,
            role=channel.role,
            other=channel.other,
            deposit=channel.state.deposit,
            cumulative=channel.cumulative,
            earned=channel.settled,
            reserved=channel.reserved,
            claimed=channel.state.claimed,
            closed=channel.state.closed,
        )
        for channel in ledger.channels()
    )


def _now_s() -> int:
    return int(time.time())
