"""The voucher channel as a pure state machine: the rules of the contract on The Open Network, in Python.

One payer, one payee. The payer's deposit grows by top-ups; the payee takes what vouchers promise it; in the end what is
left goes back to the payer. `apply` is the whole contract: a state, a message, its sender and the time give the next
state and what is paid out, or `ChannelRejected` with the contract's exit code. Fees and gas are left to the chain.
The `local` backend runs its money through this machine, and a property test holds it against the compiled contract.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Literal, assert_never

Party = Literal["payer", "payee", "anyone"]
"""Who sends a message; "anyone" is neither of the two."""


class Rejection(IntEnum):
    """The contract's exit codes."""

    NOT_PAYER = 100
    NOT_PAYEE = 101
    CLOSED = 103
    CLOSING = 104
    NOT_CLOSING = 105
    TOO_EARLY = 106
    BAD_SIGNATURE = 107
    STALE_VOUCHER = 108
    WRONG_CHANNEL = 109
    WRONG_NETWORK = 110
    WRONG_TAG = 111


class ChannelRejected(Exception):
    """The contract would have thrown `rejection`; the state is unchanged."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.name)
        self.rejection = rejection


@dataclass(frozen=True, slots=True)
class ChannelState:
    """A new channel is `ChannelState(challenge_period_s=…)`. Amounts are nanogram, times Unix seconds."""

    challenge_period_s: int
    deposit: int = 0
    """All top-ups together; never decreases."""
    claimed: int = 0
    """Paid to the payee so far."""
    balance: int = 0
    """What the account holds of the deposit. Rent may take from it, so it can be less than deposit − claimed."""
    closing_at: int = 0
    """0 while open; from then on FinishClose works."""
    closed: bool = False
    """A tombstone: the account stays, so that reopening replays nothing."""


@dataclass(frozen=True, slots=True)
class Redeemed:
    """A voucher within a message. Whoever builds the message has checked its signature and fields, and reports in
    `fault` what the contract would find first."""

    cumulative: int
    fault: Rejection | None = None


@dataclass(frozen=True, slots=True)
class TopUp:
    """Anyone may add to the deposit."""

    amount: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Anyone may hand in a voucher; only the payee is paid, so a watchtower needs no key."""

    voucher: Redeemed


@dataclass(frozen=True, slots=True)
class PayeeClose:
    """The payee gives the channel up at once, with a last voucher or without."""

    voucher: Redeemed | None = None


@dataclass(frozen=True, slots=True)
class StartClose:
    """The payer wants its rest back; the payee has the challenge period to claim."""


@dataclass(frozen=True, slots=True)
class FinishClose:
    """Anyone, after the challenge period."""


ChannelMessage = TopUp | Claim | PayeeClose | StartClose | FinishClose


@dataclass(frozen=True, slots=True)
class Outcome:
    """`to_payee + to_payer` is what left the account; the new balance is what remains."""

    state: ChannelState
    to_payee: int = 0
    to_payer: int = 0


def apply(state: ChannelState, message: ChannelMessage, sender: Party, now_s: int) -> Outcome:
    """Run one message. Raises ChannelRejected. The checks are in the contract's order, so the exit codes agree too."""
    if state.closed:
        raise ChannelRejected(Rejection.CLOSED)
    match message:
        case TopUp():
            return _top_up(state, message)
        case Claim():
            return _claim(state, message)
        case PayeeClose():
            return _payee_close(state, message, sender)
        case StartClose():
            return _start_close(state, sender, now_s)
        case FinishClose():
            return _finish_close(state, now_s)
    assert_never(message)


def charge_rent(state: ChannelState, amount: int) -> ChannelState:
    """What storage on a chain costs; the payee bears it last, when there is nothing else left."""
    return replace(state, balance=max(state.balance - amount, 0))


def _top_up(state: ChannelState, message: TopUp) -> Outcome:
    # a closing channel takes no more money: the payer could not be sure of the way back
    if state.closing_at:
        raise ChannelRejected(Rejection.CLOSING)
    return Outcome(replace(state, deposit=state.deposit + message.amount, balance=state.balance + message.amount))


def _claim(state: ChannelState, message: Claim) -> Outcome:
    total = _entitlement(state, message.voucher)
    if total <= state.claimed:
        raise ChannelRejected(Rejection.STALE_VOUCHER)
    pay = min(total - state.claimed, state.balance)
    return Outcome(replace(state, claimed=state.claimed + pay, balance=state.balance - pay), to_payee=pay)


def _payee_close(state: ChannelState, message: PayeeClose, sender: Party) -> Outcome:
    if sender != "payee":
        raise ChannelRejected(Rejection.NOT_PAYEE)
    pay = 0
    if message.voucher is not None:
        total = _entitlement(state, message.voucher)
        if total < state.claimed:
            raise ChannelRejected(Rejection.STALE_VOUCHER)
        pay = min(total - state.claimed, state.balance)
    closed = replace(state, claimed=state.claimed + pay, balance=0, closed=True)
    return Outcome(closed, to_payee=pay, to_payer=state.balance - pay)


def _start_close(state: ChannelState, sender: Party, now_s: int) -> Outcome:
    if state.closing_at:
        raise ChannelRejected(Rejection.CLOSING)
    if sender != "payer":
        raise ChannelRejected(Rejection.NOT_PAYER)
    return Outcome(replace(state, closing_at=now_s + state.challenge_period_s))


def _finish_close(state: ChannelState, now_s: int) -> Outcome:
    if not state.closing_at:
        raise ChannelRejected(Rejection.NOT_CLOSING)
    if now_s < state.closing_at:
        raise ChannelRejected(Rejection.TOO_EARLY)
    return Outcome(replace(state, balance=0, closed=True), to_payer=state.balance)


def _entitlement(state: ChannelState, voucher: Redeemed) -> int:
    """What the payee may have in all by this voucher: never more than the deposit."""
    if voucher.fault is not None:
        raise ChannelRejected(voucher.fault)
    return min(voucher.cumulative, state.deposit)
