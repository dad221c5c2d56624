"""The paying side of the local ledger: what it sets aside, signs, and counts as spent."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from cocoon_p2p.errors import SettlementError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import (
    AMOUNT_NANOGRAM_MAX,
    CHANNELS_KEPT_MAX,
    DEPOSIT_NANOGRAM_MAX,
    LOCAL_CHALLENGE_PERIOD_S,
    LOCAL_DEPOSIT_NANOGRAM,
)
from cocoon_p2p.sealing.signing import IdentityKey
from cocoon_p2p.settlement.channel import ChannelState, TopUp, apply
from cocoon_p2p.settlement.ledger import NO_CHANNEL, Channel, Ledger, Reservation, ReservationState
from cocoon_p2p.settlement.port import ReservationEnd
from cocoon_p2p.settlement.vouchers import VoucherSigner, sign_opening
from cocoon_p2p.units import LOCAL_NETWORK_ID, format_money
from cocoon_p2p.wire.voucher import CHANNEL_ID_BYTES, ChannelConfig, Payment, Voucher, local_channel_address

_RECLAIMED_AT_ONCE_MAX = 64
_FORGOTTEN_AT_ONCE = 64
_FAILURES_ON_A_CHANNEL_MAX = 3
"""After so many jobs in a row that came to nothing, the next one opens a new channel: the payee may have closed the old
one, or count otherwise than we do, and has no means to tell."""


class Payer:
    """Every method is one transaction. `close_channel(channel)` closes an idle channel of ours within it."""

    def __init__(
        self,
        ledger: Ledger,
        identity: IdentityKey,
        channel_key: IdentityKey,
        close_channel: Callable[[Channel], None],
    ) -> None:
        self._ledger = ledger
        self._identity = identity
        self._signer = VoucherSigner(channel_key, LOCAL_NETWORK_ID)
        self._close_channel = close_channel
        # Whether the payee has a channel's opening is known when a job that carried it was paid, and forgotten when a
        # job failed, since it may have failed for lack of the opening. So it need not survive a restart.
        self._opening_known: dict[bytes, bytes] = {}
        self._opening_sent: dict[tuple[JobId, PeerId], bytes] = {}
        self._failures: dict[bytes, int] = {}

    def reserve(self, payee: PeerId, job_id: JobId, max_total: int) -> bytes:
        if not 0 <= max_total <= AMOUNT_NANOGRAM_MAX:
            raise SettlementError(f"{max_total} nanogram cannot be set aside", code="AMOUNT")
        with self._ledger.transaction():
            known = self._ledger.reservation("payer", job_id, payee)
            if known is not None and known.state != "released":  # a released one may be tried again
                return self._repeated(known, max_total)
            if max_total == 0:
                self._ledger.save_reservation(Reservation("payer", job_id, payee, NO_CHANNEL, 0))
                return b""
            channel = self._with_reserved(self._funded_channel(payee, max_total), max_total)
            self._ledger.save_reservation(Reservation("payer", job_id, payee, channel.channel, max_total))
        return self._payment(channel, job_id)

    def reserve_more(self, payee: PeerId, job_id: JobId, total: int) -> bytes:
        with self._ledger.transaction():
            known = self._ledger.reservation("payer", job_id, payee)
            if known is None:
                raise SettlementError("nothing was set aside for this job", code="JOB_UNKNOWN")
            if known.state != "reserved":
                raise SettlementError(f"this job's reservation was {known.state} before", code="JOB_ENDED")
            if not known.amount <= total <= AMOUNT_NANOGRAM_MAX:
                raise SettlementError(f"{total} nanogram, where {known.amount} were set aside", code="AMOUNT")
            if total == known.amount:
                return self._repeated(known, total)
            more = total - known.amount
            channel = self._ledger.channel("payer", known.channel)
            if channel is None:  # it cost nothing until now
                channel = self._funded_channel(payee, more)
            else:
                channel = self._reaching(channel, channel.settled + channel.reserved + more)
            channel = self._with_reserved(channel, more)
            self._ledger.save_reservation(replace(known, channel=channel.channel, amount=total))
        return self._payment(channel, job_id)

    def _with_reserved(self, channel: Channel, amount: int) -> Channel:
        """The channel, which has the deposit for it, with `amount` more set aside and a voucher over it. Saved."""
        committed = channel.settled + channel.reserved + amount
        if committed > channel.cumulative:
            voucher = self._signer.sign(channel.channel, committed)
            channel = replace(channel, cumulative=committed, signature=voucher.signature)
        channel = replace(channel, reserved=channel.reserved + amount)
        self._ledger.save_channel(channel)
        return channel

    def _reaching(self, channel: Channel, needed: int) -> Channel:
        """The channel of a job in progress, its deposit at least `needed`: the job stays on it, even where no new one would."""
        if channel.payer_key != self._signer.public_key or needed > DEPOSIT_NANOGRAM_MAX:
            raise SettlementError(
                f"this job's channel cannot hold more than {_money(DEPOSIT_NANOGRAM_MAX)}",
                code="BALANCE",
                needed=needed,
                hint="begin anew: the next job opens another channel",
            )
        return self._topped_up(channel, needed) if needed > channel.state.deposit else channel

    def paid(self, job_id: JobId, price: int, payee: PeerId | None) -> None:
        with self._ledger.transaction():
            reservation = self._ledger.reservation("payer", job_id, payee)
            if reservation is None:
                raise SettlementError("nothing was set aside for this job", code="JOB_UNKNOWN")
            if reservation.state == "settled" and reservation.price == price:
                return
            if reservation.state in ("settled", "released"):
                raise SettlementError(f"this job's reservation was {reservation.state} before", code="JOB_ENDED")
            if not 0 <= price <= reservation.amount:
                raise SettlementError(
                    f"a price of {price} nanogram, where {reservation.amount} were set aside", code="PRICE"
                )
            self._ledger.save_reservation(replace(reservation, state="settled", price=price))
            if reservation.state == "reserved":
                self._settle(reservation, freed=reservation.amount, spent=price)
            else:
                self._settle(reservation, freed=0, spent=price - reservation.amount)
        self._failures.pop(reservation.channel, None)
        opening = self._opening_sent.pop((job_id, reservation.other), None)
        if opening is not None:
            self._opening_known[reservation.channel] = opening

    def end_reservation(self, job_id: JobId, end: ReservationEnd, payee: PeerId | None) -> None:
        with self._ledger.transaction():
            reservation = self._ledger.reservation("payer", job_id, payee)
            kept_as: ReservationState = "unknown" if end == "unknown" else "released"
            if reservation is None or reservation.state in ("settled", "released", kept_as):
                return
            self._ledger.save_reservation(replace(reservation, state=kept_as))
            if reservation.state == "unknown":  # and known now not to have been earned
                self._settle(reservation, freed=0, spent=-reservation.amount)
            else:
                self._settle(reservation, freed=reservation.amount, spent=reservation.amount if end == "unknown" else 0)
            if end == "released":
                self._count_failure(reservation)
            elif end == "refused":
                self._leave(reservation)
        self._opening_sent.pop((job_id, reservation.other), None)
        if end != "cancelled":
            self._opening_known.pop(reservation.channel, None)

    def _repeated(self, known: Reservation, max_total: int) -> bytes:
        if (known.amount, known.state) != (max_total, "reserved"):
            raise SettlementError("this job id was used for another reservation", code="JOB_ENDED")
        channel = self._ledger.channel("payer", known.channel)
        return self._payment(channel, known.job_id) if channel is not None else b""

    def _payment(self, channel: Channel, job_id: JobId) -> bytes:
        """The newest voucher always goes along: the payee may not have got the one before."""
        opening = b""
        if self._opening_known.get(channel.channel) != channel.opening:
            opening = self._opening_sent[job_id, channel.other] = channel.opening
        voucher = Voucher(channel.cumulative, channel.signature).encode()
        return Payment(channel.channel, opening, voucher).encode()

    def _settle(self, reservation: Reservation, *, freed: int, spent: int) -> None:
        """Move a reservation's money; `spent` is negative where it had been counted before."""
        channel = self._ledger.channel("payer", reservation.channel)
        if channel is None or channel.state.closed:
            return  # no channel: nothing was reserved. Closed: it was paid out as it was counted then
        channel = replace(channel, reserved=channel.reserved - freed, settled=channel.settled + spent)
        self._ledger.save_channel(channel)
        self._ledger.change_wallet(spent=spent)
        if channel.retired and not channel.reserved:
            self._close_channel(channel)

    def _count_failure(self, reservation: Reservation) -> None:
        channel = self._ledger.channel("payer", reservation.channel)
        if channel is None or channel.state.closed:
            return
        failures = self._failures[channel.channel] = self._failures.get(channel.channel, 0) + 1
        if failures >= _FAILURES_ON_A_CHANNEL_MAX:
            self._leave(reservation)

    def _leave(self, reservation: Reservation) -> None:
        """The next job opens a new channel."""
        self._failures.pop(reservation.channel, None)
        channel = self._ledger.channel("payer", reservation.channel)
        if channel is not None and not channel.state.closed:
            self._retire(channel)

    def _funded_channel(self, payee: PeerId, max_total: int) -> Channel:
        """A channel to `payee` whose deposit covers `max_total` more; opened or topped up as needed."""
        if max_total > DEPOSIT_NANOGRAM_MAX:
            raise SettlementError(
                f"a job of up to {_money(max_total)} is more than one channel may hold, {_money(DEPOSIT_NANOGRAM_MAX)}",
                code="BALANCE",
                needed=max_total,
                hint="lower the maximum price of the job, or make the job smaller",
            )
        for channel in self._ledger.open_channels("payer", payee):
            if channel.retired:
                continue
            needed = channel.settled + channel.reserved + max_total
            if channel.payer_key == self._signer.public_key and needed <= DEPOSIT_NANOGRAM_MAX:
                return self._topped_up(channel, needed) if needed > channel.state.deposit else channel
            self._retire(channel)  # full, or its key was replaced
        return self._opened(payee, max_total)

    def _topped_up(self, channel: Channel, needed: int) -> Channel:
        amount = self._affordable(
            needed - channel.state.deposit, at_most=DEPOSIT_NANOGRAM_MAX - channel.state.deposit, keep=channel
        )
        return self._deposited(channel, amount)

    def _opened(self, payee: PeerId, max_total: int) -> Channel:
        amount = self._affordable(max_total, at_most=DEPOSIT_NANOGRAM_MAX, keep=None)
        if self._ledger.count_channels() >= CHANNELS_KEPT_MAX:
            self._ledger.forget_closed_channels(_FORGOTTEN_AT_ONCE)
        config = ChannelConfig(
            payer_key=self._signer.public_key,
            payer=self._identity.peer_id,
            payee=payee,
            channel_id=secrets.token_bytes(CHANNEL_ID_BYTES),
            challenge_period_s=LOCAL_CHALLENGE_PERIOD_S,
            network_id=LOCAL_NETWORK_ID,
        ).encode()
        channel = Channel(
            role="payer",
            channel=local_channel_address(config),
            other=payee,
            config=config,
            payer_key=self._signer.public_key,
            opening=b"",
            state=ChannelState(LOCAL_CHALLENGE_PERIOD_S),
            retired=False,
            cumulative=0,
            signature=b"",
            settled=0,
            reserved=0,
        )
        return self._deposited(channel, amount)

    def _deposited(self, channel: Channel, amount: int) -> Channel:
        self._ledger.change_wallet(available=-amount)
        state = apply(channel.state, TopUp(amount), "payer", now_s=0).state
        opening = sign_opening(self._identity, channel.config, state.deposit)
        return replace(channel, state=state, opening=opening)

    def _affordable(self, needed: int, *, at_most: int, keep: Channel | None) -> int:
        """How much to deposit where `needed` is missing: a usual deposit, when the wallet has it."""
        available = self._ledger.wallet().available
        if available < needed:
            available = self._reclaim(needed, keep)
        if available < needed:
            raise SettlementError(
                f"the wallet has {_money(available)}, the job needs {_money(needed)} more",
                code="BALANCE",
                needed=needed,
                hint="wait for jobs in progress to end, lower the maximum price, or earn by serving a model",
            )
        return min(max(needed, LOCAL_DEPOSIT_NANOGRAM), available, at_most)

    def _reclaim(self, needed: int, keep: Channel | None) -> int:
        """Close idle channels, the one used longest ago first, until the wallet has enough. What it has then."""
        for channel in self._ledger.idle_channels("payer", _RECLAIMED_AT_ONCE_MAX):
            if keep is None or channel.channel != keep.channel:
                self._close_channel(channel)
            if self._ledger.wallet().available >= needed:
                break
        return self._ledger.wallet().available

    def _retire(self, channel: Channel) -> None:
        if channel.reserved:
            self._ledger.save_channel(replace(channel, retired=True))
        else:
            self._close_channel(channel)


def _money(amount: int) -> str:
    return format_money(amount, network_id=LOCAL_NETWORK_ID)
