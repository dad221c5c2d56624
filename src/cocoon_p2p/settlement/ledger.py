"""The ledger on disk: rows as frozen records, read and written within the caller's transactions. No rules stand here but
those that the tables themselves check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, cast

from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import RESERVATIONS_KEPT_MAX
from cocoon_p2p.settlement.channel import ChannelState
from cocoon_p2p.store.database import Database, Row, Transaction

Role = Literal["payer", "payee"]
ReservationState = Literal["reserved", "settled", "released", "unknown"]

NO_CHANNEL = b""
"""The channel of a reservation of nothing."""

_CHANNEL = (
    "role, channel, other, config, payer_key, opening, challenge_period_s, deposit, claimed, balance, closing_at, "
    "closed, retired, cumulative, signature, settled, reserved"
)
_RESERVATION = "role, job_id, other, channel, amount, state, price"
_SAVE_CHANNEL = f"REPLACE INTO channels ({_CHANNEL}) VALUES ({','.join('?' * 17)})"
_SAVE_RESERVATION = (
    f"INSERT INTO reservations ({_RESERVATION}) VALUES (?,?,?,?,?,?,?) "
    "ON CONFLICT (role, job_id, other) DO UPDATE SET channel=excluded.channel, amount=excluded.amount, "
    "state=excluded.state, price=excluded.price"
)
_PRUNE_EVERY = 256


@dataclass(frozen=True, slots=True)
class Wallet:
    """`available + what is locked in open channels + spent = grant + claimed`, always."""

    available: int
    spent: int
    earned: int
    claimed: int


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel as one of its sides keeps it."""

    role: Role
    channel: bytes
    other: PeerId
    config: bytes
    """Encoded wire.voucher.ChannelConfig."""
    payer_key: bytes
    opening: bytes
    """Encoded wire.voucher.SignedChannelOpen, the one with the largest deposit."""
    state: ChannelState
    retired: bool
    """As a payer: no new job uses it; it is closed when its last job ends."""
    cumulative: int
    """Of the highest voucher."""
    signature: bytes
    """Its signature; b"" before the first."""
    settled: int
    """As a payer: spent, and what was perhaps earned. As a payee: earned."""
    reserved: int

    @property
    def credit(self) -> int:
        """Signed for, and neither settled nor reserved."""
        return self.cumulative - self.settled - self.reserved


@dataclass(frozen=True, slots=True)
class Reservation:
    """One for each job and peer: a payer may give one job to several payees."""

    role: Role
    job_id: JobId
    other: PeerId
    channel: bytes
    amount: int
    state: ReservationState = "reserved"
    price: int = 0


