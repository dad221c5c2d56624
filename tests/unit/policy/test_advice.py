from __future__ import annotations

import pytest

from cocoon_p2p.errors import RefusalReason
from cocoon_p2p.ids import Tier
from cocoon_p2p.policy.advice import Refusal, duration, would_be_yes

R = RefusalReason


def no(reason: RefusalReason, needed: int | None = None, *, by_provider: bool = True, **more: object) -> Refusal:
    return Refusal(reason, needed, by_provider=by_provider, tier=Tier.SEALED, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        (no(R.PRICE, 1200), "runs at ≥ 1,200 nanogram: --max-price 1200"),
        (no(R.PRICE), None),
        (no(R.BUSY, 3600), "free in about 4 s"),
        (no(R.BUSY), "free again soon: it did not say when"),
        (no(R.TIER, offered={Tier.OPEN}), "needs tier ≤ open: --tier open"),
        (no(R.TIER, offered={Tier.ATTESTED}), "needs tier ≥ attested: --tier attested"),
        (no(R.TIER, offered=()), None),
        (no(R.LIMITS, 1024), "takes up to 1,024: split the job"),
        (no(R.STANDING, by_provider=False, reliability=0.317), "its reliability is 0.32: --min-reliability 0.31"),
        (no(R.STANDING), "takes jobs of this node again after a while"),
        (no(R.IDLE_POLICY, 3 * 3_600_000, back_at="22:00"), "serves again from 22:00 (in 3 h)"),
        (no(R.IDLE_POLICY), "serves again when its operator's rules allow it"),
        (no(R.NO_MODEL), None),
    ],
)
def test_what_would_make_it_a_yes(refusal: Refusal, advice: str | None) -> None:
    assert would_be_yes(refusal) == advice


@pytest.mark.parametrize("reason", list(RefusalReason))
@pytest.mark.parametrize("by_provider", [True, False])
def test_every_reason_has_an_answer(reason: RefusalReason, by_provider: bool) -> None:
    for needed in (None, 0, 1, 2**62):
        answer = would_be_yes(no(reason, needed, by_provider=by_provider))
        assert answer is None or (answer and len(answer) < 100)


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        (1, "1 s"),
        (4000, "4 s"),
        (4001, "5 s"),
        (90_000, "90 s"),
        (90_001, "2 min"),
        (5_400_001, "2 h"),
        (10**9, "12 days"),
    ],
)
def test_durations_are_rounded_up(ms: int, words: str) -> None:
    assert duration(ms) == words
