"""The channel's state machine: each rule of the contract, and that money is neither made nor lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.settlement.channel import (
    ChannelMessage,
    ChannelRejected,
    ChannelState,
    Claim,
    FinishClose,
    Outcome,
    Party,
    PayeeClose,
    Redeemed,
    Rejection,
    StartClose,
    TopUp,
    apply,
    charge_rent,
)

OPEN = ChannelState(challenge_period_s=3600, deposit=100, claimed=30, balance=70)
CLOSING = replace(OPEN, closing_at=5000)
CLOSED = replace(OPEN, balance=0, closed=True)


@pytest.mark.parametrize(
    ("state", "message", "sender", "now_s", "expected"),
    [
        (OPEN, TopUp(5), "anyone", 0, Outcome(replace(OPEN, deposit=105, balance=75), 0, 0)),
        (OPEN, Claim(Redeemed(50)), "anyone", 0, Outcome(replace(OPEN, claimed=50, balance=50), 20, 0)),
        (OPEN, Claim(Redeemed(999)), "payee", 0, Outcome(replace(OPEN, claimed=100, balance=0), 70, 0)),
        (CLOSING, Claim(Redeemed(50)), "payee", 4999, Outcome(replace(CLOSING, claimed=50, balance=50), 20, 0)),
        (OPEN, PayeeClose(), "payee", 0, Outcome(CLOSED, 0, 70)),
        (OPEN, PayeeClose(Redeemed(30)), "payee", 0, Outcome(CLOSED, 0, 70)),
        (
            CLOSING,
            PayeeClose(Redeemed(90)),
            "payee",
            0,
            Outcome(replace(CLOSING, claimed=90, balance=0, closed=True), 60, 10),
        ),
        (OPEN, StartClose(), "payer", 1400, Outcome(CLOSING, 0, 0)),
        (CLOSING, FinishClose(), "anyone", 5000, Outcome(replace(CLOSING, balance=0, closed=True), 0, 70)),
        (charge_rent(OPEN, 60), Claim(Redeemed(80)), "payee", 0, Outcome(replace(OPEN, claimed=40, balance=0), 10, 0)),
    ],
)
def test_transitions(
    state: ChannelState, message: ChannelMessage, sender: Party, now_s: int, expected: Outcome
) -> None:
    assert apply(state, message, sender, now_s) == expected


@pytest.mark.parametrize(
    ("state", "message", "sender", "rejection"),
    [
        (CLOSED, TopUp(1), "payer", Rejection.CLOSED),
        (CLOSED, Claim(Redeemed(99)), "payee", Rejection.CLOSED),
        (CLOSED, PayeeClose(), "payee", Rejection.CLOSED),
        (CLOSED, StartClose(), "payer", Rejection.CLOSED),
        (CLOSED, FinishClose(), "payer", Rejection.CLOSED),
        (CLOSING, TopUp(1), "payer", Rejection.CLOSING),
        (OPEN, Claim(Redeemed(30)), "payee", Rejection.STALE_VOUCHER),
        (OPEN, Claim(Redeemed(50, Rejection.BAD_SIGNATURE)), "payee", Rejection.BAD_SIGNATURE),
        (OPEN, PayeeClose(Redeemed(29)), "payee", Rejection.STALE_VOUCHER),
        (OPEN, PayeeClose(Redeemed(50, Rejection.WRONG_NETWORK)), "payee", Rejection.WRONG_NETWORK),
        (OPEN, PayeeClose(), "payer", Rejection.NOT_PAYEE),
        (OPEN, PayeeClose(), "anyone", Rejection.NOT_PAYEE),
        (OPEN, StartClose(), "payee", Rejection.NOT_PAYER),
        (CLOSING, StartClose(), "payer", Rejection.CLOSING),
        (OPEN, FinishClose(), "payer", Rejection.NOT_CLOSING),
        (CLOSING, FinishClose(), "payer", Rejection.TOO_EARLY),
    ],
)
def test_rejections(state: ChannelState, message: ChannelMessage, sender: Party, rejection: Rejection) -> None:
    with pytest.raises(ChannelRejected) as raised:
        apply(state, message, sender, 4999)
    assert raised.value.rejection is rejection


AMOUNTS = st.integers(0, 1000)
VOUCHERS = st.builds(Redeemed, AMOUNTS, st.none() | st.just(Rejection.BAD_SIGNATURE))
MESSAGES = (
    st.builds(TopUp, AMOUNTS)
    | st.builds(Claim, VOUCHERS)
    | st.builds(PayeeClose, st.none() | VOUCHERS)
    | st.just(StartClose())
    | st.just(FinishClose())
)
STEPS = st.tuples(MESSAGES, st.sampled_from(("payer", "payee", "anyone")), st.integers(0, 40), AMOUNTS | st.just(0))


@given(st.lists(STEPS, max_size=40), st.integers(0, 60))
def test_money_is_neither_made_nor_lost(steps: list[tuple[ChannelMessage, Party, int, int]], period: int) -> None:
    state = ChannelState(period)
    now_s = 1
    paid_in = to_payee = to_payer = rent = promised = 0
    for message, sender, elapsed_s, charged in steps:
        now_s += elapsed_s
        if charged % 10 == 0:
            rent += min(charged, state.balance)
            state = charge_rent(state, charged)
        before = state
        try:
            outcome = apply(state, message, sender, now_s)
        except ChannelRejected:
            continue
        assert not before.closed
        match message:
            case TopUp():
                paid_in += message.amount
            case Claim(voucher) | PayeeClose(Redeemed() as voucher):
                promised = max(promised, voucher.cumulative)
        state = outcome.state
        to_payee += outcome.to_payee
        to_payer += outcome.to_payer
        assert outcome.to_payee >= 0
        assert outcome.to_payer >= 0
        assert state.deposit == paid_in
        assert state.claimed == to_payee <= min(promised, state.deposit)
        assert paid_in == state.balance + to_payee + to_payer + rent
        assert to_payer == 0 or state.closed
        assert not state.closed or state.balance == 0