class Ledger:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._reserved = 0

    def transaction(self) -> Transaction:
        return self._database.transaction()

    def close(self) -> None:
        self._database.close()

    def owner(self) -> str:
        """Peer id of the wallet's owner; "" before the first."""
        row = self._database.one("SELECT owner FROM wallet")
        assert row is not None
        return cast(str, row[0])

    def set_owner(self, owner: PeerId) -> None:
        self._database.execute("UPDATE wallet SET owner=?", (owner,))

    def wallet(self) -> Wallet:
        row = self._database.one("SELECT available, spent, earned, claimed FROM wallet")
        assert row is not None
        return Wallet(*cast("tuple[int, int, int, int]", row))

    def change_wallet(self, *, available: int = 0, spent: int = 0, earned: int = 0, claimed: int = 0) -> None:
        """Add these amounts, which may be negative."""
        if available or spent or earned or claimed:
            self._database.execute(
                "UPDATE wallet SET available=available+?, spent=spent+?, earned=earned+?, claimed=claimed+?",
                (available, spent, earned, claimed),
            )

    def channel(self, role: Role, channel: bytes) -> Channel | None:
        row = self._database.one(f"SELECT {_CHANNEL} FROM channels WHERE role=? AND channel=?", (role, channel))
        return _channel_of(row) if row else None

    def channels(self) -> list[Channel]:
        """All of them, the last used first."""
        return [_channel_of(row) for row in self._database.all(f"SELECT {_CHANNEL} FROM channels ORDER BY number DESC")]

    def open_channels(self, role: Role, other: PeerId) -> list[Channel]:
        """With one peer, the last used first."""
        rows = self._database.all(
            f"SELECT {_CHANNEL} FROM channels WHERE role=? AND other=? AND closed=0 ORDER BY number DESC",
            (role, other),
        )
        return [_channel_of(row) for row in rows]

    def idle_channels(self, role: Role, limit: int) -> list[Channel]:
        """Open and without a reservation, the one used longest ago first."""
        rows = self._database.all(
            f"SELECT {_CHANNEL} FROM channels WHERE role=? AND closed=0 AND reserved=0 ORDER BY number LIMIT ?",
            (role, limit),
        )
        return [_channel_of(row) for row in rows]

    def locked(self) -> int:
        """As a payer: what open channels hold and is not spent."""
        row = self._database.one(
            "SELECT coalesce(sum(deposit - settled), 0) FROM channels WHERE role='payer' AND closed=0"
        )
        assert row is not None
        return cast(int, row[0])

    def count_channels(self) -> int:
        row = self._database.one("SELECT count(*) FROM channels")
        assert row is not None
        return cast(int, row[0])

    def forget_closed_channels(self, limit: int) -> int:
        """Drop the tombstones that are oldest; how many."""
        return self._database.execute(
            "DELETE FROM channels WHERE number IN (SELECT number FROM channels WHERE closed=1 ORDER BY number LIMIT ?)",
            (limit,),
        )

    def save_channel(self, channel: Channel) -> None:
        state = channel.state
        self._database.execute(
            _SAVE_CHANNEL,
            (
                channel.role,
                channel.channel,
                channel.other,
                channel.config,
                channel.payer_key,
                channel.opening,
                state.challenge_period_s,
                state.deposit,
                state.claimed,
                state.balance,
                state.closing_at,
                state.closed,
                channel.retired,
                channel.cumulative,
                channel.signature,
                channel.settled,
                channel.reserved,
            ),
        )

    def reservation(self, role: Role, job_id: JobId, other: PeerId | None = None) -> Reservation | None:
        """With this peer, or the newest with anybody."""
        row = self._database.one(
            f"SELECT {_RESERVATION} FROM reservations WHERE role=? AND job_id=? AND other=coalesce(?, other) "
            "ORDER BY number DESC LIMIT 1",
            (role, job_id, other),
        )
        return _reservation_of(row) if row else None

    def save_reservation(self, reservation: Reservation) -> None:
        self._database.execute(
            _SAVE_RESERVATION,
            (
                reservation.role,
                reservation.job_id,
                reservation.other,
                reservation.channel,
                reservation.amount,
                reservation.state,
                reservation.price,
            ),
        )
        if self._reserved % _PRUNE_EVERY == 0:
            self.prune_reservations()
        self._reserved += 1

    def open_reservations(self) -> Iterable[Reservation]:
        """Not ended, oldest first."""
        rows = self._database.all(f"SELECT {_RESERVATION} FROM reservations WHERE state='reserved' ORDER BY number")
        return [_reservation_of(row) for row in rows]

    def prune_reservations(self, kept_max: int = RESERVATIONS_KEPT_MAX) -> int:
        """Forget the oldest ended ones beyond the bound; how many."""
        return self._database.execute(
            "DELETE FROM reservations WHERE state<>'reserved' "
            "AND number <= (SELECT number FROM reservations ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (kept_max,),
        )


def _channel_of(row: Row) -> Channel:
    role, channel, other, config, payer_key, opening, *numbers = row
    period, deposit, claimed, balance, closing_at, closed, retired, cumulative, signature, settled, reserved = numbers
    return Channel(
        role=cast(Role, role),
        channel=cast(bytes, channel),
        other=PeerId(cast(str, other)),
        config=cast(bytes, config),
        payer_key=cast(bytes, payer_key),
        opening=cast(bytes, opening),
        state=ChannelState(
            challenge_period_s=cast(int, period),
            deposit=cast(int, deposit),
            claimed=cast(int, claimed),
            balance=cast(int, balance),
            closing_at=cast(int, closing_at),
            closed=bool(closed),
        ),
        retired=bool(retired),
        cumulative=cast(int, cumulative),
        signature=cast(bytes, signature),
        settled=cast(int, settled),
        reserved=cast(int, reserved),
    )


def _reservation_of(row: Row) -> Reservation:
    role, job_id, other, channel, amount, state, price = row
    return Reservation(
        role=cast(Role, role),
        job_id=JobId(cast(bytes, job_id)),
        other=PeerId(cast(str, other)),
        channel=cast(bytes, channel),
        amount=cast(int, amount),
        state=cast(ReservationState, state),
        price=cast(int, price),
    )
