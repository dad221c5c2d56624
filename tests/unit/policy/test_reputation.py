from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoon_p2p.limits import STANDING_BAN_S, STANDING_HALF_LIFE_S, STANDING_PENALTY_MAX
from cocoon_p2p.net.port import Misbehaviour
from cocoon_p2p.policy.reputation import (
    FAULT_OF_CODE,
    FAULT_OF_MISBEHAVIOUR,
    WEIGHTS,
    Fault,
    Standing,
    after_fault,
    fault_of_code,
)

BAN_MS = round(STANDING_BAN_S * 1000)
HALF_LIFE_MS = round(STANDING_HALF_LIFE_S * 1000)
NOW = 1_700_000_000_000


def faults(fault: Fault, count: int, *, every_ms: int = 1000) -> tuple[Standing, int]:
    standing, now_ms = Standing(), NOW
    for _ in range(count):
        now_ms += every_ms
        standing = after_fault(standing, fault, now_ms)
    return standing, now_ms


@pytest.mark.parametrize("fault", Fault)
def test_one_fault_is_no_ban_and_enough_of_them_are(fault: Fault) -> None:
    assert not Standing().is_banned(NOW)
    assert faults(fault, 1)[0].penalty == WEIGHTS[fault]
    assert not faults(fault, 1)[0].is_banned(NOW + 1000)
    enough = int(STANDING_PENALTY_MAX / WEIGHTS[fault]) + 1
    standing, now_ms = faults(fault, enough)
    assert standing.is_banned(now_ms)


def test_faults_fade() -> None:
    standing = after_fault(Standing(), Fault.BAD_VOUCHER, NOW)
    assert standing.penalty_at(NOW + HALF_LIFE_MS) == pytest.approx(25.0)
    assert standing.penalty_at(NOW - HALF_LIFE_MS) == 50.0, "a clock that went back changes nothing"
    assert not faults(Fault.STALLED, 1000, every_ms=HALF_LIFE_MS)[0].banned_until_ms, "one in ten minutes, for a week"


def test_ban_ends_and_the_next_comes_sooner() -> None:
    standing, now_ms = faults(Fault.BAD_SIGNATURE, 3)
    assert standing.is_banned(now_ms + BAN_MS - 1)
    back_ms = now_ms + BAN_MS
    assert not standing.is_banned(back_ms)
    standing = after_fault(standing, Fault.BAD_SIGNATURE, back_ms)
    assert standing.is_banned(back_ms)


def test_bans_do_not_add_up_for_ever() -> None:
    standing, now_ms = faults(Fault.BAD_SIGNATURE, 10_000, every_ms=1)
    assert standing.banned_until_ms == now_ms + BAN_MS
    assert standing.penalty == STANDING_PENALTY_MAX


@given(st.lists(st.tuples(st.sampled_from(Fault), st.integers(-BAN_MS, BAN_MS)), max_size=50))
def test_penalty_stays_within_bounds(history: list[tuple[Fault, int]]) -> None:
    standing, now_ms = Standing(), NOW
    for fault, elapsed_ms in history:
        now_ms += elapsed_ms
        before = standing
        standing = after_fault(standing, fault, now_ms)
        assert WEIGHTS[fault] <= standing.penalty <= STANDING_PENALTY_MAX
        assert standing.banned_until_ms >= before.banned_until_ms


def test_codes() -> None:
    assert fault_of_code("VOUCHER_STALE") is Fault.STALE_VOUCHER
    assert fault_of_code("never heard of") is Fault.MALFORMED
    assert set(WEIGHTS) == set(Fault)
    assert all(code.isupper() for code in FAULT_OF_CODE)


def test_the_networks_misbehaviours_are_faults() -> None:
    assert set(FAULT_OF_MISBEHAVIOUR) == set(get_args(Misbehaviour))


def test_lost_standing_slows_before_it_bans() -> None:
    """Half, a quarter, an eighth of the rates; and all of them again when the faults have faded."""
    assert Standing().pace(NOW) == (1.0, 0.0)
    paces = [faults(Fault.FLOOD, count)[0].pace(NOW + 1000 * count)[0] for count in (2, 3, 6, 8)]
    assert paces == [1.0, 0.5, 0.25, 0.125]
    standing, now_ms = faults(Fault.FLOOD, 6)
    share, fading_s = standing.pace(now_ms)
    assert share < 1.0
    assert standing.pace(now_ms + round(fading_s * 1000) - 1000)[0] < 1.0
    assert standing.pace(now_ms + round(fading_s * 1000) + 1000) == (1.0, 0.0)


@given(st.sampled_from(Fault), st.integers(0, 60))
def test_standing_in_percent(fault: Fault, count: int) -> None:
    standing, now_ms = faults(fault, count)
    assert 0.0 <= standing.percent(now_ms) <= 100.0
    assert (standing.percent(now_ms) == 0.0) == standing.is_banned(now_ms)
    assert Standing().percent(now_ms) == 100.0
