"""The paid side of the local ledger: what it believes a payer, and what it has earned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cocoon_p2p.errors import RemoteProtocolError, SettlementError
from cocoon_p2p.ids import JobId, PeerId
from cocoon_p2p.limits import CHANNELS_KEPT_MAX, CHANNELS_PER_PAYER_MAX, DEPOSIT_NANOGRAM_MAX
from cocoon_p2p.settlement.channel import ChannelState, TopUp, apply
from cocoon_p2p.settlement.ledger import NO_CHANNEL, Channel, Ledger, Reservation
from cocoon_p2p.settlement.vouchers import verify_opening, verify_voucher
from cocoon_p2p.units import LOCAL_NETWORK_ID
from cocoon_p2p.wire.voucher import Payment, decode_payment, decode_voucher

_ROOM_MADE = 64


class Payee:
    """Every method is one transaction. `close_channel(channel)` claims what was earned and closes within it."""

    def __init__(self, ledger: Ledger, peer_id: PeerId, close_channel: Callable[[Channel], None]) -> None:
        self._ledger = ledger
        self._peer_id = peer_id
        self._close_channel = close_channel

    def accept_payment(self, payer: PeerId, job_id: JobId, payment: bytes, max_total: int) -> None:
        with self._ledger.transaction():
            # Ids are drawn by clients: another's job of this id is another job.
            known = self._ledger.reservation("payee", job_id, payer)
            if known is not None:
                if (known.amount, known.state) == (max_total, "reserved"):
                    return
                if known.state != "released":  # a job that failed may come again
                    raise RemoteProtocolError("this job id was used before", code="REPLAY")
            if not payment and max_total == 0:
                self._ledger.save_reservation(Reservation("payee", job_id, payer, NO_CHANNEL, 0))
                return
            received = decode_payment(payment)
            channel = self._channel(payer, received)
            reservation = Reservation("payee", job_id, payer, channel.channel, max_total)
            missing = self._take(channel, received, reservation, max_total)
        if missing:
            raise missing

    def accept_more(self, payer: PeerId, job_id: JobId, payment: bytes, total: int) -> None:
        with self._ledger.transaction():
            known = self._ledger.reservation("payee", job_id, payer)
            if known is None:
                raise SettlementError("no payment was accepted for this job", code="JOB_UNKNOWN")
            if known.state != "reserved":
                raise SettlementError(f"this job's reservation was {known.state} before", code="JOB_ENDED")
            if total < known.amount:
                raise SettlementError(f"{total} nanogram, where {known.amount} are reserved", code="AMOUNT")
            if total == known.amount:
                return
            received = decode_payment(payment)
            if known.channel not in (NO_CHANNEL, received.channel):
                raise RemoteProtocolError("the payment is of another channel than the job's", code="VOUCHER_FOREIGN")
            channel = self._channel(payer, received)
            reservation = replace(known, channel=channel.channel, amount=total)
            missing = self._take(channel, received, reservation, total - known.amount)
        if missing:
            raise missing

    def _take(
        self, channel: Channel, received: Payment, reservation: Reservation, amount: int
    ) -> SettlementError | None:
        """Reserve `amount` more of the channel's credit; what to raise, once that is written, where it does not reach."""
        channel = self._with_voucher(channel, received.voucher, amount)
        missing = amount - channel.credit
        if missing <= 0:
            channel = replace(channel, reserved=channel.reserved + amount)
            self._ledger.save_reservation(reservation)
        self._ledger.save_channel(channel)  # the voucher is worth keeping even when it is too small
        if missing <= 0:
            return None
        needed = channel.cumulative + missing
        return SettlementError(
            f"the vouchers of this channel reach {channel.cumulative} nanogram; the job needs {needed}",
            code="CREDIT",
            retryable=True,
            needed=needed,
        )

    def earned(self, job_id: JobId, price: int, payer: PeerId | None = None) -> None:
        with self._ledger.transaction():
            reservation = self._ledger.reservation("payee", job_id, payer)
            if reservation is None:
                raise SettlementError("no payment was accepted for this job", code="JOB_UNKNOWN")
            if reservation.state == "settled" and reservation.price == price:
                return
            if reservation.state != "reserved":
                raise SettlementError(f"this job's reservation was {reservation.state} before", code="JOB_ENDED")
            if not 0 <= price <= reservation.amount:
                raise SettlementError(
                    f"a price of {price} nanogram, where {reservation.amount} were reserved", code="PRICE"
                )
            self._ledger.save_reservation(replace(reservation, state="settled", price=price))
            self._free(reservation, earned=price)

    def release(self, job_id: JobId, payer: PeerId | None = None) -> None:
        """What was earned stays earned."""
        with self._ledger.transaction():
            reservation = self._ledger.reservation("payee", job_id, payer)
            if reservation is None or reservation.state != "reserved":
                return
            self._ledger.save_reservation(replace(reservation, state="released"))
            self._free(reservation, earned=0)

    def refund(self, job_id: JobId, payer: PeerId | None = None) -> None:
        with self._ledger.transaction():
            reservation = self._ledger.reservation("payee", job_id, payer)
            if reservation is None or reservation.state != "settled":
                self.release(job_id, payer)
                return
            self._ledger.save_reservation(replace(reservation, state="released", price=0))
            channel = self._ledger.channel("payee", reservation.channel)
            if channel is None or channel.state.closed:
                return  # it cost nothing; or it was paid out as it was counted then
            # More may have been claimed than is earned now: the payer's credit grows all the same, and the next claim waits.
            self._ledger.save_channel(replace(channel, settled=channel.settled - reservation.price))
            self._ledger.change_wallet(earned=-reservation.price)

    def _free(self, reservation: Reservation, *, earned: int) -> None:
        channel = self._ledger.channel("payee", reservation.channel)
        if channel is None:
            return  # nothing was reserved
        self._ledger.save_channel(
            replace(channel, reserved=channel.reserved - reservation.amount, settled=channel.settled + earned)
        )
        self._ledger.change_wallet(earned=earned)

    def _channel(self, payer: PeerId, received: Payment) -> Channel:
        """Our replica of the channel, after what its opening says. Not saved yet."""
        channel = self._ledger.channel("payee", received.channel)
        if channel is not None and channel.other != payer:
            raise RemoteProtocolError("the channel is another payer's", code="VOUCHER_FOREIGN")
        if channel is not None and channel.state.closed:
            raise SettlementError("the channel is closed; a new one is needed", code="CHANNEL_CLOSED", retryable=True)
        if channel is not None and received.open in (b"", channel.opening):
            return channel
        if not received.open:
            raise SettlementError(
                "the channel is not known here; its opening must come along", code="CHANNEL_UNKNOWN", retryable=True
            )
        opened, config = verify_opening(
            received.open,
            channel=received.channel,
            payer=payer,
            payee=self._peer_id,
            network_id=LOCAL_NETWORK_ID,
            deposit_max=DEPOSIT_NANOGRAM_MAX,
        )
        if channel is None:
            self._make_room(payer)
            channel = Channel(
                role="payee",
                channel=received.channel,
                other=payer,
                config=opened.config,
                payer_key=config.payer_key,
                opening=b"",
                state=ChannelState(config.challenge_period_s),
                retired=False,
                cumulative=0,
                signature=b"",
                settled=0,
                reserved=0,
            )
        added = opened.deposit - channel.state.deposit
        if added <= 0:
            return channel  # of two payments the older came later
        state = apply(channel.state, TopUp(added), "payer", now_s=0).state
        return replace(channel, state=state, opening=received.open)

    def _with_voucher(self, channel: Channel, raw: bytes, max_total: int) -> Channel:
        """The channel after the voucher that came along, if one did."""
        # SPEC voucher/1 §4.2
        if not raw:
            return channel
        voucher = decode_voucher(raw)
        if (voucher.cumulative, voucher.signature) == (channel.cumulative, channel.signature):
            return channel
        verify_voucher(voucher, payer_key=channel.payer_key, network_id=LOCAL_NETWORK_ID, channel=channel.channel)
        if voucher.cumulative > channel.state.deposit:
            raise RemoteProtocolError(
                f"a voucher over {voucher.cumulative} nanogram for a deposit of {channel.state.deposit}", code="DEPOSIT"
            )
        if voucher.cumulative > channel.cumulative:
            return replace(channel, cumulative=voucher.cumulative, signature=voucher.signature)
        # Payments of jobs that begin together may overtake each other; the credit of an honest payer covers both.
        if voucher.cumulative < channel.cumulative and max_total > channel.credit:
            raise RemoteProtocolError(
                f"a voucher over {voucher.cumulative} nanogram came before, {channel.cumulative} are known",
                code="VOUCHER_STALE",
            )
        return channel

    def _make_room(self, payer: PeerId) -> None:
        """Keep the number of channels within bounds: with this payer, and in all."""
        ours = self._ledger.open_channels("payee", payer)
        if len(ours) >= CHANNELS_PER_PAYER_MAX:
            idle = [channel for channel in ours if not channel.reserved]
            if not idle:
                raise SettlementError(
                    f"{len(ours)} channels of this payer have jobs in progress", code="CHANNELS", retryable=True
                )
            self._close_channel(idle[-1])
        if self._ledger.count_channels() >= CHANNELS_KEPT_MAX:
            for channel in self._ledger.idle_channels("payee", _ROOM_MADE):
                self._close_channel(channel)
            self._ledger.forget_closed_channels(_ROOM_MADE)
